"""The screen, on which text is shown as it is."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedrecon._safe_text import terminal

# The width in characters of tables that are written to a file, which has no edge.
WIDTH = 200


class Screen(Console):
    """A console of Rich that takes no text for markup, for an emoji's name, or for commands of a terminal.

    Names of runs, sets and metrics, words of texts and paths reach it, which may hold square brackets, colons
    and escape sequences.
    """

    def render_str(self, text: str, **settings: Any) -> Text:
        """Text as Rich prints it; every string that is printed, alone or in a table, comes through here."""
        return super().render_str(terminal(text), **{**settings, "markup": False, "emoji": False})


def screen_of_output() -> Screen:
    """The screen on the standard output; where that is no terminal, lines are not wrapped."""
    screen = Screen(highlight=False)
    return screen if screen.is_terminal else Screen(highlight=False, soft_wrap=True, width=WIDTH)


def rich_table(rows: list[list[str]], words: int | None = None) -> Table:
    """Rows of text, the first of which is the header, as a table for the screen.

    Args:
        rows: The rows, all with the same number of cells.
        words: The number of columns, from the left, that hold words rather than numbers; None, the default,
            for the columns of a table of `summary.table`.
    """
    head, *body = rows
    if words is None:
        words = 1 if head[0] == "metric" else 2
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, name in enumerate(head):
        table.add_column(name, justify="left" if index < words else "right", overflow="fold")
    for row in body:
        table.add_row(*row)
    return table
