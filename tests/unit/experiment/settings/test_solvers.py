import jax.numpy as jnp
import optax
import pytest

from fedrecon.experiment import config as configs
from fedrecon.experiment.settings.sections import SettingError
from fedrecon.experiment.settings.solvers import Optimizer, Schedule, Solver
from fedrecon.experiment.settings.splits import Split


def test_every_split_builds_what_its_name_says():
    built = {
        cls.model_fields["name"].default: type(cls().build()).__name__ for cls in Split.__origin__.__args__
    }
    assert built.pop("none") == "NoSplit"
    assert all(name.title().replace("_", "") == cls for name, cls in built.items())


def test_settings_reach_the_splits():
    config = configs.load(None, ["algorithm.split.support=0.25", "evaluation.split.batch_size=7"])
    assert repr(config.algorithm.split.build()) == "RandomFraction(support=0.25)"
    assert repr(config.evaluation.split.build()) == "AlternateBatches(batch_size=7)"


def test_settings_reach_the_solver():
    settings = Solver(
        batch_size=3,
        epochs=2,
        max_steps=4,
        shuffle=True,
        reduction="sum",
        growing_epochs=True,
        optimizer=Optimizer(name="sgd", learning_rate=0.2, momentum=0.9),
    )
    assert repr(settings.build("here")) == (
        "Solver(sgd(learning_rate=0.2, momentum=0.9), batch_size=3, epochs=2, max_steps=4, shuffle=True, "
        "reduction='sum', adaptive_epochs=True)"
    )
    everything = Solver(batch_size="all").build("here")
    assert (everything.batch_size, everything.max_steps) == (None, None)


@pytest.mark.parametrize("name", ["cosine_decay", "cosine_decay_schedule"])
def test_a_servers_schedule_counts_rounds(name):
    settings = Optimizer(name="sgd", learning_rate=0.5, schedule=Schedule(name=name, decay_steps=10))
    optimizer = settings.build("here", scheduled=True)
    rate = optimizer.hyperparameters["learning_rate"]
    expected = optax.cosine_decay_schedule(0.5, 10)
    assert [float(rate(i)) for i in (0, 5, 10)] == [float(expected(i)) for i in (0, 5, 10)]


def test_a_warm_up_reaches_the_learning_rate():
    schedule = Schedule(name="warmup_cosine_decay", warmup_steps=4, decay_steps=10)
    rate = Optimizer(learning_rate=0.5, schedule=schedule).build("here", scheduled=True)
    values = [float(rate.hyperparameters["learning_rate"](i)) for i in (0, 4, 10)]
    assert values == pytest.approx([0.0, 0.5, 0.0])


def test_a_stages_schedule_is_a_factor_over_rounds():
    schedule = Schedule(name="exponential_decay", transition_steps=1, decay_rate=0.5)
    solver = Solver(optimizer=Optimizer(learning_rate=0.2, schedule=schedule)).build("here")
    assert [float(solver.schedule(jnp.array(i))) for i in (0, 1, 2)] == pytest.approx([1.0, 0.5, 0.25])
    assert "exponential_decay(init_value=0.2" in repr(solver)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Optimizer(name="adams"), r"o: .*'adams' is not one of optax's; did you mean 'adam'"),
        (
            Optimizer.model_validate({"momentun": 0.9}),
            r"no setting o\.momentun; the nearest one is o\.momentum",
        ),
        (
            Optimizer(schedule=Schedule(name="cosine")),
            r"o\.schedule\.name: 'cosine' is no schedule of Optax; .*cosine",
        ),
        (
            Optimizer(schedule=Schedule.model_validate({"name": "cosine_decay", "decay_step": 3})),
            r"no setting o\.schedule\.decay_step; the nearest one is o\.schedule\.decay_steps",
        ),
        (Optimizer(schedule=Schedule(name="cosine_decay")), r"o\.schedule: .*decay_steps"),
        (Optimizer(schedule=Schedule(name="join")), r"o\.schedule\.name: 'join' is no schedule"),
    ],
)
def test_what_optax_does_not_know_is_named(settings, message):
    with pytest.raises(SettingError, match=message):
        settings.build("o", scheduled=True)
