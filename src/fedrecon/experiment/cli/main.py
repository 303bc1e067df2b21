"""The entry point of the command line: the table of commands, and the exit status of errors."""

import codecs
import io
import os
import sys
import time
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from fedrecon._safe_text import replace_unencodable, terminal
from fedrecon.experiment.cli.options import Invocation

OVERVIEW = """\
Federated Reconstruction: partially local federated learning in JAX.

  fedrecon run                                      trains on generated ratings: needs no data
  fedrecon run experiments/movielens.toml           the paper's MovieLens 1M result
  fedrecon resume runs/movielens-20260101-120000    goes on after a kill or Ctrl-C
"""

# Every command is the module of its name in `commands`, which is imported when the command is called: the
# import of all of them would make `--help` slow. The texts are the lines of the overview.
COMMANDS = {
    "run": "train and evaluate",
    "resume": "go on with a run that was killed or interrupted",
    "evaluate": "evaluate a run's parameters",
    "personalize": "reconstruct every client, or recommend to it",
    "export": "write files that reconstruct and recommend on a device",
    "demo": "show a run on a page of this machine, computed in the browser",
    "complete": "the next words of a new user, with and without its own part",
    "curves": "quality by reconstruction steps, support share and examples",
    "plot": "draw runs, several in one figure to compare them",
    "compare": "tables and figures of several runs side by side",
    "audit": "attack a run: what its updates, sums and parameters give away",
    "report": "a page of HTML of one or several runs",
    "deploy": "train over real processes, by Flower",
    "sweep": "tune settings on the validation clients",
    "describe": "what is in a data file: clients, examples, histograms",
    "convert": "write rating files of any size as a client file",
    "check": "whether client files hold what was written",
    "generate": "write generated ratings, of any size",
    "settings": "list all settings, with meanings and defaults",
}


# How NumPy begins a message about an array that no memory could hold.
_TOO_LARGE = ("array is too big", "Maximum allowed dimension exceeded")
# The name of the error handler of the output's encodings.
_UNENCODABLE = "fedrecon.ascii_only"


class _Commands(click.Group):
    """The group of all commands, each of which is imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"fedrecon.experiment.cli.commands.{cmd_name}").command
        return command

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write("\n" + OVERVIEW)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def group() -> click.Group:
    """The command line as a command of `click`."""
    return _Commands(
        "fedrecon",
        context_settings={"help_option_names": ["-h", "--help"]},
        params=[_version_option()],
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: The words behind `fedrecon`; None, the default, for those of the process.

    Returns:
        The exit status: 0; 1 after an error; 2 if the command line or a setting is wrong; 4 if a run
        diverged; 130 after Ctrl-C.
    """
    invocation = Invocation(started=time.monotonic())
    _prepare_streams()
    warnings.formatwarning = _on_one_line
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    commands = group()
    try:
        # The group's own `main` is not used, since it has other messages and statuses for errors and Ctrl-C.
        with commands.make_context("fedrecon", arguments or ["--help"], obj=invocation) as context:
            status: int | None = commands.invoke(context)
        _flush()
        return status or 0
    except click.exceptions.Exit as ended:
        # This ends `--help` and `--version`.
        return ended.exit_code
    except click.ClickException as error:
        shown = io.StringIO()
        _explained(error).show(shown)
        print(terminal(shown.getvalue()), end="", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\nfedrecon: interrupted", file=sys.stderr)
        return _leave(invocation, 130, "it was interrupted")
    except BrokenPipeError:
        # The reader of the output, such as `head`, has closed it.
        _discard()
        return 1
    except Exception as raised:
        failure = _of_output(raised)
        if invocation.traceback and not invocation.distributed:
            raise
        if invocation.traceback:
            sys.excepthook(type(failure), failure, failure.__traceback__)
        status, message = 2 if type(failure).__name__ == "SettingError" else 1, explain(failure)
        if status == 2 and message.startswith("--") and invocation.usage:
            print(terminal(invocation.usage), file=sys.stderr)
        print(f"fedrecon: {terminal(message)}", file=sys.stderr)
        return _leave(invocation, status, message)


def _explained(error: click.ClickException) -> click.ClickException:
    """An error of click about a command line, with what click does not know of options and settings."""
    message = error.message
    if isinstance(error, click.BadOptionUsage) and error.ctx is not None and "requires" in message:
        for option in error.ctx.command.params:
            if error.option_name in option.opts and option.metavar:
                message = f"{message.rstrip('.')}: {error.option_name} {option.metavar}"
    elif "unexpected extra argument" in message and "=" in message:
        # Such as `fedrecon run my.toml training.rounds=100`.
        message = f"{message}; a setting is changed by --set NAME=VALUE"
    if message == error.message:
        return error
    return click.UsageError(message, getattr(error, "ctx", None))


def _on_one_line(message: Warning | str, category: type[Warning], *place: Any, **line: Any) -> str:
    """A warning as the command line shows it: without the place in the code that it came from."""
    return f"fedrecon: {terminal(str(message))}\n"


def _prepare_streams() -> None:
    """Gives a process whose standard output or error was closed one that goes nowhere.

    Else the first file that is opened would get the number of the closed stream, and all that is written to
    it by its number. What a stream's encoding lacks is printed in ASCII, since no name may end a command.
    """
    codecs.register_error(_UNENCODABLE, replace_unencodable)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_UNENCODABLE)


def _flush() -> None:
    """Writes what the standard output still holds.

    Raises:
        OSError: The device behind the standard output is full; the error names it, and the interpreter does
            not try again at its end.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _discard()
        raise OSError(error.errno, error.strerror, "the standard output") from None


def _of_output(error: Exception) -> Exception:
    """An error of a command; where the standard output is full, which names no file, one that names it."""
    if isinstance(error, OSError) and error.filename is None:
        try:
            # A new attempt tells whether the output is full; what could not be written before is lost.
            os.write(sys.stdout.fileno(), b"\n")
        except OSError as full:
            _discard()
            return OSError(full.errno, full.strerror, "the standard output")
    return error


def _discard() -> None:
    """Sends what is still to be printed nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def explain(error: Exception) -> str:
    """The message about an error for the user of the command line."""
    if isinstance(error, ValueError) and str(error).startswith(_TOO_LARGE):
        return "there is not enough memory: a number that was asked for makes an array larger than any memory"
    if isinstance(error, ValueError) and str(error):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, MemoryError):
        return f"there is not enough memory: {error}" if str(error) else "there is not enough memory"
    kind = type(error).__name__
    return f"{kind}: {error}\n(unexpected; --traceback shows where it came from)"


def _leave(invocation: Invocation, status: int, message: str) -> int:
    """The exit status. One of several processes ends here, since a regular exit would wait for the others."""
    if invocation.distributed:
        from fedrecon.experiment.distributed.processes import leave

        leave(status, message)
    return status


def _version_option() -> click.Option:
    def show(context: click.Context, parameter: click.Parameter, given: bool) -> None:
        if given:
            from importlib.metadata import version

            print(f"fedrecon {version('fedrecon')}")
            context.exit()

    return click.Option(
        ["--version"],
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=show,
        help="print the version",
    )
