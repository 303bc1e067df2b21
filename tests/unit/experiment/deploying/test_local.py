"""What a local deployment prepares and leaves, its rounds run in this process instead of an engine's."""

import json
import os
import subprocess

import pytest
from tests.integration.apps import write_ratings
from tests.unit.experiment.deploying.here import Direct, deployment_of, run_here

from fedrecon.deployment._wire import decode
from fedrecon.errors import RunError
from fedrecon.experiment import config as configs
from fedrecon.experiment.cli.main import main
from fedrecon.experiment.deploying.local import LocalDeployment, work_folder
from fedrecon.experiment.deploying.status import status_of
from fedrecon.experiment.settings import extras
from fedrecon.experiment.settings.sections import SettingError
from fedrecon.experiment.storage.digests import read_json
from fedrecon.experiment.training.run_experiment import console, run_experiment

SETTINGS = ["task=movielens", "training.rounds=2", "training.clients_per_round=6", "model.factors=3"]
MEAN = ["model.global_bias=mean", "evaluation.every=2"]


class EveryThirdLate(Direct):
    """Delivers every third update in the next exchange but one, which may be that of the next round."""

    def __init__(self, nodes):
        super().__init__(nodes)
        self._count, self._kept = 0, [[], []]

    def exchange(self, messages, seconds):
        late = self._kept.pop(0)
        self._kept.append([])
        for data in super().exchange(messages, seconds):
            self._count += 1
            if self._count % 3 and decode(data).kind == "update":
                yield data
            else:
                self._kept[-1].append(data)
                if decode(data).kind != "update":
                    yield self._kept[-1].pop()
        yield from late


@pytest.fixture
def deployment(tmp_path):
    write_ratings(tmp_path / "ratings.csv", 20, 30)
    config = configs.load(None, [*SETTINGS, *MEAN, f"data.path='{tmp_path / 'ratings.csv'}'"])
    return deployment_of(tmp_path, config)


def test_run_folder_is_that_of_a_simulation(deployment, tmp_path):
    run_here(deployment)
    assert deployment.largest_difference() <= 1e-5
    deployment.leave_run_folder()
    run_experiment(deployment.config, deployment.out, console())
    deployment.note({"rounds": 2})
    assert read_json(deployment.out / "result.json")["deployment"] == {"rounds": 2}
    lines = [json.loads(line) for line in (deployment.out / "rounds.jsonl").read_text().splitlines()]
    assert [line["answered"] for line in lines] == [6, 6]
    assert main(["evaluate", str(deployment.out)]) == 0
    assert "2 of 2 rounds done" in status_of(deployment.out)
    assert LocalDeployment.of_run(deployment.out).config == deployment.config


def test_late_answers_are_those_of_a_simulation(deployment, tmp_path):
    (tmp_path / "app" / "deployment.toml").write_text("max_staleness = 2\nstaleness_exponent = 1.0\n")
    records = run_here(deployment, EveryThirdLate)
    assert sum(len(record.outcome.stale) for record in records) > 0
    assert deployment.largest_difference() <= 1e-5
    assert f"{records[1].line()['stale']} of earlier rounds" in status_of(deployment.out)


def test_rounds_with_over_selection_end_at_enough_answers(deployment, tmp_path):
    (tmp_path / "app" / "deployment.toml").write_text("over_selection = 1.5\n")
    records = run_here(deployment)
    assert [(r.outcome.asked, r.outcome.answered) for r in records] == [(9, 6), (9, 6)]
    assert deployment.largest_difference() <= 1e-5


def test_deployment_of_another_experiment_is_refused(deployment, tmp_path):
    deployment.prepare()
    config = configs.override(deployment.config, {"seed": 7})
    other = LocalDeployment(tmp_path / "app", config, tmp_path / "run", 2)
    with pytest.raises(RunError, match="of another experiment"):
        other.prepare()


def test_deployment_goes_on_over_the_engine_that_began_it(deployment, tmp_path):
    LocalDeployment(tmp_path / "app", deployment.config, tmp_path / "run", 2, engine="nvflare").prepare()
    begun = work_folder(deployment.out) / "local.json"
    assert LocalDeployment.of_run(tmp_path / "run")._engine == "nvflare"
    # One of an earlier version was over Flower.
    begun.write_text(json.dumps({"app": str(tmp_path / "app")}))
    assert LocalDeployment.of_run(tmp_path / "run")._engine == "flower"


def test_engine_that_is_missing_names_its_extra(deployment, tmp_path, monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    other = LocalDeployment(tmp_path / "app", deployment.config, tmp_path / "run", 2, engine="nvflare")
    with pytest.raises(SettingError, match=r"engine nvflare` needs the package .*'fedrecon\[nvflare\]'"):
        other.run(print)
    assert not work_folder(deployment.out).exists()


def test_more_nodes_than_clients_are_refused(deployment, tmp_path):
    with pytest.raises(ValueError, match="nodes must be a whole number from 1 to 16, got 17"):
        LocalDeployment(tmp_path / "app", deployment.config, tmp_path / "run", 17)


def test_private_experiments_are_refused(deployment, tmp_path):
    """Their noise would be missing from the run folder's ledger."""
    config = configs.override(deployment.config, {"privacy": {"noise_multiplier": 1.0, "clip": 1.0}})
    with pytest.raises(SettingError, match=r"privacy\.epsilon and privacy\.noise_multiplier must be 'none'"):
        LocalDeployment(tmp_path / "app", config, tmp_path / "run", 2)


def test_status_counts_the_rounds_of_the_saved_state(deployment):
    """Lines of `rounds.jsonl` are written before the state, and may be cut short by a kill."""
    run_here(deployment)
    server = work_folder(deployment.out) / "server"
    whole = status_of(deployment.out)
    assert whole.splitlines()[0] == "2 of 2 rounds done, 0 begun again"
    assert status_of(server) == whole
    lines = (server / "rounds.jsonl").read_text().splitlines()
    unsaved = json.dumps(json.loads(lines[-1]) | {"round": 2})
    again = json.dumps(json.loads(lines[-1]) | {"released": False})
    (server / "rounds.jsonl").write_text("\n".join([*lines, again, unsaved, '{"round": 3, "att']))
    assert status_of(server).splitlines()[0] == "2 of 2 rounds done, 1 begun again"


def test_status_of_a_node_is_refused(deployment):
    deployment.prepare()
    with pytest.raises(RunError, match="is the folder of a node, which does not know the rounds"):
        status_of(work_folder(deployment.out) / "node-0")


def test_status_tells_whether_an_unfinished_server_runs(deployment):
    deployment.prepare()
    server = work_folder(deployment.out) / "server"
    assert status_of(server) == "0 of 2 rounds done, 0 begun again"
    (server / "process").write_text(str(os.getpid()))
    assert status_of(server).splitlines()[1:] == ["the server runs"]
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    (server / "process").write_text(str(ended.pid))
    assert "the server has ended; go on with `deploy resume`" in status_of(server)
    (server / "ended").write_text("RunError: no answers\n")
    assert "the server has ended: RunError: no answers" in status_of(server)
