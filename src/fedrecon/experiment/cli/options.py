"""What commands share: the layout of their help pages, and the options that several of them take."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., Any])
# Applies options to a command's function.
Decorator = Callable[[Function], Function]


@dataclass
class Invocation:
    """A call of the command line, without the command's own parameters.

    Attributes:
        started: When the call began, in seconds of `time.monotonic`.
        traceback: Whether errors are printed with their tracebacks; False by default.
        distributed: Whether this process is one of several of a run; False by default.
        usage: How the command is called, as its help page says; `""`, the default, before it is known.
    """

    started: float
    traceback: bool = False
    distributed: bool = False
    usage: str = ""


pass_invocation = click.make_pass_decorator(Invocation)


class Command(click.Command):
    """A command whose help text is printed as it was written, so that its examples keep their lines."""

    def __init__(self, *arguments: Any, **settings: Any):
        super().__init__(*arguments, **settings)
        self.params.append(_flag("traceback", "show where an error came from"))

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write(f"\n{self.help}\n")

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As that of `click`, whose errors about an option without its argument do not show the usage."""
        if isinstance(ctx.obj, Invocation):
            ctx.obj.usage = ctx.get_usage()
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            raise


class Group(click.Group):
    """A command that has commands; `--traceback` is among the options of each."""

    def __init__(self, *arguments: Any, **settings: Any):
        super().__init__(*arguments, **settings)
        self.params.append(_flag("traceback", "show where an error came from"))


def command(function: Callable[..., Any]) -> Command:
    """A decorator that makes a command of a function, whose docstring is the text of the help page."""
    return click.command(cls=Command, help=inspect.cleandoc(function.__doc__ or ""))(function)


def experiment(required: bool = False) -> Decorator:
    """The argument EXPERIMENT: a TOML file; by default the experiment that ships with the package."""
    return click.argument(
        "experiment", metavar="EXPERIMENT" if required else "[EXPERIMENT]", required=required
    )


def run_folder(function: Function) -> Function:
    """The argument RUN: the folder of a run."""
    return click.argument("run", metavar="RUN")(function)


def run_folders(function: Function) -> Function:
    """The arguments RUN…: run folders, or folders of several seeds, at least one."""
    return click.argument("runs", metavar="RUN...", nargs=-1, required=True)(function)


def changes(function: Function) -> Function:
    """The option `--set NAME=VALUE`, any number of times."""
    return click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="NAME=VALUE",
        help="change a setting, by its dotted name; may be given many times",
    )(function)


def targets(function: Function) -> Function:
    """The option `--target METRIC=VALUE`, any number of times."""
    return click.option(
        "--target",
        multiple=True,
        metavar="METRIC=VALUE",
        help="count the rounds and clients it took to get there; may be given many times",
    )(function)


def code(function: Function) -> Function:
    """`--code NAME`, any number of times: what of the run's own code may run."""
    return click.option(
        "--code",
        multiple=True,
        metavar="NAME",
        help="a module or module:function that the run names, which may run; may be given many times",
    )(function)


def distributed(function: Function) -> Function:
    """The option `--distributed`, stored in the `Invocation` since errors end such a process differently."""
    text = "one of several processes: set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID"
    return click.option(
        "--distributed", is_flag=True, expose_value=False, callback=_note("distributed"), help=text
    )(function)


def data(help: str, *, required: bool = False, metavar: str = "PATH") -> Decorator:
    """The option `--data PATH`, whose help text differs from command to command."""
    return click.option("--data", required=required, metavar=metavar, help=help)


def _flag(name: str, help: str) -> click.Option:
    """A flag that is stored in the `Invocation`, and not passed to the command."""
    return click.Option([f"--{name}"], is_flag=True, expose_value=False, callback=_note(name), help=help)


def _note(name: str) -> Callable[[click.Context, click.Parameter, bool], None]:
    def note(context: click.Context, parameter: click.Parameter, given: bool) -> None:
        if given and context.obj is not None:
            setattr(context.obj, name, True)

    return note
