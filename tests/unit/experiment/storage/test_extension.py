"""A run that has begun gets more rounds."""

import json
import tomllib

import pytest

from fedrecon.errors import RunError
from fedrecon.experiment.storage import extension, run_folder
from fedrecon.experiment.storage.digests import seal
from fedrecon.experiment.storage.extension import extend
from fedrecon.experiment.storage.run_folder import RunFolder, finish_extension, read_fingerprint

CONFIGURATION = {"name": "a", "training": {"rounds": 3}}
MORE = {"name": "a", "training": {"rounds": 7}}
MARKS = {"seed": 0, "rounds": 3, "clients": {"train": "abc"}}


@pytest.fixture
def run(tmp_path):
    folder = RunFolder(tmp_path, CONFIGURATION, MARKS)
    for name in (run_folder.RESULT, run_folder.SUMMARY):
        folder.write(name, "of three rounds")
    folder.close()
    return tmp_path


def test_settings_and_fingerprint_have_more_rounds_and_the_result_goes(run):
    extend(run, 7)
    assert tomllib.loads((run / run_folder.CONFIG).read_text()) == MORE
    assert read_fingerprint(run) == {**MARKS, "rounds": 7}
    assert sorted(p.name for p in run.iterdir()) == [".lock", run_folder.CONFIG, run_folder.FINGERPRINT]
    RunFolder(run, MORE, {**MARKS, "rounds": 7}).close()
    with pytest.raises(RunError, match=r"training\.rounds is 7 there and 3 here"):
        RunFolder(run, CONFIGURATION, MARKS)


def test_as_many_rounds_change_nothing(run):
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    extend(run, 3)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_a_folder_in_use_is_refused(run):
    folder = RunFolder(run, CONFIGURATION, MARKS)
    with pytest.raises(RunError, match="another process is using this run folder"):
        extend(run, 7)
    folder.close()


@pytest.mark.parametrize("write", [0, 1, 2, 3])
def test_a_kill_at_any_moment_leaves_the_one_or_the_other(run, monkeypatch, write):
    """The files are written one after the other: the process ends before one of them is."""
    done = []

    def until_the_kill(path, content):
        if len(done) == write:
            raise KeyboardInterrupt
        done.append(path.name)
        original(path, content)

    original = run_folder.write_atomically
    with monkeypatch.context() as patch:
        for module in (extension, run_folder):
            patch.setattr(module, "write_atomically", until_the_kill)
        if write < 3:
            with pytest.raises(KeyboardInterrupt):
                extend(run, 7)
        else:
            extend(run, 7)
    assert done == [run_folder.EXTENSION, run_folder.CONFIG, run_folder.FINGERPRINT][:write]
    rounds = 7 if write else 3
    configuration = MORE if write else CONFIGURATION
    RunFolder(run, configuration, {**MARKS, "rounds": rounds}).close()
    assert not (run / run_folder.EXTENSION).exists()
    assert (run / run_folder.RESULT).exists() == (not write)


def test_damage_is_not_taken_over(run):
    content = {"config": "name = 1", "fingerprint": {}}
    (run / run_folder.EXTENSION).write_text(json.dumps({**seal(content), "config": "name = 2"}))
    with pytest.raises(RunError, match=r"extension\.json: is damaged"):
        finish_extension(run)
