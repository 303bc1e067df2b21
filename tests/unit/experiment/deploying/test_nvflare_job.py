"""The job of NVFlare for a deployment, what its sites allow, and jobs that are submitted again."""

import json
import os
import subprocess
from types import SimpleNamespace

import pytest

from fedrecon.errors import RunError
from fedrecon.experiment.cli.main import main
from fedrecon.experiment.deploying.flower_processes import RUN
from fedrecon.experiment.deploying.nvflare_engine import local
from fedrecon.experiment.deploying.nvflare_engine.job import CLASSES, JOB_ENDED, allow_classes, write_job
from fedrecon.experiment.deploying.nvflare_engine.local import (
    SERVER,
    Beginning,
    follow_jobs,
    start_federation,
    submit_again,
    wait_for_rounds,
)
from fedrecon.experiment.deploying.plan import ENDED, PROCESS, DeploymentPlan
from fedrecon.experiment.deploying.processes import Processes, lives
from fedrecon.experiment.deploying.server import InUseError, noted_rounds


def test_job_names_the_two_classes_and_the_server(tmp_path):
    write_job(tmp_path / "job", tmp_path / "server")
    config = tmp_path / "job" / "app" / "config"
    server, client = (
        json.loads((config / f"config_fed_{side}.json").read_text()) for side in ("server", "client")
    )
    (workflow,), (executor,) = server["workflows"], client["executors"]
    assert (workflow["path"], executor["executor"]["path"]) == CLASSES
    assert workflow["args"] == {"folder": str(tmp_path / "server")}
    assert executor["executor"]["args"] == {}
    assert json.loads((tmp_path / "job" / "meta.json").read_text())["deploy_map"] == {"app": ["@ALL"]}


def test_job_of_a_deployment_on_this_machine_says_so(tmp_path):
    write_job(tmp_path, tmp_path / "server", on_loopback=True)
    server, client = (
        (tmp_path / "app" / "config" / f"config_fed_{side}.json").read_text() for side in ("server", "client")
    )
    assert json.loads(server)["workflows"][0]["args"]["on_loopback"] is True
    assert json.loads(client)["executors"][0]["executor"]["args"] == {"on_loopback": True}


def test_site_allows_the_two_classes_beside_its_own_and_keeps_its_logs(tmp_path):
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "resources.json.default").write_text(
        json.dumps({"class_allow_list": ["a.B"], "servers": [1], "allow_log_streaming": True})
    )
    for _ in range(2):
        allow_classes(tmp_path)
    values = json.loads((tmp_path / "local" / "resources.json").read_text())
    assert values == {
        "class_allow_list": ["a.B", *CLASSES],
        "servers": [1],
        "allow_log_streaming": False,
    }


def test_command_writes_the_job_and_folders_of_nodes(tmp_path, capsys):
    server = tmp_path / "spring"
    server.mkdir()
    plan = DeploymentPlan("spring", {}, {}, 3, accept_row_leak=True)
    plan.write(server)
    assert main(["deploy", "job", str(server), "north"]) == 0
    assert capsys.readouterr().out.split() == [str(server / "job"), str(server / "nodes" / "north")]
    assert DeploymentPlan.read(server / "nodes" / "north") == plan
    # NVFlare has the address and the keys.
    settings = (server / "nodes" / "north" / "node.toml").read_text().splitlines()
    assert [line for line in settings if not line.startswith("#")] == ['data = "clients.arrow"']
    assert main(["deploy", "job", str(server), "../north"]) != 0
    assert "a node's name must be of letters" in capsys.readouterr().err


def test_job_without_noise_is_refused_whatever_the_address(tmp_path, capsys):
    """The address of the plan, by default one of loopback, is not where NVFlare's nodes connect."""
    DeploymentPlan("spring", {}, {}, 3).write(tmp_path)
    assert main(["deploy", "job", str(tmp_path), "north"]) == 2
    assert "accept_row_leak must be true outside loopback, here NVFlare's network" in capsys.readouterr().err
    assert not (tmp_path / "job").exists()
    assert not (tmp_path / "nodes").exists()


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


def ended_process():
    with subprocess.Popen(["true"]) as process:
        process.wait()
    return process.pid


def test_job_whose_rounds_died_without_a_word_is_submitted_again(tmp_path):
    submitted = []

    def follow(progress):
        if not submitted:
            (tmp_path / PROCESS).write_text(str(ended_process()))
            raise RunError("the server's process has ended")

    follow_jobs(tmp_path, follow, print, lambda: submitted.append(1))
    assert submitted == [1]


def test_job_is_not_submitted_to_a_server_that_has_ended(tmp_path):
    with Processes(tmp_path / "logs", {}) as processes:
        for name in (SERVER, RUN):
            processes.start(name, ["true"])
        while len(processes.find_ended()) < 2:
            continue
        with pytest.raises(RunError, match="the process 'nvflare-server' has ended; go on"):
            submit_again(processes)


def test_job_whose_rounds_do_not_begin_is_given_up(tmp_path, monkeypatch):
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(local, "time", clock)
    status = {RUN: None}
    processes = Processes(tmp_path / "logs", {})
    monkeypatch.setattr(processes, "status", status.get)
    beginning = Beginning(processes, tmp_path, 9.0)

    def look_at(*times):
        for clock.now in times:
            beginning.look()

    look_at(0.0, 100.0)  # it waits for nodes, and is not submitted yet
    status[RUN] = 0
    look_at(100.0, 109.0)
    with pytest.raises(RunError, match=r"have not begun in 9 seconds; .*nvflare-server\.log says why"):
        look_at(110.0)
    (tmp_path / PROCESS).write_text("1")
    look_at(111.0, 200.0)


def test_folder_of_the_server_has_rounds_of_one_process(tmp_path):
    with noted_rounds(tmp_path):
        assert (tmp_path / PROCESS).read_text() == str(os.getpid())
        with (
            pytest.raises(InUseError, match=f"{tmp_path}: another process runs"),
            noted_rounds(tmp_path, 0.0),
        ):
            raise AssertionError
        # It leaves no word of its own, which would be taken for that of the rounds that go on.
        assert not (tmp_path / ENDED).exists()
        (tmp_path / PROCESS).unlink()
        with pytest.raises(RunError, match=f"{tmp_path}: another process runs"):
            start_federation(Processes(tmp_path / "logs", {}), tmp_path / "home", tmp_path, {})
    assert (tmp_path / ENDED).read_text() == ""
    with pytest.raises(RunError, match="no answers"), noted_rounds(tmp_path, 0.0):
        raise RunError("no answers")
    assert (tmp_path / ENDED).read_text() == "RunError: no answers\n"


def test_rounds_that_outlive_their_server_are_waited_for(tmp_path):
    wait_for_rounds(tmp_path)  # none has begun
    with subprocess.Popen(["sleep", "0.3"]) as rounds:
        (tmp_path / PROCESS).write_text(str(rounds.pid))
        wait_for_rounds(tmp_path)
        assert not lives(rounds.pid)
