"""What a deployment is made of beside its engine: the plan, a node's folder, its worker, and processes."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
from dataclasses import replace

import numpy as np
import pytest

from fedrecon.data._clients import Clients
from fedrecon.data._sampling import Uniform
from fedrecon.deployment._messages import Address, ask_message, request_from
from fedrecon.deployment._wire import decode, encode
from fedrecon.errors import DataError, RunError
from fedrecon.experiment import config as configs
from fedrecon.experiment.cli.main import main
from fedrecon.experiment.deploying.flower_app import experiment_of, write_app
from fedrecon.experiment.deploying.framing import ask, receive, send
from fedrecon.experiment.deploying.plan import DeploymentPlan
from fedrecon.experiment.deploying.preparing import plan_of
from fedrecon.experiment.deploying.processes import Processes, descendants, free_ports, lives
from fedrecon.experiment.deploying.settings import DeploymentSettings
from fedrecon.experiment.deploying.status import describe_round
from fedrecon.experiment.deploying.worker import node_of
from fedrecon.experiment.settings.privacy import PrivacySettings
from fedrecon.experiment.settings.sections import SettingError
from fedrecon.experiment.training.build import spec_of, task_of

ITEMS = ["a", "b", "c", "d"]
SETTINGS = ["task=movielens", "data.path=x", "model.factors=3", "model.global_bias=3.5"]


def plan(*changes):
    config = configs.load(None, [*SETTINGS, *changes])
    return DeploymentPlan("spring", config.model_dump(), {"item": ITEMS}, rounds=4)


def node_folder(tmp_path, text='data = "clients.arrow"\n', **others):
    columns = {"item": np.array([2, 0, 1], np.int32), "rating": np.array([4.0, 5.0, 1.0], np.float32)}
    clients = Clients.from_columns([7, 9], [0, 2, 3], columns, {"item": ["c", "d", "a"]})
    clients.write(tmp_path / "clients.arrow")
    (tmp_path / "node.toml").write_text(text)
    plan().write(tmp_path)
    return tmp_path


def test_plan_comes_back_from_its_file(tmp_path):
    plan().write(tmp_path)
    assert DeploymentPlan.read(tmp_path) == plan()
    params = plan().algorithm().model.tables
    assert [table.leaf for table in params] == ["item/factors"]


def test_plan_without_late_answers_is_one_of_earlier_versions(tmp_path):
    plan().write(tmp_path)
    entries = json.loads((tmp_path / "deployment.json").read_text())
    assert not {"over_selection", "max_staleness", "staleness_exponent"} & entries.keys()
    other = replace(plan(), over_selection=1.3, max_staleness=2)
    other.write(tmp_path)
    assert DeploymentPlan.read(tmp_path) == other


def test_over_selection_asks_more_and_ends_at_those_wanted():
    of = plan("training.clients_per_round=10")
    assert of.sampling(30) == (Uniform(10), None)
    assert replace(of, over_selection=1.25).sampling(30) == (Uniform(13), 10)
    assert replace(of, over_selection=4.0).sampling(30) == (Uniform(30), 10)
    every = replace(plan("training.clients_per_round=50", "training.sampling=up_to"), over_selection=2.0)
    assert every.sampling(30) == (Uniform(30), 30)


def test_over_selection_and_late_answers_are_refused_where_they_cannot_be():
    changes = ["data.clients=20", "data.items=5", "training.sampling=everyone"]
    config = configs.load(None, changes)
    spec = spec_of(config, task_of(config))
    with pytest.raises(SettingError, match=r"over_selection must be 1 unless .*, here 'everyone', got 1\.5"):
        plan_of(config, spec, "spring", DeploymentSettings(over_selection=1.5))
    settings = {"noise_multiplier": 1.0, "clip": 1.0, "delta": 1e-3}
    algorithm = PrivacySettings(**settings).protect(
        spec.algorithm, spec.rounds, spec.sampling, len(spec.clients), {}
    )
    with pytest.raises(SettingError, match=r"max_staleness must be 0 under privacy, .*, got 2"):
        plan_of(config, replace(spec, algorithm=algorithm), "spring", DeploymentSettings(max_staleness=2))


def test_simulated_devices_cannot_be_deployed():
    changes = ["data.clients=20", "data.items=5", "training.clients_per_round=2"]
    config = configs.load(None, [*changes, "training.sampling=availability"])
    spec = spec_of(config, task_of(config))
    with pytest.raises(SettingError, match=r'training\.sampling must not be "availability" in a deployment'):
        plan_of(config, spec, "spring", DeploymentSettings())


def test_clients_of_the_noise_are_those_of_the_data_or_of_the_setting():
    changes = ["data.clients=20", "data.items=5", "training.sampling=everyone"]
    config = configs.load(None, changes)
    spec = spec_of(config, task_of(config))
    with pytest.raises(SettingError, match=r"num_clients must be 0 without privacy\.epsilon.*got 50"):
        plan_of(config, spec, "spring", DeploymentSettings(num_clients=50))
    assert plan_of(config, spec, "spring", DeploymentSettings()).num_clients == 0
    settings = {"noise_multiplier": 1.0, "clip": 1.0, "delta": 1e-3}
    size = len(spec.clients)
    algorithm = PrivacySettings(**settings).protect(spec.algorithm, spec.rounds, spec.sampling, size, {})
    private = replace(spec, algorithm=algorithm)
    assert plan_of(config, private, "spring", DeploymentSettings()).num_clients == size
    assert plan_of(config, private, "spring", DeploymentSettings(num_clients=50)).num_clients == 50


@pytest.mark.parametrize("text", [None, "[]", "{", '{"run": "a"}'])
def test_unusable_plan_is_named(tmp_path, text):
    if text is not None:
        (tmp_path / "deployment.json").write_text(text)
    with pytest.raises(RunError, match=r"deployment\.json: a deployment needs"):
        DeploymentPlan.read(tmp_path)


def test_what_would_be_read_from_data_is_refused():
    with pytest.raises(SettingError, match="global_bias must be a number"):
        plan("model.global_bias=mean").algorithm()


@pytest.mark.parametrize("name", ["centralized", "local_only"])
def test_algorithms_whose_clients_send_no_deltas_are_refused(name):
    with pytest.raises(SettingError, match=rf"algorithm\.name must be .*, got '{name}', which exchanges"):
        plan(f"algorithm.name={name}").algorithm()


def test_node_reads_its_folder_in_the_vocabulary_of_the_run(tmp_path):
    node = node_of(node_folder(tmp_path))
    assert node.names == ["7", "9"]
    request = decode(node.handle(encode(ask_message(Address("spring", 0, 0, "7")))))
    # The file numbers c, d, a; the run a, b, c, d.
    assert request_from(request)["item/factors"].tolist() == [0, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('data = "clients.arrow"\ncleint = "user"\n', r"node\.toml: the keys are .* got 'cleint'"),
        ('data = "nothing.arrow"\n', r"nothing\.arrow: there is no such file"),
        ("data = \n", r"node\.toml: cannot be read"),
    ],
)
def test_unusable_node_is_named(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        node_of(node_folder(tmp_path, text))


def test_worker_answers_at_its_socket_and_ends_with_the_process_that_started_it(tmp_path, repository):
    """The process between is killed, as a supervisor may be: nobody asks the worker to end."""
    path = tmp_path / "w"
    environment = {**os.environ, "PYTHONPATH": str(repository / "src")}
    words = [
        sys.executable,
        "-m",
        "fedrecon.experiment.deploying.worker",
        str(node_folder(tmp_path)),
        str(path),
    ]
    between = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess, time; subprocess.Popen({words!r}); time.sleep(300)"],
        env=environment,
    )
    try:
        end = time.monotonic() + 120
        while not path.exists() and time.monotonic() < end:
            time.sleep(0.05)
        family = descendants([between.pid])
        assert path.stat().st_mode & 0o077 == 0
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
            connection.connect(str(path))
            send(connection, b"")
            assert json.loads(receive(connection)) == ["7", "9"]
            send(connection, b"garbage")
            assert decode(receive(connection)).notes == {"reason": "checksum"}
    finally:
        between.send_signal(signal.SIGKILL)
        between.wait()
    end = time.monotonic() + 30
    while any(map(lives, family)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(lives, family))
    assert not path.exists()


def test_long_messages_arrive_whole_over_sockets_with_timeouts():
    left, right = socket.socketpair()
    data = np.arange(300_000, dtype=np.int64).tobytes()
    with left, right:
        left.settimeout(30)
        right.settimeout(30)
        sender = threading.Thread(target=send, args=[left, data])
        sender.start()
        assert receive(right) == data
        sender.join()
        left.close()
        with pytest.raises(OSError, match="gone"):
            receive(right)


def test_messages_are_sent_again_to_a_process_that_was_started_again(tmp_path):
    """The first process takes two messages, answers one, and ends; the second one comes later."""
    path, arrived = str(tmp_path / "socket"), []

    def answer(count, answered):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            connection = listener.accept()[0]
            with connection:
                for number in range(count):
                    arrived.append(receive(connection))
                    if number < answered:
                        send(connection, b"to " + arrived[-1])
        os.unlink(path)

    def answer_twice():
        answer(2, 1)
        time.sleep(0.3)
        answer(2, 2)

    thread = threading.Thread(target=answer_twice)
    thread.start()
    answers = ask(path, [b"one", b"two", b"three"], timeout=60.0, patience=60.0)
    thread.join()
    assert answers == [b"to one", b"to two", b"to three"]
    assert arrived == [b"one", b"two", b"two", b"three"]
    with pytest.raises(FileNotFoundError):
        ask(path, [b"one"], timeout=60.0, patience=0.2)


def test_processes_end_with_what_they_started(tmp_path):
    inner = "subprocess.Popen(['sleep', '300'], start_new_session=True)"
    code = f"import subprocess, time; {inner}; time.sleep(300)"
    with Processes(tmp_path / "logs", {}) as processes:
        processes.start("one", [sys.executable, "-c", code])
        end = time.monotonic() + 30
        while len(family := descendants([processes.pid("one")])) < 2 and time.monotonic() < end:
            time.sleep(0.05)
        assert len(family) == 2 and all(map(lives, family))
    assert not any(map(lives, family))


def wait_for_end(processes):
    end = time.monotonic() + 30
    while not processes.find_ended() and time.monotonic() < end:
        time.sleep(0.01)


def test_process_that_ends_is_started_again_a_few_times(tmp_path):
    with Processes(tmp_path / "logs", {}) as processes:
        processes.start("one", [sys.executable, "-c", "print('here')"])
        for _ in range(3):
            wait_for_end(processes)
            processes.start_again("one")
        wait_for_end(processes)
        with pytest.raises(RunError, match=r"one\.log: the process 'one' has ended 4 times"):
            processes.start_again("one")
    assert (tmp_path / "logs" / "one.log").read_text().count("here") == 4


def test_free_ports_differ():
    assert len(set(free_ports(5))) == 5


def test_app_is_a_few_lines_and_its_experiment(tmp_path):
    config = configs.load(None, SETTINGS)
    write_app(tmp_path / "app", config)
    project = tomllib.loads((tmp_path / "app" / "pyproject.toml").read_text())
    components = project["tool"]["flwr"]["app"]["components"]
    for dotted in components.values():
        module, name = dotted.split(":")
        text = (tmp_path / "app" / f"{module.replace('.', '/')}.py").read_text()
        assert f"{name} = " in text and len(text.splitlines()) < 6
    assert experiment_of(tmp_path / "app") == config
    with pytest.raises(RunError, match="new or empty folder"):
        write_app(tmp_path / "app", config)
    with pytest.raises(RunError, match=r"must have a experiment\.toml"):
        experiment_of(tmp_path)


def test_commands_tell_what_is_missing(tmp_path, capsys):
    assert main(["deploy", "status", str(tmp_path / "run")]) == 1
    assert main(["deploy", "resume", str(tmp_path / "run")]) == 1
    assert main(["deploy", "local", str(tmp_path), "--out", str(tmp_path / "run")]) == 1
    shown = capsys.readouterr().err
    assert shown.count("no deployment on this machine was begun") == 2
    assert "as `deploy init` writes it" in shown


def test_round_in_words():
    line = {"round": 0, "attempt": 0, "released": True, "asked": 5, "answered": 4, "late": 1}
    line |= {"refused": {"weight": 1}, "bytes_down": 1000, "bytes_up": 2000, "seconds": 1.25}
    after = "1 refused: weight; 1,000 bytes down, 2,000 up; 1.2 s"
    assert describe_round(line) == f"round 1 done: 4 of 5 clients answered, 1 late, {after}"
    line["stale"] = 1
    assert describe_round(line) == (
        f"round 1 done: 4 of 5 clients answered, 1 late, 1 of earlier rounds counted, {after}"
    )
