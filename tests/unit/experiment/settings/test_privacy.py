"""The section of privacy: off, on, and what it refuses."""

import json
from dataclasses import replace

import pytest
from rich.console import Console
from tests.small import LENGTHS, rating_model, sgd, solver

from fedrecon.algorithms._building_blocks import uniform
from fedrecon.algorithms._fedrecon import fedrecon
from fedrecon.data._sampling import Everyone
from fedrecon.errors import RunError, UncheckedWarning
from fedrecon.experiment.config import load
from fedrecon.experiment.settings.privacy import PrivacySettings
from fedrecon.experiment.settings.sections import SettingError
from fedrecon.experiment.storage.digests import read_json, seal
from fedrecon.experiment.training.build import earlier_ledger, sampling_of, spec_of, task_of
from fedrecon.experiment.training.run_experiment import run_experiment
from fedrecon.experiment.training.run_spec import digest

ON = ["privacy.epsilon=4.0", "privacy.delta=1e-5", "privacy.clip=1.0", "training.sampling=everyone"]
WHOLE = "data.fractions={train = 1.0, validation = 0.0, test = 0.0}"
RATINGS = "1::{0}::{1}::978300760\n"
MOVIES = "10::A (1995)::Drama\n20::B (1996)::Comedy\n30::C (1997)::Drama\n"


def protect(**settings):
    algorithm = fedrecon(rating_model(), solver(), solver(), sgd(1.0), client_weight=uniform)
    return PrivacySettings(**settings).protect(algorithm, 5, Everyone(), len(LENGTHS), {"items": "a list"})


def test_it_is_off_unless_it_is_set():
    assert not load().privacy.on
    assert load(overrides=ON).privacy.on


def test_an_algorithm_is_private_under_the_settings():
    privacy = protect(epsilon=4.0, delta=1e-3, clip=0.5).privacy
    assert 3.99 < privacy.epsilon(5) <= 4
    assert (privacy.clipping.bound, privacy.observer) == (0.5, "model")
    assert dict(privacy.public_inputs) == {"items": "a list"}
    assert protect(noise_multiplier=3.0, budget=2.0, delta=1e-3, clip=0.5).privacy.budget == 2.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epsilon": 4.0, "delta": 1e-3}, "privacy.clip must be a number"),
        ({"epsilon": 4.0, "clip": 1.0}, "privacy: delta must be given"),
        (
            {"epsilon": 4.0, "clip": 1.0, "delta": 0.5},
            "privacy: delta must be above 0 and below 1 / num_clients",
        ),
        ({"epsilon": 4.0, "budget": 4.0, "clip": 1.0, "delta": 1e-3}, "privacy: either epsilon or budget"),
        (
            {"delta": 1e-3, "clip": 1.0},
            "privacy: either epsilon or noise_multiplier must be given, got neither",
        ),
    ],
)
def test_what_is_missing_is_named(settings, message):
    with pytest.raises(SettingError, match=message):
        protect(**settings)


def test_a_bound_of_zero_is_refused_by_name():
    with pytest.raises(SettingError, match=r"privacy.clip"):
        load(overrides=["privacy.clip=0.0"])


@pytest.fixture
def movielens(tmp_path):
    lines = [
        RATINGS.format(item, 3).replace("1::", f"{user}::", 1) for user in range(1, 7) for item in (10, 30)
    ]
    (tmp_path / "ratings.dat").write_text("".join(lines))
    (tmp_path / "movies.dat").write_text(MOVIES)
    given = [
        "task=movielens",
        f"data.path={tmp_path}",
        "privacy.delta=0.01",
        "algorithm.client_weight=uniform",
    ]
    return tmp_path, [*ON[:1], *given, *ON[2:], WHOLE]


def test_items_come_from_the_public_list(movielens):
    _, settings = movielens
    config = load(overrides=settings)
    task = task_of(config)
    assert task.train.vocabularies["item"].tolist() == [10, 20, 30]  # also the one that nobody rated
    spec = spec_of(config, task)
    assert spec.algorithm.privacy.public_inputs["vocabulary of 'item'"] == "movies.dat"
    assert spec.sampling == Everyone()
    plain = load(overrides=[*settings[1:3], WHOLE, "training.clients_per_round=2"])
    assert task_of(plain).train.vocabularies["item"].tolist() == [10, 30]
    assert "privacy" not in spec_of(plain, task_of(plain)).settings  # as in folders of earlier versions


def test_folders_of_private_runs_of_earlier_versions_can_go_on(movielens):
    """Settings that came later are written where they are set, and left out where they are not."""
    _, settings = movielens
    config = load(overrides=settings)
    written = spec_of(config, task_of(config)).settings["privacy"]
    assert written["epsilon"] == 4.0 and not {"noise_bands", "clip_quantile"} & set(written)
    config = load(overrides=[*settings, "privacy.clip_quantile=0.5", "privacy.noise_bands=1"])
    written = spec_of(config, task_of(config)).settings["privacy"]
    assert (written["clip_quantile"], written["noise_bands"]) == (0.5, 1)


def test_poisson_has_a_fixed_probability(movielens):
    _, settings = movielens
    config = load(overrides=[*settings[:-2], "training.sampling=poisson", "training.clients_per_round=3"])
    assert sampling_of(config, 6).probability == 0.5


def test_a_private_run_without_the_public_list_is_refused(movielens):
    folder, settings = movielens
    (folder / "movies.dat").unlink()
    with pytest.raises(ValueError, match=r"movies\.dat: the public list of items"):
        task_of(load(overrides=settings))


def test_the_mean_of_the_ratings_is_no_public_number(movielens):
    _, settings = movielens
    config = load(overrides=[*settings, "model.global_bias=mean"])
    with pytest.raises(SettingError, match=r"model.global_bias must be a public number"):
        spec_of(config, task_of(config))


def test_a_run_takes_over_the_ledger_of_the_one_it_starts_from(movielens, tmp_path):
    _, settings = movielens
    settings = [*settings, "training.rounds=2", "evaluation.every=2"]
    start = f"training.initial_global_params={tmp_path / 'first'}"
    first = run_experiment(load(overrides=settings), tmp_path / "first", Console(quiet=True))
    privacy = spec_of(
        load(overrides=[*settings, start, "privacy.epsilon=9.0"]), task_of(load(overrides=settings))
    )
    privacy = privacy.algorithm.privacy
    assert privacy.earlier == first.privacy
    assert privacy.epsilon(0) == pytest.approx(first.privacy.epsilon) and 8.99 < privacy.epsilon(2) <= 9
    assert "whose ledger is taken over" in privacy.public_inputs["initial_global_params"]
    config = load(overrides=[*settings, start, "privacy.epsilon=3.0"])
    with pytest.raises(SettingError, match="epsilon must be above the"):
        spec_of(config, task_of(config))
    # A result that is behind what was released: an interrupted run's, or one with a later checkpoint.
    path = tmp_path / "first/result.json"
    result = read_json(path)
    for stale in ({"finished": False}, {"rounds": 1}, None):
        if stale is None:
            path.unlink()
        else:
            path.write_text(json.dumps(seal({**result, **stale})))
        with pytest.raises(RunError, match=r"must have a result\.json of all its rounds: resume it"):
            spec_of(config, task_of(config))


def test_a_start_without_privacy_on_the_same_clients_is_refused(movielens, tmp_path):
    _, settings = movielens
    config = load(overrides=[*settings, f"training.initial_global_params={tmp_path}"])
    task = task_of(config)
    (tmp_path / "fingerprint.json").write_text(json.dumps({"clients": {"train": digest(task.train)}}))
    with (
        pytest.warns(UncheckedWarning),
        pytest.raises(SettingError, match="without privacy on the same clients"),
    ):
        earlier_ledger(tmp_path, task)
    (tmp_path / "fingerprint.json").write_text(json.dumps({"clients": {"train": "another"}}))
    assert earlier_ledger(tmp_path, task) is None


def test_a_run_takes_over_the_ledger_beside_the_file_it_starts_from(movielens, tmp_path):
    _, settings = movielens
    config = load(overrides=settings)
    task = task_of(config)
    start = tmp_path / "spring" / "global_params.npz"
    assert earlier_ledger(start, task) is None
    ledger = spec_of(config, task).algorithm.privacy.ledger(2)
    start.parent.mkdir()
    (start.parent / "privacy.json").write_text(json.dumps(seal(ledger.values())))
    assert earlier_ledger(start, task) == ledger


def test_a_vocabulary_from_the_clients_is_refused(movielens):
    _, settings = movielens
    config = load(overrides=settings)
    with pytest.raises(SettingError, match="the vocabulary of 'item' must come from a public list"):
        spec_of(config, replace(task_of(config), public_sources={}))
