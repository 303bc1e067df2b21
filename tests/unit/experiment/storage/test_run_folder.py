import os
import subprocess
import sys
from contextlib import closing

import pytest

from fedrecon._files import leftovers
from fedrecon.errors import RunError
from fedrecon.experiment.storage.environment import environment, revision
from fedrecon.experiment.storage.run_folder import CONFIG, ENVIRONMENT, FINGERPRINT, SETS, RunFolder

CONFIGURATION = {"name": "a", "training": {"rounds": 3}, "data": {"path": "here"}}
MARKS = {"seed": 0, "clients": {"train": "abc"}}


def test_a_fresh_folder_gets_its_configuration(tmp_path):
    folder = RunFolder(tmp_path / "deep" / "run", CONFIGURATION, MARKS)
    folder.close()
    assert sorted(p.name for p in folder.path.iterdir()) == [".lock", CONFIG, FINGERPRINT]
    assert folder.read(CONFIG) == 'name = "a"\n\n[training]\nrounds = 3\n\n[data]\npath = "here"\n'
    assert folder.read("nothing") is None


def test_the_same_run_opens_it_again_wherever_its_data_are(tmp_path):
    RunFolder(tmp_path, CONFIGURATION, MARKS).close()
    RunFolder(tmp_path, {**CONFIGURATION, "data": {"path": "there"}}, MARKS).close()


@pytest.mark.parametrize(
    ("configuration", "marks", "message"),
    [
        ({"training": {"rounds": 4}}, {}, "training.rounds is 3 there and 4 here"),
        ({"name": "b", "training": {"rounds": 4}}, {}, "name is 'a' there and 'b' here"),
        ({"training": {}}, {}, "training.rounds is 3 there and not set here"),
        ({"more": 1}, {}, "more is not set there and 1 here"),
    ],
)
def test_another_run_is_refused_by_its_first_difference(tmp_path, configuration, marks, message):
    RunFolder(tmp_path, CONFIGURATION, MARKS).close()
    with pytest.raises(RunError) as caught:
        RunFolder(tmp_path, {**CONFIGURATION, **configuration}, {**MARKS, **marks})
    assert str(caught.value) == f"{tmp_path}: this run folder belongs to another configuration: {message}"


def test_other_data_are_told_by_their_clients_and_examples(tmp_path):
    other = {**MARKS, "clients": {"train": "xyz"}}
    message = f"{tmp_path}: this run folder belongs to other data: the training clients "

    def refusal(counts):
        with pytest.raises(RunError) as caught:
            RunFolder(tmp_path, CONFIGURATION, other, counts)
        assert str(caught.value).startswith(message)
        return str(caught.value).removeprefix(message)

    with closing(RunFolder(tmp_path, CONFIGURATION, MARKS)) as folder:
        pass
    assert refusal(None) == "or their examples are others"
    folder.write_json(ENVIRONMENT, {SETS: {"train": {"clients": 1200, "examples": 1}}})
    sizes = "1,200 clients with 1 example"
    other_size, same_size = ({"clients": 1, "examples": 50}, {"clients": 1200, "examples": 1})
    assert refusal({"train": other_size}) == f"are {sizes} there and 1 client with 50 examples here"
    assert refusal({"train": same_size}) == f"or their examples are others, though as many: {sizes}"
    # A private run does not tell how many examples there were.
    folder.write_json(ENVIRONMENT, {SETS: {"train": {"clients": 1200}}})
    assert refusal({"train": other_size}) == "are 1,200 clients there and 1 client with 50 examples here"
    assert refusal({"train": same_size}) == "or their examples are others, though as many: 1,200 clients"


def test_a_folder_with_something_else_in_it_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(RunError, match=r"a run needs an empty folder, but this one holds 'thesis\.tex'"):
        RunFolder(tmp_path, CONFIGURATION, MARKS)
    assert not (tmp_path / CONFIG).exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"file/run: the run folder cannot be written: Not a directory"):
        RunFolder(tmp_path / "file" / "run", CONFIGURATION, MARKS)


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    # Permissions do not hold back root, whom tests may run as.
    def refuse(source, target):
        raise PermissionError(13, "Permission denied", str(target))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(RunError, match=r"config\.toml: the run folder cannot be written: Permission denied"):
        RunFolder(tmp_path, CONFIGURATION, MARKS)
    monkeypatch.undo()
    RunFolder(tmp_path, CONFIGURATION, MARKS).close()


def test_two_processes_do_not_meet_in_a_folder(tmp_path):
    folder = RunFolder(tmp_path, CONFIGURATION, MARKS)
    with pytest.raises(RunError, match="another process is using this run folder"):
        RunFolder(tmp_path, CONFIGURATION, MARKS)
    folder.close()
    RunFolder(tmp_path, CONFIGURATION, MARKS).close()


def test_leftovers_of_a_kill_are_cleared(tmp_path):
    (tmp_path / ".config.toml.writing").write_text("half")
    (tmp_path / ".old.removing").mkdir()
    RunFolder(tmp_path, CONFIGURATION, MARKS).close()
    assert leftovers(tmp_path) == []


def test_a_damaged_text_is_named(tmp_path):
    folder = RunFolder(tmp_path / "run", {}, {})
    try:
        assert folder.read("environment.json") is None
        (tmp_path / "run" / "environment.json").write_bytes(b'{"a"\xba 48}')
        with pytest.raises(RunError, match=r"environment\.json: must be UTF-8 text, .* at byte 4"):
            folder.read("environment.json")
    finally:
        folder.close()


def test_the_environment_is_recorded(repository):
    found = environment(7)
    assert found["seed"] == 7
    assert found["packages"]["jax"] and "not installed" not in found["packages"]["jax"]
    assert found["devices"][0].startswith("cpu:0")
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))


def test_the_revision_is_that_of_tracked_files(tmp_path):
    assert revision(tmp_path) == {}
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    assert revision(tmp_path) == {}
    (tmp_path / "file").write_text("1")
    subprocess.run([*git, "add", "file"], check=True)
    subprocess.run([*git, "commit", "-qm", "one"], check=True)
    first = revision(tmp_path)
    assert len(first["revision"]) == 40
    assert first["changed"] is False
    (tmp_path / "file").write_text("2")
    assert revision(tmp_path) == {**first, "changed": True}
