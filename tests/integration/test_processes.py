"""A run of several processes: the same numbers as of one, and what becomes of it when one of them ends."""

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from typing import NamedTuple

import numpy as np
import pyarrow.parquet
import pytest

from fedrecon.experiment.storage.digests import read_json

ROUNDS, EVERY = 9, 2
# Clients that keep something: so that a resume has to bring it to all processes.
SMALL = f"""
name = "small"
task = "synthetic_ratings"
[data]
clients = 60
items = 40
cap = 40
fractions = {{ train = 0.6, validation = 0.2, test = 0.2 }}
held_out = {{ validation = 0.1, test = 0.1 }}
[model]
factors = 4
[algorithm]
name = "fedalt"
[training]
rounds = {ROUNDS}
clients_per_round = 10
checkpoint_every = {EVERY}
[evaluation]
every = 3
select = "best"
"""

# The command line, which one of the processes leaves with a signal after a round.
SIGNALLED = """
import os, sys, time
from fedrecon.simulation._simulation import Simulation
process, after, signal, original = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Simulation.rounds
def rounds(self, state, count):
    for done in original(self, state, count):
        if os.environ["JAX_PROCESS_ID"] == process and done.number == after:
            os.kill(os.getpid(), signal)
            time.sleep(3)  # the others do not go on without this one, and hear of it
        yield done
Simulation.rounds = rounds
from fedrecon.experiment.cli.main import main
sys.exit(main(sys.argv[4:]))
"""

# Tables that a client's examples touch in several rows, and rows that must be counted over all processes.
COUNTED = """
import sys
import jax
if len(sys.argv) > 1:
    jax.distributed.initialize()
import numpy as np
from fedrecon.algorithms._fedrecon import fedrecon
from fedrecon.core._splits import AlternateBatches
from fedrecon.evaluation._evaluate import evaluate
from fedrecon.experiment.training.train import train
from fedrecon.simulation._block_plan import Plan, Slot
from fedrecon.data._sampling import Uniform
from tests.small import federation, rating_model, sgd, solver
model = rating_model(two_fields=True, scale=True)
algorithm = fedrecon(model, solver(), solver(), sgd(1.0), AlternateBatches(2))
clients, plan = federation(repeats=True), Plan((Slot(2, 4, 12),))
result = train(algorithm, clients, 3, clients_per_round=7, plan=plan, evaluate=clients)
if jax.process_index() == 0:
    for row in result.records:
        if row.metric != "seconds":
            print(*row)
"""


# What JAX's transport writes of its connections: several threads do, and their pieces may be mixed.
GLOO = re.compile(
    r"\[Gloo\] Rank|is connected to|peer ranks\.|Expected number of connected peer ranks is :|\d+|\s"
)


class Done(NamedTuple):
    """How a process ended."""

    status: int
    out: str
    errors: str

    @property
    def lines(self):
        """What the library printed, by lines."""
        return [line for line in self.out.splitlines() if GLOO.sub("", line)]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    (folder / "small.toml").write_text(SMALL)
    return folder


@pytest.fixture(scope="module")
def start(home, repository):
    """`start(1, "-m", …)`: some processes of Python, two devices each, that know of each other."""

    def begin(count, *arguments, slurm=False, own=((), ())):
        port = str(_free_port())
        processes = []
        for number in range(count):
            where = {
                "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
                "JAX_NUM_PROCESSES": str(count),
                "JAX_PROCESS_ID": str(number),
            }
            if slurm:
                where = {
                    "JAX_COORDINATOR_PORT": port,
                    "SLURM_JOB_ID": "1",
                    "SLURM_STEP_NODELIST": "localhost",
                    "SLURM_NTASKS": str(count),
                    "SLURM_PROCID": str(number),
                    "SLURM_LOCALID": "0",
                }
            devices = 2 if count > 1 else 1
            environment = {
                **os.environ,
                **where,
                "JAX_COORDINATOR_BIND_ADDRESS": f"127.0.0.1:{port}",
                "JAX_PLATFORMS": "cpu",
                "PYTHONPATH": os.pathsep.join([str(repository / "src"), str(repository)]),
                "XDG_CACHE_HOME": str(home / "cache"),
                "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}",
            }
            command = [sys.executable, *map(str, arguments), *map(str, own[number])]
            pipe = subprocess.PIPE
            processes.append(
                subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment, cwd=home)
            )
        return processes

    return begin


@pytest.fixture(scope="module")
def two(start):
    """`two("run", …)`: the command in two processes, and how they ended."""

    def call(*arguments, program=("-m", "fedrecon"), slurm=False, own=()):
        own = [(x, "--distributed") for x in own] or [("--distributed",)] * 2
        return ended(start(2, *program, *arguments, slurm=slurm, own=own))

    return call


def ended(processes):
    try:
        found = [process.communicate(timeout=180) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [Done(p.returncode, *texts) for p, texts in zip(processes, found, strict=True)]


def _free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def whole(two, home):
    """The folder of an undisturbed run of two processes, and what they printed."""
    done = two("run", "small.toml", "--out", "whole")
    assert [x.status for x in done] == [0, 0], done
    return home / "whole", done


def numbers(folder):
    with open(folder / "metrics.csv", newline="") as file:
        rows = [row for row in csv.reader(file) if row[4] != "seconds"][1:]
    return [row[:5] for row in rows], np.array([float(row[5]) for row in rows])


def same(folder, other, **tolerance):
    names, values = numbers(folder)
    others, expected = numbers(other)
    assert names == others
    assert {name[0] for name in names} >= {str(i + 1) for i in range(ROUNDS)}
    np.testing.assert_allclose(values, expected, **tolerance)
    for name in ("clients-test.parquet", "clients-validation-standard_eval.parquet"):
        tables = [pyarrow.parquet.read_table(path / name).to_pydict() for path in (folder, other)]
        assert tables[0]["client"] == tables[1]["client"]
        np.testing.assert_allclose(tables[0]["rmse"], tables[1]["rmse"], **tolerance)


def test_two_processes_compute_what_one_does(whole, start, home):
    folder, _ = whole
    (alone,) = ended(start(1, "-m", "fedrecon", "run", "small.toml", "--out", "alone"))
    assert alone.status == 0, alone.errors
    same(folder, home / "alone", rtol=1e-4, atol=1e-5)
    # Not the numbers of the start: the factors were trained.
    loss = [
        row
        for row in zip(*numbers(folder), strict=True)
        if row[0][1:] == ["train", "training", "examples", "loss"]
    ]
    assert loss[-1][1] < 0.9 * loss[0][1]
    plans = [read_json(path / "plan.json")["slots"] for path in (folder, home / "alone")]
    assert all(slot["clients"] % 4 == 0 for slot in plans[0])
    assert plans[0] != plans[1]


def test_the_first_process_alone_writes_and_prints(whole):
    folder, (first, second) = whole
    assert "test " in first.out
    assert second.lines == []
    assert not any("was ended" in one.errors for one in (first, second))
    assert json.loads((folder / "result.json").read_text())["rounds"] == ROUNDS
    assert sorted(int(p.name) for p in (folder / "checkpoints").glob("[0-9]*")) == [ROUNDS - 1, ROUNDS]


def test_evaluation_by_two_processes(whole, two):
    folder, _ = whole
    before = pyarrow.parquet.read_table(folder / "clients-test.parquet").to_pydict()
    first, second = two("evaluate", "whole")
    assert (first.status, second.status) == (0, 0), first.errors + second.errors
    assert "parameters after round" in first.out and "parameters" not in second.out
    after = pyarrow.parquet.read_table(folder / "evaluated-clients-test.parquet").to_pydict()
    np.testing.assert_allclose(after["rmse"], before["rmse"], rtol=1e-5)


def test_a_lost_process_ends_the_others_and_the_run_goes_on(whole, two, home):
    folder, _ = whole
    again = ("run", "small.toml", "--out", "lost")
    for lost, after in ((1, 3), (0, 5)):
        started = time.monotonic()
        done = two(lost, after, int(signal.SIGKILL), *again, program=("-c", SIGNALLED))
        assert time.monotonic() - started < 150
        assert done[lost].status == -signal.SIGKILL
        left = done[1 - lost]
        assert left.status not in (0, -signal.SIGKILL)
        # Also where JAX was faster to end the process.
        assert "process of this run was lost" in left.errors
        assert "started again, all go on from the last checkpoint" in left.errors
        assert not (home / "lost" / "result.json").exists()
    done = two(*again, slurm=True)
    assert [x.status for x in done] == [0, 0], done
    assert json.loads((home / "lost" / "result.json").read_text())["resumed_from"] == 4
    same(home / "lost", folder, rtol=0, atol=0)


@pytest.mark.slow
def test_ctrl_c_in_any_process_stops_all_after_the_same_round(whole, two, home):
    folder, _ = whole
    again = ("run", "small.toml", "--out", "stopped")
    done = two(1, 5, int(signal.SIGINT), *again, program=("-c", SIGNALLED))
    assert [x.status for x in done] == [130, 130], done
    stopped = max(int(p.name) for p in (home / "stopped" / "checkpoints").glob("[0-9]*"))
    assert f"Interrupted after round {stopped}" in done[0].out
    assert 5 <= stopped < ROUNDS
    done = two("resume", "stopped")
    assert [x.status for x in done] == [0, 0], done
    assert f"going on from the checkpoint of round {stopped}" in done[0].out
    same(home / "stopped", folder, rtol=0, atol=0)


def test_processes_that_differ_are_refused(two, home):
    done = two("run", "small.toml", "--out", "other", "--seed", own=(3, 4))
    for one in done:
        assert one.status == 1
        assert "same settings and data: settings.seed is 3 in process 0 and 4 in process 1" in one.errors
    assert not (home / "other").exists()


@pytest.mark.slow
def test_what_goes_wrong_in_one_process_is_told_by_all(two):
    done = two("run", "small.toml", "--out", own=("small.toml/no", "fine"))
    assert [x.status for x in done] == [1, 1]
    assert "cannot be written" in done[0].errors
    assert "process 0 of this run failed" in done[1].errors


def test_rows_are_counted_over_all_processes(start):
    (alone,) = ended(start(1, "-c", COUNTED))
    first, second = ended(start(2, "-c", COUNTED, "several", slurm=True))
    assert [alone.status, first.status, second.status] == [0, 0, 0], first.errors
    names = [[line.split()[:-1] for line in x.lines] for x in (alone, first)]
    assert names[0] == names[1]
    assert any("bytes_up" in name for name in names[0])
    values = [[float(line.split()[-1]) for line in x.lines] for x in (alone, first)]
    np.testing.assert_allclose(values[1], values[0], rtol=1e-4)
