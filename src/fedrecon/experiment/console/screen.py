"""The screen, on which text is shown as it is."""

from typing import Any

from rich.console import Console
from rich.text import Text

from fedrecon._safe_text import terminal


class Screen(Console):
    """A console of Rich that takes no text for markup, for an emoji's name, or for commands of a terminal.

    Names of runs, sets and metrics, words of texts and paths reach it, which may hold square brackets, colons
    and escape sequences.
    """

    def render_str(self, text: str, **settings: Any) -> Text:
        """Text as Rich prints it; every string that is printed, alone or in a table, comes through here."""
        return super().render_str(terminal(text), **{**settings, "markup": False, "emoji": False})
