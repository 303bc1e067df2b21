"""Code that a run folder of somebody else names does not run unless the command line names it, too."""

import sys

import pytest

from fedrecon.experiment import config as configs
from fedrecon.experiment.cli import runs
from fedrecon.experiment.cli.main import main
from fedrecon.experiment.settings.sections import SettingError

COMMANDS = {
    "resume": [],
    "evaluate": [],
    "personalize": ["--data", "x.csv", "--out", "o.parquet"],
    "complete": ["--history", "h.txt", "--prompt", "x"],
    "curves": [],
    "export": ["--out", "o"],
    "demo": [],
}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A working folder with a module that does no harm but to say that it was imported."""
    (tmp_path / "harmless.py").write_text("def words(sentence):\n    return sentence.split()\n")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "task.py").write_text("raise ValueError('the task was imported')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "run").mkdir()
    yield tmp_path
    for name in ("harmless", "package", "package.task"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('task = "next_word"\n[data]\ntokenizer = "harmless:words"\n', "harmless:words"),
        ('task = "package.task"\n', "package.task"),
    ],
)
def test_a_run_folder_alone_runs_no_code(home, capsys, command, text, name):
    (home / "run" / "config.toml").write_text(text)
    assert main([command, "run", *COMMANDS[command]]) == 2
    shown = capsys.readouterr().err
    assert f"--code {name}" in shown and "config.toml" in shown
    assert main([command, "run", *COMMANDS[command], "--code", "other:words"]) == 2
    assert not {"harmless", "package.task"} & set(sys.modules)


def test_it_runs_where_the_command_line_names_it(home):
    (home / "run" / "config.toml").write_text('task = "next_word"\n[data]\ntokenizer = "harmless:words"\n')
    assert runs.saved_config("run", code=["harmless:words"]).data.tokenizer == "harmless:words"
    (home / "run" / "config.toml").write_text('task = "package.task"\n')
    with pytest.raises(ValueError, match="the task was imported"):
        runs.saved_config("run", code=["package.task"])


MLFLOW = ["tracking.name=mlflow", "tracking.uri=http://somebody.example"]


@pytest.mark.parametrize(
    ("saved", "address"), [(MLFLOW, "http://somebody.example"), (["tracking.name=wandb"], "Weights & Biases")]
)
def test_nothing_is_sent_where_only_the_folder_says(saved, address, capsys):
    config = runs.tracked(configs.load(None, saved), [])
    assert config.tracking.name == "none"
    assert address in capsys.readouterr().out


def test_what_the_command_line_names_again_is_used_and_nothing_else_of_the_folder():
    folder = configs.load(None, [*MLFLOW, "tracking.experiment=theirs"])
    config = runs.tracked(folder, ["tracking.name=mlflow", "tracking.uri=http://mine.example"])
    assert (config.tracking.uri, config.tracking.experiment) == ("http://mine.example", "fedrecon")
    assert runs.tracked(folder, ["tracking.name=mlflow"]).tracking.uri == ""


@pytest.mark.parametrize(
    "saved",
    [
        ["tracking.name=tensorboard"],
        ["tracking.name=wandb", "tracking.mode=offline"],
        ["tracking.name=mlflow"],
    ],
)
def test_what_stays_here_goes_on(saved):
    config = configs.load(None, saved)
    assert runs.tracked(config, []).tracking == config.tracking


def test_other_settings_stay():
    with pytest.raises(SettingError, match="only tracking may change"):
        runs.tracked(configs.load(None), ["seed=3"])
