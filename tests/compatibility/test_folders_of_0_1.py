"""Folders that version 0.1.0 left in the middle of a training are still good for everything.

`make_fixtures.py` made them with the code of commit fbc829d, and wrote down what that code makes of them.
"""

import json
import shutil
import subprocess
import sys
import tarfile
from functools import cache
from pathlib import Path

import pytest
from tests.compatibility import uses
from tests.compatibility.measured import assert_agree, fedrecon

import fedrecon as fr
from fedrecon.errors import UncheckedWarning

# Folders and client files of that version have no digests, of which the last test is.
pytestmark = pytest.mark.filterwarnings("ignore::fedrecon.errors.UncheckedWarning")

DATA = Path(__file__).with_name("data")


def expected(name):
    return json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def home(command_line):
    """The working folder with all fixtures in it."""
    for name in uses.FIXTURES:
        with tarfile.open(DATA / f"{name}.tar.xz") as archive:
            archive.extractall(command_line, filter="data")
    return command_line


@pytest.fixture(scope="module")
def resumed(home):
    """`resumed(name)`: what `uses.resume` tells of a fixture, which goes on once for all tests."""
    return cache(uses.resume)


@pytest.mark.parametrize("name", uses.RUNS)
def test_it_goes_on_to_the_same_numbers(resumed, name):
    there = expected(name)["resume"]
    assert there["finished"] and 0 < there["resumed_from"] < there["rounds"]
    assert (there["recomputed_rounds"] > 0) == (name == "stateful")
    assert_agree(resumed(name), there, name)


@pytest.mark.parametrize("name", uses.RUNS)
def test_it_is_evaluated(resumed, name):
    resumed(name)
    assert_agree(uses.evaluate(name), expected(name)["evaluate"], name)


@pytest.mark.parametrize("name", uses.RUNS)
def test_it_personalizes(resumed, name):
    resumed(name)
    assert_agree(uses.personalize(name), expected(name)["personalize"], name)


@pytest.mark.parametrize("pair", uses.COMPARED)
def test_runs_are_compared(resumed, pair):
    for name in uses.COMPARED[pair]:
        resumed(name)
    assert_agree(uses.compare(pair), expected("compared")[pair], pair)


def test_a_client_file_is_read(home):
    assert uses.read_clients() == expected("clients")


def test_another_run_is_still_refused(home, capsys):
    """Reading old fingerprints leniently would let a folder go on with other settings."""
    config = (home / "next_word" / uses.RUN / "config.toml").read_text(encoding="utf-8")
    assert "hidden = 5" in config
    (home / "other.toml").write_text(config.replace("hidden = 5", "hidden = 6"), encoding="utf-8")
    assert fedrecon("run", "other.toml", "--out", Path("next_word", uses.RUN)) == 1
    assert "belongs to another configuration: model.network.hidden is 5 there" in capsys.readouterr().err


def test_it_is_said_that_nothing_is_checked(home, tmp_path):
    run = shutil.copytree(home / "command_line" / uses.RUN, tmp_path / "run")
    done = subprocess.run(
        [sys.executable, "-m", "fedrecon", "resume", str(run)], capture_output=True, text=True, check=True
    )
    text = f"fedrecon: {run}: not checked: this run folder of an earlier version has no digests\n"
    assert done.stderr == text
    with pytest.warns(UncheckedWarning, match="not checked"):
        fr.Clients.open(home / uses.CLIENTS)
