"""The job of NVFlare for a deployment, what its sites allow, and jobs that are submitted again."""

import json
import subprocess

import pytest

from fedrecon.errors import RunError
from fedrecon.experiment.cli.main import main
from fedrecon.experiment.deploying.nvflare_engine.job import CLASSES, JOB_ENDED, allow_classes, write_job
from fedrecon.experiment.deploying.nvflare_engine.local import follow_jobs, wait_for_rounds
from fedrecon.experiment.deploying.plan import ENDED, PROCESS, DeploymentPlan
from fedrecon.experiment.deploying.processes import lives


def test_job_names_the_two_classes_and_the_server(tmp_path):
    write_job(tmp_path / "job", tmp_path / "server")
    config = tmp_path / "job" / "app" / "config"
    server, client = (
        json.loads((config / f"config_fed_{side}.json").read_text()) for side in ("server", "client")
    )
    (workflow,), (executor,) = server["workflows"], client["executors"]
    assert (workflow["path"], executor["executor"]["path"]) == CLASSES
    assert workflow["args"] == {"folder": str(tmp_path / "server")}
    assert json.loads((tmp_path / "job" / "meta.json").read_text())["deploy_map"] == {"app": ["@ALL"]}


def test_site_allows_the_two_classes_beside_its_own(tmp_path):
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "resources.json.default").write_text(
        json.dumps({"class_allow_list": ["a.B"], "servers": [1]})
    )
    for _ in range(2):
        allow_classes(tmp_path)
    values = json.loads((tmp_path / "local" / "resources.json").read_text())
    assert values == {"class_allow_list": ["a.B", *CLASSES], "servers": [1]}


def test_command_writes_the_job_and_folders_of_nodes(tmp_path, capsys):
    server = tmp_path / "spring"
    server.mkdir()
    plan = DeploymentPlan("spring", {}, {}, 3)
    plan.write(server)
    assert main(["deploy", "job", str(server), "north"]) == 0
    assert capsys.readouterr().out.split() == [str(server / "job"), str(server / "nodes" / "north")]
    assert DeploymentPlan.read(server / "nodes" / "north") == plan
    # NVFlare has the address and the keys.
    settings = (server / "nodes" / "north" / "node.toml").read_text().splitlines()
    assert [line for line in settings if not line.startswith("#")] == ['data = "clients.arrow"']
    assert main(["deploy", "job", str(server), "../north"]) != 0
    assert "a node's name must be of letters" in capsys.readouterr().err


def test_job_that_nvflare_ended_is_submitted_again(tmp_path):
    (tmp_path / PROCESS).write_text("1")
    ends = [f"RunError: {JOB_ENDED}\n", f"RunError: {JOB_ENDED}\n", ""]
    submitted, told = [], []

    def follow(progress):
        # Each time all lines are read again.
        for round in range(4 - len(ends)):
            progress({"round": round, "attempt": 0})
        (tmp_path / ENDED).write_text(end := ends.pop(0))
        if end:
            raise RunError("the server ended after 1 of 3 rounds")
        assert not (tmp_path / PROCESS).exists()  # that of the job before

    follow_jobs(tmp_path, follow, told.append, lambda: submitted.append(1))
    assert submitted == [1, 1]
    assert [line["round"] for line in told] == [0, 1, 2]


def test_rounds_that_end_for_another_reason_are_not_begun_again(tmp_path):
    submitted = []

    def follow(progress):
        (tmp_path / ENDED).write_text("RunError: round 3 was begun 10 times\n")
        raise RunError("the server ended")

    with pytest.raises(RunError, match="the server ended"):
        follow_jobs(tmp_path, follow, print, lambda: submitted.append(1))
    assert not submitted


def test_rounds_that_outlive_their_server_are_waited_for(tmp_path):
    wait_for_rounds(tmp_path)  # none has begun
    with subprocess.Popen(["sleep", "0.3"]) as rounds:
        (tmp_path / PROCESS).write_text(str(rounds.pid))
        wait_for_rounds(tmp_path)
        assert not lives(rounds.pid)
