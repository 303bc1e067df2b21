"""The recipes over Flower's own processes, a few of which are killed on the way."""

import importlib.util
import json
import os
import signal

import pytest
from tests.integration.apps import COHORT, write_app, write_ratings

from fedrecon.errors import RunError
from fedrecon.experiment.cli.main import main

needs_flower = pytest.mark.skipif(
    importlib.util.find_spec("flwr") is None, reason="needs Flower: pip install 'fedrecon[flower]'"
)
pytestmark = [pytest.mark.slow, needs_flower]
ROUNDS = 4


@pytest.fixture(scope="module")
def ratings(tmp_path_factory):
    return write_ratings(tmp_path_factory.mktemp("ratings") / "ratings.csv")


def app(folder, repository, recipe):
    return write_app(folder, repository / "experiments" / f"{recipe}.toml", ROUNDS)


@pytest.mark.parametrize("recipe", ["movielens", "movielens-newton"])
def test_four_processes_give_the_numbers_of_the_simulator(tmp_path, repository, ratings, recipe):
    folder, run = app(tmp_path / "app", repository, recipe), tmp_path / "run"
    command = ["deploy", "local", str(folder), "--nodes", "4", "--data", str(ratings), "--out", str(run)]
    assert main([*command, "--verify"]) == 0
    result = json.loads((run / "result.json").read_text())
    assert result["deployment"]["largest_difference"] <= 1e-5
    lines = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    assert [line["answered"] for line in lines] == [COHORT] * ROUNDS
    assert main(["evaluate", str(run)]) == 0
    assert main(["report", str(run), "--out", str(tmp_path / "report.html")]) == 0


def test_killed_node_superlink_and_server(tmp_path, repository, ratings):
    """One federation: a node is killed in the first round, the SuperLink after it, and then the server."""
    from fedrecon.experiment.deploying.flower_app import experiment_of
    from fedrecon.experiment.deploying.local import LocalDeployment

    folder, run = app(tmp_path / "app", repository, "movielens"), tmp_path / "run"
    config = experiment_of(folder, (f"data.path='{ratings}'",))
    work = tmp_path / "run.deployment"

    def killing(deployment, after, pid_of):
        def progress(line):
            if line["released"] and line["round"] == after:
                os.kill(pid_of(deployment), signal.SIGKILL)

        deployment.run(progress)

    first = LocalDeployment(folder, config, run, 4)
    with pytest.raises(RunError, match="'superlink' has ended"):
        killing(first, 0, lambda deployment: deployment.processes.pid("superlink"))
    second = LocalDeployment.of_run(run)
    with pytest.raises(RunError, match="server's process has ended"):
        killing(second, 1, lambda deployment: int((work / "server" / "process").read_text()))
    third = LocalDeployment.of_run(run)
    killing(third, 2, lambda deployment: deployment.processes.pid("worker-1"))
    third.leave_run_folder()
    assert third.largest_difference() <= 1e-5
    lines = third.records()
    assert [line["round"] for line in lines if line["released"]] == list(range(ROUNDS))
    assert main(["deploy", "status", str(run)]) == 0
