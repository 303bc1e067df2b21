"""The sections of compression and aggregation: what they build, what they refuse, and older run folders."""

import pytest
from tests.small import rating_model, sgd, solver

from fedrecon.algorithms import Krum, Median, NormBound, TrimmedMean
from fedrecon.algorithms._building_blocks import by_examples, uniform
from fedrecon.algorithms._fedrecon import fedrecon
from fedrecon.algorithms._local_only import local_only
from fedrecon.experiment.config import load, load_saved, override, text
from fedrecon.experiment.settings.aggregation import AggregationSettings, CompressionSettings
from fedrecon.experiment.settings.sections import SettingError, parse_override
from fedrecon.experiment.training.build import spec_of, task_of
from fedrecon.privacy import Compression


def base(**others):
    settings = {"client_weight": uniform, **others}
    return fedrecon(rating_model(), solver(), solver(), sgd(1.0), **settings)


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"rule": "norm_bound"}, NormBound(None)),
        ({"rule": "norm_bound", "bound": 2.0}, NormBound(2.0)),
        ({"rule": "median"}, Median()),
        ({"rule": "trimmed_mean", "trimmed": 0.1}, TrimmedMean(0.1)),
        ({"rule": "krum", "hostile": 0.3, "selected": 1}, Krum(0.3, 1)),
        ({"rule": "krum"}, Krum(0.2, None)),
    ],
)
def test_an_algorithm_aggregates_by_the_rule(settings, rule):
    assert AggregationSettings(**settings).apply(base()).hyperparameters["robust"] == rule


def test_an_algorithm_is_compressed_as_the_settings_say():
    settings = CompressionSettings(bits=4, top=0.5, error_feedback=True)
    assert settings.apply(base()).compression == Compression(4, 0.5, True)


def test_defaults_change_nothing_and_are_not_in_run_folders():
    algorithm = base()
    assert CompressionSettings().apply(algorithm) is algorithm
    assert AggregationSettings().apply(algorithm) is algorithm
    config = load(overrides=["training.rounds=1"])
    settings = spec_of(config, task_of(config)).settings
    assert "compression" not in settings and "aggregation" not in settings and "privacy" not in settings


def test_what_is_set_is_in_run_folders():
    overrides = ["aggregation.rule=median", "compression.bits=8", "privacy.min_contributors=2"]
    config = load(overrides=[*overrides[1:], "algorithm.client_weight=uniform"])
    spec = spec_of(config, task_of(config))
    assert spec.settings["compression"]["bits"] == 8
    assert spec.settings["privacy"]["min_contributors"] == 2
    assert spec.algorithm.hyperparameters["min_contributors"] == 2 and spec.algorithm.privacy is None
    config = load(overrides=[overrides[0], "algorithm.client_weight=uniform"])
    spec = spec_of(config, task_of(config))
    assert spec.settings["aggregation"]["rule"] == "median" and spec.algorithm.takes_each


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: AggregationSettings(rule="median").apply(base(client_weight=by_examples)),
            "aggregation.rule: client_weight must be uniform",
        ),
        (lambda: CompressionSettings(error_feedback=True).apply(base()), "compression: error_feedback must"),
        (
            lambda: CompressionSettings(bits=8).apply(local_only(rating_model(), solver())),
            "compression: algorithm must be one whose clients send deltas",
        ),
        (
            lambda: private(["aggregation.rule=median"]),
            "aggregation.rule: rule must not be given for a private",
        ),
        (
            lambda: private(["privacy.min_contributors=3"]),
            "privacy.min_contributors must be 'none' where epsilon",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(SettingError, match=message):
        call()


def private(overrides):
    from fedrecon.data._sampling import Everyone

    epsilon = ["privacy.epsilon=4.0", "privacy.delta=1e-3", "privacy.clip=1.0"]
    config = load(overrides=[*epsilon, *overrides])
    algorithm = config.privacy.protect(base(), 5, Everyone(), 11, {})
    return config.aggregation.apply(algorithm)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("aggregation.bound=2.0", "aggregation.bound must be 'median', its default, where aggregation.rule"),
        ("aggregation.trimmed=0.1", "aggregation.trimmed must be 0.2, .* the rule is 'mean', got 0.1"),
        ("aggregation.hostile=0.1", "aggregation.hostile must be 0.2, .* whose setting it is"),
        ("aggregation.selected=2", "aggregation.selected must be 'auto'"),
        ("compression.error_feedback=true", "compression.error_feedback must be false where all is sent"),
        ("privacy.row_threshold=2.0", "privacy.row_threshold must be 3.0, .*row_selection is 'none'"),
    ],
)
def test_a_setting_without_effect_is_refused_where_it_is_read(tmp_path, setting, message):
    with pytest.raises(SettingError, match=message):
        load(overrides=[setting])
    if "error_feedback" in setting:
        return
    # A folder of an earlier version, which took it, can still be read.
    config = override(load(), parse_override(setting))
    (tmp_path / "config.toml").write_text(text(config))
    section, name = setting.partition("=")[0].split(".")
    assert getattr(getattr(load_saved(tmp_path), section), name) == getattr(getattr(config, section), name)
