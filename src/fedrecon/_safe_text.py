"""Text of users, such as names of runs, sets and metrics, made safe for each place that it goes to.

A name may hold anything: what a screen takes for a command, a spreadsheet for a formula, a browser for
markup or a file system for another folder. Each function here returns text that its place shows as it was
given, or with escapes where that place cannot show it. None of them raises, whatever the text is.
"""

import hashlib
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow

# Control characters, those that reverse the direction of text (which can make a line read as another one),
# line separators that only some readers know, and halves of surrogate pairs, which no encoding takes.
_UNSHOWN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2028\u2029\u2066-\u2069\ud800-\udfff]"
)
# What a spreadsheet takes for a formula, also behind apostrophes, which `csv_cell` adds one to. A negative
# number is none. The patterns are also Arrow's, which knows no look-ahead.
_FORMULA_TEXT, _NEGATIVE_TEXT = r"^'*[=+\-@\t\r]", r"^-[0-9]+(?:\.[0-9]+)?$"
_FORMULA, _NEGATIVE = re.compile(_FORMULA_TEXT), re.compile(_NEGATIVE_TEXT + r"(?!\n)")
_PLACEHOLDER = "unnamed"
_MOST_BYTES = 120  # of a file name that is made of a name: file systems allow 255, and more is added to it

# Characters of our own texts, as an encoding that lacks them shows them.
_ASCII = {
    "█": "#",
    "…": "...",
    "±": "+/-",
    "−": "-",
    "–": "-",
    "—": "-",
    "×": "x",
    "²": "^2",
    "₁": "_1",
    "₂": "_2",
    "→": "->",
    "≤": "<=",
    "≥": ">=",
    "≠": "!=",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
}

# What separates folders on any system, or is not allowed in names there; and what marks an escape.
_NOT_IN_FILES = re.compile(r'[%/\\:*?"<>|]')
_ESCAPED = re.compile("%(?:u([0-9A-F]{4})|([0-9A-F]{2}))")

_MARKDOWN = re.compile(r"[\\`*\[\]|~]|(?<!\w)_|_(?!\w)|^(?:#|[-+](?=\s|$))|^(\d+)([.)])(?=\s|$)")
_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}

_LATEX = {
    "\\": r"\textbackslash{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "–": "--",
    "…": r"\dots{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "[": "{[}",  # after the end of a row it would begin the row's argument
    "]": "{]}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
}


def terminal(text: str) -> str:
    r"""Text for a screen or a log: escapes such as `\u001b` stand for what a terminal would obey.

    Line breaks and tabs stay.
    """
    return _UNSHOWN.sub(lambda match: _escape(match[0]), text)


def ascii_only(text: str) -> str:
    r"""Text in ASCII: `...` for an ellipsis, `#` for a bar of a histogram, and for the rest an escape.

    The escapes, such as `\u65e5`, are those of TOML.
    """
    return "".join(c if c.isascii() else _in_ascii(c) for c in text)


def toml_in_ascii(text: str) -> str:
    """A TOML file in ASCII: characters of its strings become escapes, and comments are written otherwise."""
    return "".join(
        ascii_only(line) if line.startswith("#") else "".join(c if c.isascii() else _escape(c) for c in line)
        for line in text.splitlines(keepends=True)
    )


def replace_unencodable(error: UnicodeError) -> tuple[str, int]:
    """An error handler of `codecs`: what an encoding lacks is written as `ascii_only` writes it."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return ascii_only(error.object[error.start : error.end]), error.end


def counted(number: int, noun: str) -> str:
    """A number with its noun: `"1 client"`, `"1,200 clients"`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def line(text: str) -> str:
    """Text for one line: as `terminal`, with a space for each run of white space."""
    return terminal(" ".join(text.split()))


def figure(text: str) -> str:
    """Text for Matplotlib, whose figures must be drawn with `text.parse_math` off; see `line`.

    Its SVG files are XML, which takes no control characters.
    """
    return line(text)


def markdown(text: str) -> str:
    """Text for a line or a table's cell of Markdown, in which neither Markdown nor HTML is read as such."""
    escaped = _MARKDOWN.sub(lambda m: f"{m[1]}\\{m[2]}" if m[1] else f"\\{m[0]}", line(text))
    return "".join(_HTML.get(c, c) for c in escaped)


def code(text: str) -> str:
    """Text as a code span of Markdown."""
    text = line(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    space = " " if text.startswith("`") or text.endswith("`") or not text else ""
    return f"{fence}{space}{text}{space}{fence}"


def csv_cell(text: str) -> str:
    """Text for a cell of CSV: an apostrophe before what a spreadsheet would take for a formula.

    A negative number such as "-5" stays. `from_csv_cell` is the inverse.
    """
    return f"'{text}" if _FORMULA.match(text) and not _NEGATIVE.match(text) else text


def csv_cells(texts: "pyarrow.Array") -> "pyarrow.Array":
    """As `csv_cell`, of all texts of an Arrow array; missing ones stay missing."""
    import pyarrow.compute as pc

    texts = texts.cast("string")
    is_formula = pc.and_not(
        pc.match_substring_regex(texts, _FORMULA_TEXT), pc.match_substring_regex(texts, _NEGATIVE_TEXT)
    )
    return pc.if_else(is_formula, pc.binary_join_element_wise("'", texts, ""), texts)


def from_csv_cell(cell: str) -> str:
    """Inverse of `csv_cell`."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def latex(text: str) -> str:
    """Text for LaTeX, with the commands of which its special characters are printed."""
    return "".join(_LATEX.get(c, c) for c in line(text))


def latex_comment(text: str) -> str:
    """Text for a comment of LaTeX, which ends with its line."""
    return line(text)


def file_name(text: str) -> str:
    """Text as one part of a path, on any system; plain names stay as they are.

    `%2F` stands for a slash, and so on. A name of more than 120 bytes is cut, and ends with a digest.
    `name_of_file` is the inverse, but of names that were cut.
    """
    escaped = _UNSHOWN.sub(lambda m: _percent(m[0]), _NOT_IN_FILES.sub(lambda m: _percent(m[0]), text))
    escaped = re.sub(r"[\t\n]", lambda m: _percent(m[0]), escaped)
    if escaped.startswith("."):  # hidden, or the folder above
        escaped = _percent(".") + escaped[1:]
    if escaped.endswith((".", " ")):  # Windows drops them
        escaped = escaped[:-1] + _percent(escaped[-1])
    content = escaped.encode()
    if len(content) > _MOST_BYTES:
        digest = hashlib.blake2b(content, digest_size=8).hexdigest()
        escaped = content[: _MOST_BYTES - 17].decode(errors="ignore") + "-" + digest
    return escaped or _PLACEHOLDER


def name_of_file(name: str) -> str:
    """Inverse of `file_name`."""
    return _ESCAPED.sub(lambda m: chr(int(m[1] or m[2], 16)), name)


def _in_ascii(character: str) -> str:
    return _ASCII.get(character) or _escape(character)


def _escape(character: str) -> str:
    number = ord(character)
    return f"\\u{number:04x}" if number < 2**16 else f"\\U{number:08x}"  # as in TOML


def _percent(character: str) -> str:
    number = ord(character)
    return f"%{number:02X}" if number < 256 else f"%u{number:04X}"
