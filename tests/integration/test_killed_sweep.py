"""A sweep of one process that is killed goes on as if it had not been."""

import csv
import os
import signal
import subprocess
import sys
import time

import pytest

EXPERIMENT = """\
name = "s"
[data]
clients = 60
items = 30
[model]
factors = 2
[training]
rounds = 6
checkpoint_every = 2
clients_per_round = 5
[evaluation]
every = 2
"""
SPACE = "algorithm.update.optimizer.learning_rate = { low = 0.1, high = 2.0, log = true }\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweeps")
    (folder / "e.toml").write_text(EXPERIMENT)
    (folder / "space.toml").write_text(SPACE)
    return folder


def sweep(home, name):
    command = [
        sys.executable,
        "-m",
        "fedrecon",
        "sweep",
        "e.toml",
        "space.toml",
        "--trials",
        "4",
        "--out",
        name,
    ]
    environment = {**os.environ, "XDG_CACHE_HOME": str(home / "cache")}
    return subprocess.Popen([*command, "--out", name], cwd=home, env=environment, stdout=subprocess.DEVNULL)


def tried(folder):
    with open(folder / "trials.csv", newline="") as file:
        return [
            {name: cell for name, cell in row.items() if name != "seconds"} for row in csv.DictReader(file)
        ]


def entries(folder):
    """How many things the sweep and its trials have written so far."""
    journal = folder / "journal.log"
    lines = journal.read_bytes().count(b"\n") if journal.exists() else 0
    return (
        lines
        + sum(1 for _ in folder.glob("trials/*/*"))
        + sum(1 for _ in folder.glob("trials/*/checkpoints/*"))
    )


@pytest.fixture(scope="module")
def undisturbed(home):
    assert sweep(home, "whole").wait() == 0
    return tried(home / "whole"), entries(home / "whole")


def check(home, undisturbed, share):
    """Kills a sweep when it has written a share of what it writes, and lets it go on."""
    whole, total = undisturbed
    name = f"killed-{share:.3f}"
    process = sweep(home, name)
    while entries(home / name) < share * total and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert sweep(home, name).wait() == 0
    assert tried(home / name) == whole


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_the_same_trials_after_a_kill(home, undisturbed, share):
    check(home, undisturbed, share)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(40))
def test_the_same_trials_after_a_kill_at_many_moments(home, undisturbed, number):
    check(home, undisturbed, (number + 0.5) / 40)
