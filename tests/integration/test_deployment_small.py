"""A deployment over Flower's own processes that is small enough to be tried with every change.

The whole set is in `test_deployment_flower.py` and `test_deployment_keys.py`.
"""

import importlib.util
import json
import os
import signal

import pytest
from tests.integration.apps import COHORT, write_app, write_ratings

from fedrecon.errors import RunError
from fedrecon.experiment.cli.main import main
from fedrecon.experiment.deploying.flower_app import experiment_of
from fedrecon.experiment.deploying.local import LocalDeployment
from fedrecon.experiment.deploying.processes import descendants, lives

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("flwr") is None, reason="needs Flower: pip install 'fedrecon[flower]'"
)
ROUNDS, NODES = 3, 2


def test_run_whose_superlink_is_killed_goes_on_to_the_numbers_of_the_simulator(tmp_path, repository, capsys):
    before = descendants([os.getpid()])
    ratings = write_ratings(tmp_path / "ratings.csv")
    app = write_app(tmp_path / "app", repository / "experiments" / "movielens.toml", ROUNDS)
    run = tmp_path / "run"
    deployment = LocalDeployment(app, experiment_of(app, (f"data.path='{ratings}'",)), run, NODES)

    def kill(line):
        assert line["released"] and line["round"] == 0
        os.kill(deployment.processes.pid("superlink"), signal.SIGKILL)

    with pytest.raises(RunError, match="'superlink' has ended"):
        deployment.run(kill)
    assert main(["deploy", "status", str(run)]) == 0
    assert f"1 of {ROUNDS} rounds done" in capsys.readouterr().out
    assert main(["deploy", "resume", str(run), "--verify"]) == 0
    result = json.loads((run / "result.json").read_text())
    assert result["deployment"]["largest_difference"] <= 1e-5
    lines = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    assert [(x["round"], x["answered"]) for x in lines] == [(i, COHORT) for i in range(ROUNDS)]
    assert main(["evaluate", str(run)]) == 0
    assert not [pid for pid in descendants([os.getpid()]) if pid not in before and lives(pid)]
