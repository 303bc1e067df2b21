import pytest

from fedrecon.experiment import config as configs
from fedrecon.experiment.settings.sections import SettingError
from fedrecon.experiment.sweep.space import load, nest, parse

RATE = "algorithm.update.optimizer.learning_rate"


class Suggested:
    """What a trial of Optuna is asked."""

    def suggest_categorical(self, name, choices):
        self.asked = ("choices", name, choices)
        return choices[0]

    def suggest_int(self, name, low, high, step, log):
        self.asked = ("int", name, low, high, step, log)
        return low

    def suggest_float(self, name, low, high, step, log):
        self.asked = ("float", name, low, high, step, log)
        return low


def space(overrides=(), **values):
    return parse(nest(values), configs.load(None, overrides), "space.toml")


def suggested(**values):
    (dimension,) = space(**values)
    trial = Suggested()
    dimension.suggest(trial)
    return trial.asked


def test_ranges_and_choices_become_suggestions():
    factors = "model.factors"
    assert suggested(**{factors: {"low": 10, "high": 60, "step": 10}}) == ("int", factors, 10, 60, 10, False)
    assert suggested(**{factors: {"low": 1, "high": 64, "log": True}}) == ("int", factors, 1, 64, 1, True)
    log = suggested(**{RATE: {"low": 0.01, "high": 1, "log": True}})
    assert log == ("float", RATE, 0.01, 1, None, True)
    # A learning rate is no whole number, though both ends are.
    assert suggested(**{RATE: {"low": 1, "high": 3}}) == ("float", RATE, 1, 3, None, False)
    assert suggested(**{"model.item_bias": [True, False]}) == ("choices", "model.item_bias", [True, False])
    b2 = "algorithm.server_optimizer.b2"  # a hyperparameter that only Optax knows
    assert suggested(**{b2: {"low": 0.9, "high": 0.99}})[0] == "float"


def test_a_setting_of_a_variant_exists_only_under_its_choice():
    kind, epochs = "algorithm.reconstruct.kind", "algorithm.reconstruct.epochs"
    first, second = space(**{epochs: {"low": 1, "high": 3}, kind: ["newton", "solver"]})
    assert (first.path, first.needs) == (kind, ())
    assert (second.path, second.needs) == (epochs, ((kind, ("solver",)),))
    assert second.exists({kind: "solver"})
    assert not second.exists({kind: "newton"})
    assert not second.exists({})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"training.round": {"low": 1, "high": 2}},
            "no setting training.round; the nearest one is",
        ),
        ({"model.factors": {"low": 5, "high": 2}}, "model.factors needs low < high, got '5 and 2'"),
        ({"model.factors": {"low": 2, "high": 2}}, "model.factors needs low < high, got '2 and 2'"),
        ({"model.factors": {"low": 0, "high": 2}}, "model.factors must be greater than or equal to 1, got 0"),
        ({"model.factors": {"low": 1.5, "high": 2.5}}, "model.factors must be a valid integer, got 1.5"),
        ({"model.factors": {"low": 1}}, "model.factors needs low and high, got {'low': 1}"),
        ({"model.factors": {"low": "1", "high": 2}}, "model.factors needs a number for low, got '1'"),
        ({"model.factors": {"low": True, "high": 2}}, "model.factors needs a number for low, got True"),
        ({RATE: {"low": 0.1, "high": float("inf")}}, "learning_rate needs a number for high, got inf"),
        ({RATE: {"low": 0.1, "high": 1.0, "log": 1}}, "learning_rate needs true or false for log, got 1"),
        ({RATE: {"low": -1.0, "high": 1.0, "log": True}}, "needs low > 0 with log = true, got -1.0"),
        (
            {RATE: {"low": 0.1, "high": 1.0, "log": True, "step": 0.1}},
            "takes either log = true or a step",
        ),
        (
            {RATE: {"low": 0.1, "high": 1.0, "step": 2.0}},
            "needs a step of more than 0 and at most",
        ),
        ({RATE: {"low": 0.1, "high": 1.0, "base": 2}}, "takes low, high, log, step, got 'base'"),
        ({RATE: {"low": 0.0, "high": 1.0}}, "learning_rate must be greater than 0, got 0.0"),
        ({"model.init": ["uniform", "normall"]}, "model.init must be 'uniform' or 'normal', got 'normall'"),
        ({"model.init": ["uniform"]}, "model.init needs at least two different choices, got ['uniform']"),
        ({"model.init": {"choices": []}}, "model.init needs at least two different choices, got []"),
        ({"model.init": {"choices": ["normal", "uniform"], "low": 1}}, "model.init takes choices, got 'low'"),
        ({"algorithm.part": [["a"], ["b"]]}, "needs choices that are numbers, strings or booleans"),
        ({"model.factors": 3}, "model.factors must be a range such as { low = 0.1, high = 1.0 } or a list"),
        ({"data.cap": [100, 200]}, "data.cap cannot be tuned: it changes what is measured"),
        ({"seed": {"low": 0, "high": 9}}, "seed cannot be tuned: it changes what is measured"),
        ({"evaluation.every": [5, 10]}, "evaluation.every cannot be tuned: it changes what is measured"),
        ({}, "a space must name at least one setting, this has none"),
    ],
)
def test_mistakes_are_told_at_the_door(values, message):
    with pytest.raises(SettingError) as caught:
        space(**values)
    assert str(caught.value).startswith("space.toml: ")
    assert message in str(caught.value)


def test_a_setting_of_another_variant_is_no_dimension():
    with pytest.raises(SettingError, match=r"reconstruct\.epochs exists only with .*kind = solver"):
        space(**{"algorithm.reconstruct.epochs": {"low": 1, "high": 3}})


def test_a_space_is_a_file_of_toml(tmp_path):
    path = tmp_path / "space.toml"
    path.write_text('[model]\nfactors = { low = 1, high = 3 }\ninit = ["normal", "uniform"]\n')
    config = configs.load(None)
    assert [d.path for d in load(path, config)] == ["model.factors", "model.init"]
    path.write_text("[model\n")
    with pytest.raises(SettingError, match=r"space\.toml: no TOML: .*line 1"):
        load(path, config)
    path.write_bytes(b"\xff")
    with pytest.raises(SettingError, match=r"space\.toml: .*not UTF-8"):
        load(path, config)
    with pytest.raises(SettingError, match=r"nowhere\.toml: the space cannot be read: No such file"):
        load(tmp_path / "nowhere.toml", config)


def test_buckets_are_tuned_where_the_outputs_are_apart():
    words = ["task=next_word"]
    with pytest.raises(SettingError, match=r"data\.buckets cannot be tuned"):
        space(words, **{"data.buckets": {"choices": [1, 500]}})
    (found,) = space([*words, "data.output_buckets=1"], **{"data.buckets": {"choices": [1, 500]}})
    assert found.path == "data.buckets"
