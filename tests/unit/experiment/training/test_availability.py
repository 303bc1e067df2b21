"""A run whose rounds are those of devices: settings, records, resume."""

from dataclasses import replace

import jax
import numpy as np
import pytest

import fedrecon as fr
from fedrecon.experiment import config as configs
from fedrecon.experiment.settings.sections import SettingError
from fedrecon.experiment.storage.metrics_log import METRICS, read
from fedrecon.experiment.training.build import sampling_of, spec_of, task_of
from fedrecon.experiment.training.run import run

SMALL = [
    "data.clients=40",
    "data.items=8",
    "model.factors=2",
    "training.rounds=6",
    "training.clients_per_round=8",
    "training.sampling=availability",
]
DEVICES = [
    "devices.over_selection=1.5",
    "devices.dropout=0.2",
    "devices.deadline=12.0",
    'devices.model.name="nightly"',
]


def test_settings_make_the_sampling():
    config = configs.load(None, [*SMALL, *DEVICES, "devices.model.hours=6.0"])
    expected = fr.sampling.Availability(
        8, over_selection=1.5, deadline=12.0, dropout=0.2, model=fr.sampling.Nightly(hours=6.0)
    )
    assert sampling_of(config, 40) == expected


def test_a_run_records_what_became_of_the_clients_that_it_asked(tmp_path):
    config = configs.load(None, [*SMALL, *DEVICES])
    spec = spec_of(config, task_of(config))
    run(spec, out=tmp_path / "run")
    recorded = [row for row in read(tmp_path / "run" / METRICS) if row.metric == "counted_clients"]
    outcomes = [spec.sampling.outcome(round, spec.clients.num_examples, spec.seed) for round in range(6)]
    assert [row.value for row in recorded] == [float(outcome.counted.sum()) for outcome in outcomes]
    assert len({row.value for row in recorded}) > 1, "no round lost a client: the test shows nothing"


def test_a_round_without_answers_leaves_the_parameters(tmp_path):
    clients = fr.Clients.from_arrays(
        {i: {"x": np.ones(20, np.float32), "y": np.full(20, 2.0, np.float32)} for i in range(6)}
    )
    model = fr.partition(
        lambda key: {"w": np.zeros(1, np.float32), "u": np.zeros(1, np.float32)},
        lambda params, batch, key: fr.Mean.of((params["w"] * batch["x"] + params["u"] - batch["y"]) ** 2),
        lambda params, batch: {},
        local=fr.is_local("u"),
    )
    sgd = fr.Solver(fr.optimizer("sgd", learning_rate=0.1), batch_size=2)
    algorithm = fr.fedrecon(model, sgd, sgd, fr.optimizer("sgd", learning_rate=1.0))
    nobody = fr.sampling.Availability(3, deadline=0.001)
    result = fr.train(algorithm, clients, 2, sampling=nobody)
    assert float(result.global_params["w"][0]) == 0.0
    somebody = fr.train(algorithm, clients, 2, sampling=fr.sampling.Availability(3))
    assert float(somebody.global_params["w"][0]) > 0.1


def test_settings_that_do_not_fit_are_refused():
    config = configs.load(None, [*SMALL, "devices.min_answers=9"])
    with pytest.raises(
        SettingError, match="devices: min_answers must be at most clients_per_round, 8, got 9"
    ):
        sampling_of(config, 40)
    with pytest.raises(SettingError, match=r"training\.clients_per_round"):
        sampling_of(configs.load(None, SMALL), 7)


def test_a_folder_of_a_run_without_devices_does_not_name_them():
    config = configs.load(None, [x for x in SMALL if "sampling" not in x])
    assert "devices" not in spec_of(config, task_of(config)).settings


STALE = ["devices.round_seconds=12.0", "devices.max_staleness=3", "devices.speed_spread=1.0"]


def test_late_updates_wait_over_an_interruption(tmp_path):
    settings = [*SMALL, *DEVICES, *STALE, "evaluation.every=2", "training.checkpoint_every=2"]
    config = configs.load(None, settings)
    spec = spec_of(config, task_of(config))
    delays = [spec.sampling.outcome(n, spec.clients.num_examples, spec.seed).delays for n in range(6)]
    assert any((delays[n] > 4 - n).any() for n in range(4)), "nothing waits after round 4: nothing is shown"
    whole = run(spec, out=tmp_path / "whole")

    def interrupt(evaluated):
        if evaluated.round == 4:
            raise KeyboardInterrupt

    assert run(spec, out=tmp_path / "run", callbacks=[interrupt]).interrupted
    again = run(spec, out=tmp_path / "run")
    assert again.resumed_from == 4
    jax.tree.map(np.testing.assert_array_equal, again.state, whole.state)
    recorded = [row.value for row in read(tmp_path / "run" / METRICS) if row.metric == "stale_clients"]
    arrivals = [sum(int((delays[n - s] == s).sum()) for s in range(1, min(n, 3) + 1)) for n in range(6)]
    assert recorded == arrivals and sum(arrivals) > 0


def test_a_folder_with_devices_names_late_updates_only_where_they_count():
    settings = spec_of(config := configs.load(None, [*SMALL, *DEVICES]), task_of(config)).settings
    assert "deadline" in settings["devices"] and "max_staleness" not in settings["devices"]
    settings = spec_of(config := configs.load(None, [*SMALL, *DEVICES, *STALE]), task_of(config)).settings
    assert settings["devices"]["max_staleness"] == 3 and "staleness_exponent" not in settings["devices"]


@pytest.mark.parametrize(
    ("more", "needs"),
    [
        (["aggregation.rule=median"], "each delta"),
        (["privacy.min_contributors=2"], "counts of each row's clients"),
    ],
)
def test_late_updates_are_refused_before_there_is_a_folder(tmp_path, more, needs):
    config = configs.load(None, [*SMALL, *STALE, "algorithm.client_weight=uniform", *more])
    with pytest.raises(ValueError, match=f"max_staleness must be 0 .* here {needs}, got 3"):
        run(spec_of(config, task_of(config)), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_cohorts_that_are_too_large_are_refused_before_there_is_a_folder(tmp_path):
    config = configs.load(None, SMALL)
    spec = spec_of(config, task_of(config))
    with pytest.raises(ValueError, match="clients_per_round must be at most"):
        run(replace(spec, sampling=fr.sampling.Uniform(1000)), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
