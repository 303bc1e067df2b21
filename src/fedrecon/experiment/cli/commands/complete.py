"""`fedrecon complete`: shows the next words of a new user."""

from pathlib import Path

import click

from fedrecon.experiment.cli import options


@options.command
@options.run_folder
@click.option("--history", required=True, metavar="FILE", help="the user's text, a sentence a line")
@click.option("--prompt", metavar="TEXT", help="the beginning of a sentence")
@click.option("--prompts", metavar="FILE", help="a file of several, one a line")
@click.option("--top", type=int, default=5, metavar="K", help="words to show; default: 5")
@options.code
@options.pass_invocation
def command(
    invocation: options.Invocation,
    run: str,
    history: str,
    prompt: str | None,
    prompts: str | None,
    top: int,
    code: tuple[str, ...],
) -> None:
    """Reconstructs a new user's local parameters from its text, and shows the next words after a prompt by
    the run's parameters alone and with the user's own part. For runs of the task next_word.

      fedrecon complete runs/next_word --history me.txt --prompt "see you at the"
      fedrecon complete runs/next_word --history me.txt --prompts beginnings.txt

    A word that the user has and the run's vocabulary lacks can be among the latter: it stands for its
    bucket. Without the user's part a bucket is "(another word)".
    """
    from fedrecon.errors import whole_number
    from fedrecon.experiment.cli import runs
    from fedrecon.experiment.settings.sections import SettingError

    whole_number("--top", top, 1, error=SettingError)
    if (prompt is None) == (prompts is None):
        raise SettingError("--prompt is the beginning of a sentence, --prompts a file of them: give one")
    runs.begin(invocation)
    from fedrecon.experiment.serving.complete import complete_run
    from fedrecon.experiment.training.run_experiment import console

    beginnings = [prompt] if prompt is not None else _beginnings(str(prompts))
    complete_run(Path(run), runs.saved_config(run, code=code), Path(history), beginnings, top, console())


def _beginnings(path: str) -> list[str]:
    """The lines of a file that are not blank."""
    from fedrecon.datasets.text._load import read_text
    from fedrecon.errors import DataError

    lines = [line.strip() for line in read_text(Path(path)) if line.strip()]
    if not lines:
        raise DataError(f"{path}: must hold the beginning of a sentence in a line, it holds none")
    return lines
