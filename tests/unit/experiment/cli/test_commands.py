"""What the command line makes of its options before anything is run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedrecon.errors import RunError
from fedrecon.experiment import config as configs
from fedrecon.experiment.cli import runs
from fedrecon.experiment.cli.main import COMMANDS, group, main
from fedrecon.experiment.cli.options import Invocation
from fedrecon.experiment.settings.sections import SettingError


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments):
    """A command without the command line's handling of errors."""
    with group().make_context("fedrecon", list(arguments), obj=Invocation(0.0)) as context:
        return group().invoke(context)


def test_every_command_is_a_module_and_has_a_line(repository):
    modules = (repository / "src/fedrecon/experiment/cli/commands").glob("[a-z]*.py")
    assert {path.stem for path in modules} == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_keeps_the_lines_of_its_examples(name, capsys):
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"Usage: fedrecon {name} ")
    assert "--traceback" in shown


def test_mistakes_show_how_the_command_is_used(capsys):
    assert main(["run", "--seeds", "many"]) == 2
    shown = capsys.readouterr().err
    assert "Usage: fedrecon run [OPTIONS] [EXPERIMENT]" in shown
    assert "Invalid value for '--seeds': 'many' is not a valid integer" in shown
    assert main(["runn"]) == 2
    assert "No such command 'runn'" in capsys.readouterr().err


@pytest.fixture
def configured(monkeypatch):
    """The configuration that `fedrecon run` would train."""

    def of(*arguments):
        trained = []
        monkeypatch.setattr(runs, "train", lambda config, *_: trained.append(config) or 0)
        call("run", "--out", "out", *arguments)
        return trained[0]

    return of


def test_what_a_task_takes_from_a_package_is_no_path(here, configured):
    asked = ("--set", "task=next_word", "--data", "chitchat")
    assert configured(*asked).data.path == "chitchat"
    (here / "chitchat").mkdir()
    assert configured(*asked).data.path == str(here / "chitchat")


def test_another_tasks_packages_are_paths(here, configured):
    assert configured("--set", "task=movielens", "--data", "chitchat").data.path == str(here / "chitchat")


def test_a_run_is_resumed_with_packaged_data(here):
    (here / "run").mkdir()
    saved = configs.load(None, ["task=next_word", "data.path=elsewhere"])
    (here / "run" / "config.toml").write_text(configs.text(saved))
    assert runs.saved_config("run", "chitchat").data.path == "chitchat"
    assert runs.saved_config("run", "texts").data.path == str(here / "texts")
    assert runs.saved_config("run").data.path == "elsewhere"


def test_the_folder_of_several_seeds_is_no_run(here):
    (here / "five" / "seed-0").mkdir(parents=True)
    (here / "five" / "seed-0" / "config.toml").write_text("")
    with pytest.raises(RunError, match=r"five: must be the folder of one run.* with --seeds and --out five"):
        runs.saved_config("five")


def test_options_win_over_settings(here, configured):
    config = configured("--set", "seed=3", "--set", "task=movielens", "--set", "data.path=x", "--seed", "4")
    assert (config.seed, config.data.path) == (4, "x")


def test_options_are_named_and_not_the_settings_behind_them(configured):
    with pytest.raises(SettingError, match="--data: the task synthetic_ratings reads no data; choose one"):
        configured("--data", "texts.jsonl")
    with pytest.raises(SettingError, match=r"^--seed: seed must be greater than or equal to 0, got -1"):
        configured("--seed", "-1")
    assert configured("--set", "task=movielens", "--data", "x.csv").data.path.endswith("x.csv")


@pytest.mark.parametrize("flag", [["--field", "item"], ["--seen"]])
def test_what_says_which_items_are_recommended_needs_a_number_of_them(flag):
    command = ["personalize", "run", "--data", "x", "--out", "y", *flag]
    with pytest.raises(SettingError, match=rf"{flag[0]} says which items are recommended, and needs --top K"):
        call(*command)


SETTINGS = [sys.executable, "-m", "fedrecon", "settings"]


def test_a_command_with_its_output_closed_ends_as_with_it():
    # The shell closes the stream, as no argument of `Popen` can.
    done = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *SETTINGS], stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    done = subprocess.run(["sh", "-c", '"$@" >&- 2>&-', "sh", *SETTINGS, "--set", "a=1"])
    assert done.returncode == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, the device that is always full")
def test_an_output_that_is_full_is_named_on_one_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run(SETTINGS, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "fedrecon: the standard output: No space left on device\n")


def test_messages_show_what_a_terminal_would_obey(capsys):
    for arguments in (
        ["run\x1b[31m"],
        ["settings", "--set", "task=a\x1b[31m"],
        ["settings", "x\x1b[31m.toml"],
    ):
        assert main(arguments) == 2
        shown = capsys.readouterr().err
        assert ("\x1b" not in shown and "\\u001b" in shown) or "\\x1b" in shown


def test_what_an_encoding_lacks_is_printed_as_an_escape():
    command = [*SETTINGS, "--set", 'name="日本"']
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, env=environment)
    assert done.returncode == 0 and b"\\u65e5\\u672c" in done.stdout
