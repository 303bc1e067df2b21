"""What one rating must be, and how a message says that it is not; each rule is written here only."""

import difflib
import re
from collections.abc import Sequence

# What a message about columns that nobody named says, for the command line and for an experiment file.
NAMING = "the settings data.columns.client, .item and .rating: --set data.columns.client=NAME"
WHOLE = "0|-?[1-9][0-9]*"  # written in the one usual way
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_INT64 = range(-(2**63), 2**63)
GREATEST = 3.4028234e38  # of a float32


def quoted(value: object) -> str:
    """`value` for a message: quoted, on one line, in characters that print, and not long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:56]}...{text[-1]}"


def shown(text: str) -> str:
    """`text` on one line, in characters that print."""
    return text if text.isprintable() else repr(text)[1:-1]


def nearest(name: str, known: Sequence[str]) -> str:
    """`; the nearest is 'x'` for the name most like `name`, or "" where none is near."""
    lower = {other.lower(): other for other in known}
    close = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.4)
    return f"; the nearest is {quoted(lower[close[0]])}" if close else ""


def id_fault(role: str, text: str, integer: bool) -> str | None:
    """What is wrong with the id `text` of a client or an item; None where nothing is."""
    if any("\udc80" <= letter <= "\udcff" for letter in text):  # how surrogateescape writes a stray byte
        return f"{role} id must be UTF-8, got {quoted(text)}; data.encoding sets another, such as latin-1"
    if not integer:
        return None if text else f"{role} id must not be empty; another column may have one in every row"
    if not re.fullmatch(WHOLE, text):
        return (
            f"{role} id must be a whole number, got {quoted(text)}; where ids are text, columns says which "
            f"they are, {NAMING}"
        )
    # Python refuses to convert thousands of digits; 21 are too many already.
    if len(text) > 20 or int(text) not in _INT64:
        return f"{role} id must fit in 64 bits (-2**63 to 2**63 - 1), got {quoted(text)}"
    return None


def rating_fault(text: str, scale: tuple[float, float] | None, unrated: float | None) -> str | None:
    """What is wrong with the rating `text`, which may have a decimal comma; None where nothing is."""
    number = text.strip(" \t").replace(",", ".")
    if not _NUMBER.fullmatch(number):
        return f"rating must be a finite number, got {quoted(text)}"
    return None if float(number) == unrated else scale_fault(float(number), scale)


def scale_fault(rating: float, scale: tuple[float, float] | None) -> str | None:
    """What is wrong with the size of `rating`; None where nothing is."""
    if not abs(rating) <= GREATEST:  # nan included
        return f"rating must be a finite number, got {rating!r}"
    if scale is not None and not scale[0] <= rating <= scale[1]:
        zero = (
            "; unrated, the setting data.unrated, leaves out ratings that stand for none"
            if not rating
            else ""
        )
        return (
            f"rating must be within the scale {scale[0]:g} to {scale[1]:g}, got {rating!r}; scale, the "
            f"setting data.scale, sets another one{zero}"
        )
    return None
