"""Docstrings of this project as reStructuredText.

They write code between single backticks and use `|`, `*` and `_` as they come in formulas. This escapes what
reStructuredText would read as markup of its own, and leaves examples (`>>>`) and indented code as they are.
"""

import re

from sphinx.application import Sphinx

_CODE = re.compile(r"(`+)(.+?)\1", re.DOTALL)
_MARKUP = re.compile(r"(\||\*|(?<=\w)_(?!\w))")


def to_restructured_text(lines: list[str]) -> list[str]:
    """The lines of a docstring with code as literals and everything else as plain text."""
    blocks: list[str] = []
    for block in re.split(r"(\n\s*\n)", "\n".join(lines)):
        is_example = block.lstrip().startswith(">>>")
        blocks.append(block if is_example else _prose(block))
    return "".join(blocks).split("\n")


def _prose(text: str) -> str:
    parts, end = [], 0
    for match in _CODE.finditer(text):
        parts += [_escape(text[end : match.start()]), f"``{match[2]}``"]
        # A literal must be followed by a space or punctuation.
        if text[match.end() : match.end() + 1].isalnum():
            parts.append("\\ ")
        end = match.end()
    return "".join([*parts, _escape(text[end:])])


def _escape(text: str) -> str:
    return _MARKUP.sub(r"\\\1", text)


def _process(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    # napoleon would read a colon in the first line of a property as the end of a type.
    lines[:] = [*([""] if what == "property" else []), *to_restructured_text(lines)]


def setup(app: Sphinx) -> dict[str, bool]:
    """Connects before napoleon, which reads the sections of what this leaves."""
    app.connect("autodoc-process-docstring", _process, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
