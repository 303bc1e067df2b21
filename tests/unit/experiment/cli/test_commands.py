"""What the command line makes of its options before anything is run."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedrecon.errors import RunError
from fedrecon.experiment import config as configs
from fedrecon.experiment.cli import runs
from fedrecon.experiment.cli.main import COMMANDS, explain, group, main
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
    usage = "Usage: fedrecon run [OPTIONS] [EXPERIMENT]"
    for arguments, message in (
        (["--set"], "Option '--set' requires an argument: --set NAME=VALUE"),
        (["my.toml", "training.rounds=3"], "(training.rounds=3); a setting is changed by --set NAME=VALUE"),
        (["--rounds", "3"], "No such option '--rounds'"),
        (["--set", "training.rounds"], "fedrecon: --set takes NAME=VALUE, for instance training.rounds=100"),
        (["--set", "training.round=3"], "fedrecon: --set: there is no setting training.round"),
    ):
        assert main(["run", *arguments]) == 2
        shown = capsys.readouterr().err
        assert usage in shown and message in shown
    assert main(["run", "training.rounds=3"]) == 2
    assert "a setting is changed by --set NAME=VALUE" in capsys.readouterr().err


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


def test_settings_in_another_encoding_are_read_back(here, capsys):
    """Files of settings are UTF-8, whatever the encoding of the output that was redirected into one."""
    for encoding in ("cp1252", "ascii", "utf-16"):
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        name = "Zürich ± 日本"
        command = [*SETTINGS, "--set", f'name="{name}"']
        done = subprocess.run(command, capture_output=True, env=environment)
        assert (done.returncode, done.stderr) == (0, b"")
        text = done.stdout.decode(encoding)
        (here / "my.toml").write_text(text, encoding="ascii" if encoding != "utf-16" else "utf-8")
        assert configs.load("my.toml") == configs.load(None, [f'name="{name}"'])


def test_a_terminal_without_blocks_gets_bars_of_another_character(here):
    (here / "ratings.csv").write_text("userId,movieId,rating\n1,2,3.5\n1,3,4\n")
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252", "XDG_CACHE_HOME": str(here / "cache")}
    command = [sys.executable, "-m", "fedrecon", "describe", "ratings.csv"]
    done = subprocess.run(command, capture_output=True, env=environment, cwd=here)
    assert done.returncode == 0
    assert "3.5  1  " + 40 * "#" in done.stdout.decode("cp1252")


@pytest.mark.parametrize("experiment", ["movielens.toml", "movielens-newton.toml", "ranking-unseen.toml"])
def test_changed_settings_alone_are_the_same_experiment(repository, here, capsys, experiment):
    path = str(repository / "experiments" / experiment)
    changes = ["--set", "algorithm.name=fedavg", "--set", "algorithm.update.optimizer.nesterov=true"]
    for more in ([], changes):
        assert main(["settings", path, "--changed", *more]) == 0
        text = capsys.readouterr().out
        (here / "my.toml").write_text(text, encoding="utf-8")
        assert configs.load("my.toml") == configs.load(path, more[1::2])
        assert len(text) < len(configs.text(configs.load(path))) / 1.5
    assert "nesterov = true" in text and "clients_per_block" not in text


def test_experiments_that_cannot_be_read_are_told_why(here, capsys):
    for content, message in (
        ("seed = " + 6000 * "1", "my.toml: no TOML: a number must have at most 4,300 digits"),
        ("data = " + 9999 * "[" + 9999 * "]", "my.toml: no TOML: its tables or lists are nested too deeply"),
        ("[data]\nclients = " + 20 * "9", "my.toml: no TOML: a whole number must fit in 64 bits, got 9999"),
        ("data = [[-9223372036854775809]]", "a whole number must fit in 64 bits, got -9223372036854775809"),
        ("seed = ", "my.toml: no TOML: "),
    ):
        (here / "my.toml").write_text(content)
        assert main(["settings", "my.toml"]) == 2
        shown = capsys.readouterr().err
        assert message in shown and "unexpected" not in shown
    assert main(["settings", "--set", "seed=" + 6000 * "1"]) == 2
    assert "--set seed: a number must have at most 4,300 digits" in capsys.readouterr().err
    (here / "my.toml").write_text('name = "with a mark"', encoding="utf-8-sig")
    assert configs.load("my.toml").name == "with a mark"


def test_too_little_memory_and_too_many_clients_are_told(capsys):
    message = explain(MemoryError("Unable to allocate 7.28 TiB for an array"))
    assert message == "there is not enough memory: Unable to allocate 7.28 TiB for an array"
    with pytest.raises(ValueError, match=r"dimension|too big") as too_large:
        np.zeros(2**62)
    assert "larger than any memory" in explain(too_large.value)
    assert main(["generate", "--clients", "1000000000000", "--out", "x.arrow"]) == 2
    assert "1000000000000 is not in the range" in capsys.readouterr().err


def test_the_users_folder_may_be_named_by_a_tilde(here, configured, monkeypatch):
    monkeypatch.setenv("HOME", str(here / "me"))
    assert configured("--set", "task=movielens", "--data", "~/x.csv").data.path == str(here / "me" / "x.csv")
    by_setting = configured("--set", "task=movielens", "--set", "data.path=~/x.csv")
    assert by_setting.data.path == str(here / "me" / "x.csv")
    (here / "~").mkdir()
    assert configured("--set", "task=movielens", "--data", "./~/x.csv").data.path == str(here / "~" / "x.csv")


def test_what_is_written_of_clients_is_said_by_the_name_of_the_file(here):
    with pytest.raises(SettingError, match=r"--out must end in \.parquet or \.csv.*got 'users\.json'"):
        call("personalize", "run", "--data", "x", "--out", "users.json")
    with pytest.raises(SettingError, match=r"only how other data are read.*got 'training\.rounds=3'"):
        call("personalize", "run", "--data", "x", "--out", "users.csv", "--set", "training.rounds=3")
    with pytest.raises(SettingError, match="--set says how other data are read, and needs --data"):
        call("evaluate", "run", "--set", "data.columns.item=film")


@pytest.mark.parametrize("prompts", [[], ["--prompt", "a", "--prompts", "b.txt"]])
def test_beginnings_of_sentences_are_given_once(prompts):
    with pytest.raises(SettingError, match="--prompts a file of them: give one"):
        call("complete", "run", "--history", "me.txt", *prompts)


def test_what_an_encoding_lacks_is_printed_as_an_escape():
    command = [*SETTINGS, "--set", 'name="日本"']
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, env=environment)
    assert done.returncode == 0 and b"\\u65e5\\u672c" in done.stdout
