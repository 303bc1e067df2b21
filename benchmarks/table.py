"""Tables on the screen."""

from collections.abc import Collection, Sequence

from rich.console import Console
from rich.table import Table

WIDTH = 200  # in a file lines are as long as they are


def screen() -> Console:
    """The standard output, with room for long lines where it is not a terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDTH)


def number(value: float) -> str:
    """A number in four digits, or all digits before the point."""
    return f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"


def grid(lines: Sequence[Sequence[str]], head: Sequence[str], right: Collection[int] = ()) -> Table:
    """A table without a frame.

    Args:
        lines: Its cells, line by line.
        head: The columns' titles.
        right: Numbers of the columns that are aligned to the right.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, title in enumerate(head):
        table.add_column(title, justify="right" if index in right else "left")
    for line in lines:
        table.add_row(*line)
    return table
