"""A deployment over NVFlare's own processes, one of which is killed on the way."""

import importlib.util
import json
import os
import signal
from pathlib import Path

import pytest
from tests.integration.apps import COHORT, write_app, write_ratings

from fedrecon.experiment.deploying.flower_app import experiment_of
from fedrecon.experiment.deploying.local import LocalDeployment
from fedrecon.experiment.deploying.processes import descendants, lives
from fedrecon.experiment.training.run_experiment import console, run_experiment

needs_nvflare = pytest.mark.skipif(
    importlib.util.find_spec("nvflare") is None, reason="needs NVFlare: pip install 'fedrecon[nvflare]'"
)
pytestmark = [pytest.mark.slow, needs_nvflare]
ROUNDS, NODES = 4, 4


def job_process_of(node):
    """The id of the process that NVFlare started for the job on a node."""
    for pid in descendants([os.getpid()]):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        except OSError:  # it has ended, as the program that listed the ids
            continue
        if any(word.endswith(".client.worker_process") for word in words) and node in " ".join(words):
            return pid
    raise AssertionError(f"{node} runs no job")


@pytest.mark.parametrize("killed", [False, True], ids=["undisturbed", "node killed"])
def test_processes_give_the_numbers_of_the_simulator(tmp_path, repository, killed):
    """NVFlare ends a job if a node's process dies; it is begun again, and goes on with all nodes."""
    before = descendants([os.getpid()])
    ratings = write_ratings(tmp_path / "ratings.csv")
    app = write_app(tmp_path / "app", repository / "experiments" / "movielens.toml", ROUNDS)
    run = tmp_path / "run"
    config = experiment_of(app, (f"data.path='{ratings}'",))
    deployment = LocalDeployment(app, config, run, NODES, 120.0, "nvflare")
    seen = []

    def progress(line):
        seen.append(line["round"])
        if killed and seen == [0]:
            os.kill(job_process_of("node-1"), signal.SIGKILL)

    deployment.run(progress)
    assert not [pid for pid in descendants([os.getpid()]) if pid not in before and lives(pid)]
    assert deployment.largest_difference() <= 1e-5
    deployment.leave_run_folder()
    assert run_experiment(deployment.config, run, console()).evaluations
    done = [
        line for line in map(json.loads, (run / "rounds.jsonl").read_text().splitlines()) if line["released"]
    ]
    # In the round in which a node died only the others may have answered.
    assert [line["round"] for line in done] == list(range(ROUNDS)) == sorted(set(seen))
    assert all(line["answered"] == COHORT for line in done) or killed
