"""Personalisation by a local cluster of Ray with two processes of one core, of which one is killed twice."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedrecon.experiment.cli.main import main

pytest.importorskip("ray", reason="Ray is not installed: pip install 'fedrecon[ray]'")

# Of 8,192 clients a part: six parts, three for each process.
CLIENTS = 45_000


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ray")
    data = str(folder / "clients.arrow")
    assert (
        main(["generate", "--clients", str(CLIENTS), "--items", "300", "--ratings", "21", "--out", data]) == 0
    )
    settings = ["data.order=file", "training.rounds=2", "training.clients_per_round=20", "model.factors=30"]
    settings += [f"data.fractions.{name}=0.001" for name in ("validation", "test")]
    settings += ["algorithm.reconstruct={kind='newton'}"]
    changes = [word for setting in settings for word in ("--set", setting)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedrecon.experiment.reporting.plots.write", lambda *_: [])
        assert (
            main(
                ["run", "experiments/movielens.toml", "--data", data, "--out", str(folder / "run"), *changes]
            )
            == 0
        )
    return folder


def command(home, out, *more):
    arguments = ["personalize", str(home / "run"), "--data", str(home / "clients.arrow"), "--out", str(out)]
    return [sys.executable, "-m", "fedrecon", *arguments, *more]


def workers_below(process):
    """The processes of Ray's actors among all that a process has started, by their names."""
    parents, names = {}, {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "stat").read_text().rpartition(")")[2].split()
            parents[int(path.name)] = int(words[1])
            names[int(path.name)] = (path / "cmdline").read_bytes()
        except (OSError, ProcessLookupError):
            continue  # it has ended

    def is_below(number):
        while number in parents:
            number = parents[number]
            if number == process:
                return True
        return False

    return [number for number, name in names.items() if name.startswith(b"ray::Worker") and is_below(number)]


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc, which is Linux's")
def test_killed_twice_the_file_is_that_of_one_process(home, tmp_path):
    whole, out = tmp_path / "whole.parquet", tmp_path / "out.parquet"
    subprocess.run(command(home, whole), check=True, stdout=subprocess.DEVNULL)
    written, killed = {}, []
    folder = out.with_name(f".{out.name}.parts")
    with subprocess.Popen(
        command(home, out, "--ray", "--workers", "2"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        while process.poll() is None:
            for path in folder.glob("[0-9]*.parquet"):
                try:
                    written.setdefault(path.name, set()).add(path.stat().st_mtime_ns)
                except FileNotFoundError:
                    continue  # the parts are being joined
            if len(killed) < 2 and len(written) > 2 * len(killed):
                # One that was killed may still be listed.
                for number in [x for x in workers_below(process.pid) if x not in killed][:1]:
                    os.kill(number, signal.SIGKILL)
                    killed.append(number)
            time.sleep(0.01)
        said = process.stdout.read()
    assert process.returncode == 0, said
    # A worker that is killed before it has a part to make is replaced without a word.
    assert len(killed) == 2 and 1 <= said.count("died; another one goes on") <= 2
    assert out.read_bytes() == whole.read_bytes()
    # Whatever was on the disk is not made again: a process loses the part that it is at.
    assert all(len(times) == 1 for times in written.values())
    assert not folder.exists()


def test_other_options_are_refused(home, tmp_path):
    out = tmp_path / "out.parquet"
    subprocess.run(command(home, out, "--share", "1/2"), check=True, stdout=subprocess.DEVNULL)
    found = subprocess.run(
        command(home, out, "--top", "5", "--ray", "--workers", "2"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 1 and "belongs to another request: it was made without --top" in found.stderr
    assert "Traceback" not in found.stderr
