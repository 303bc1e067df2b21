import jax.numpy as jnp
import optax
import pytest

from fedrecon.experiment import config as configs
from fedrecon.experiment.settings.sections import SettingError
from fedrecon.experiment.settings.solvers import (
    OptimizerSettings,
    ScheduleSettings,
    SolverSettings,
    ended_schedules,
)
from fedrecon.experiment.settings.splits import SplitSettings


def test_every_split_builds_what_its_name_says():
    built = {
        cls.model_fields["name"].default: type(cls().build()).__name__
        for cls in SplitSettings.__origin__.__args__
    }
    assert built.pop("none") == "NoSplit"
    assert all(name.title().replace("_", "") == cls for name, cls in built.items())


def test_settings_reach_the_splits():
    config = configs.load(None, ["algorithm.split.support=0.25", "evaluation.split.batch_size=7"])
    assert repr(config.algorithm.split.build()) == "RandomFraction(support=0.25)"
    assert repr(config.evaluation.split.build()) == "AlternateBatches(batch_size=7)"


def test_settings_reach_the_solver():
    settings = SolverSettings(
        batch_size=3,
        epochs=2,
        max_steps=4,
        shuffle=True,
        reduction="sum",
        growing_epochs=True,
        optimizer=OptimizerSettings(name="sgd", learning_rate=0.2, momentum=0.9),
    )
    assert repr(settings.build("here")) == (
        "Solver(sgd(learning_rate=0.2, momentum=0.9), batch_size=3, epochs=2, max_steps=4, shuffle=True, "
        "reduction='sum', adaptive_epochs=True)"
    )
    everything = SolverSettings(batch_size="all").build("here")
    assert (everything.batch_size, everything.max_steps) == (None, None)


@pytest.mark.parametrize("name", ["cosine_decay", "cosine_decay_schedule"])
def test_a_servers_schedule_counts_rounds(name):
    settings = OptimizerSettings(
        name="sgd", learning_rate=0.5, schedule=ScheduleSettings(name=name, decay_steps=10)
    )
    optimizer = settings.build("here", scheduled=True)
    rate = optimizer.hyperparameters["learning_rate"]
    expected = optax.cosine_decay_schedule(0.5, 10)
    assert [float(rate(i)) for i in (0, 5, 10)] == [float(expected(i)) for i in (0, 5, 10)]


def test_a_warm_up_reaches_the_learning_rate():
    schedule = ScheduleSettings(name="warmup_cosine_decay", warmup_steps=4, decay_steps=10)
    rate = OptimizerSettings(learning_rate=0.5, schedule=schedule).build("here", scheduled=True)
    values = [float(rate.hyperparameters["learning_rate"](i)) for i in (0, 4, 10)]
    assert values == pytest.approx([0.0, 0.5, 0.0])


def test_a_stages_schedule_is_a_factor_over_rounds():
    schedule = ScheduleSettings(name="exponential_decay", transition_steps=1, decay_rate=0.5)
    solver = SolverSettings(optimizer=OptimizerSettings(learning_rate=0.2, schedule=schedule)).build("here")
    assert [float(solver.schedule(jnp.array(i))) for i in (0, 1, 2)] == pytest.approx([1.0, 0.5, 0.25])
    assert "exponential_decay(init_value=0.2" in repr(solver)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (OptimizerSettings(name="adams"), r"o: .*'adams' is not one of optax's; did you mean 'adam'"),
        (
            OptimizerSettings.model_validate({"momentun": 0.9}),
            r"no setting o\.momentun; the nearest one is o\.momentum",
        ),
        (
            OptimizerSettings(schedule=ScheduleSettings(name="cosine")),
            r"o\.schedule\.name: 'cosine' is no schedule of Optax; .*cosine",
        ),
        (
            OptimizerSettings(
                schedule=ScheduleSettings.model_validate({"name": "cosine_decay", "decay_step": 3})
            ),
            r"no setting o\.schedule\.decay_step; the nearest one is o\.schedule\.decay_steps",
        ),
        (OptimizerSettings(schedule=ScheduleSettings(name="cosine_decay")), r"o\.schedule: .*decay_steps"),
        (
            OptimizerSettings(schedule=ScheduleSettings(name="join")),
            r"o\.schedule\.name: 'join' is no schedule",
        ),
    ],
)
def test_what_optax_does_not_know_is_named(settings, message):
    with pytest.raises(SettingError, match=message):
        settings.build("o", scheduled=True)


@pytest.mark.parametrize(
    ("settings", "end"),
    [
        ({}, None),
        ({"name": "cosine_decay", "decay_steps": 30}, 30),
        ({"name": "cosine_decay", "decay_steps": 30, "alpha": 0.1}, None),
        ({"name": "cosine_decay", "decay_steps": 80}, None),
        ({"name": "linear", "end_value": 0.0, "transition_steps": 10}, 20),
        ({"name": "exponential_decay", "transition_steps": 10, "decay_rate": 0.5}, None),
    ],
)
def test_schedules_that_end_before_the_last_round(settings, end):
    config = configs.resolve({"algorithm": {"server_optimizer": {"schedule": settings}}}, "test")
    ended = ended_schedules(config, 20, 60)
    assert ended == ([] if end is None else [("algorithm.server_optimizer.schedule", settings["name"], end)])
