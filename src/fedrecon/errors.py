"""What fedrecon raises beside the standard exceptions, and how it says what may have been meant."""

import difflib
from collections.abc import Iterable
from typing import Any


class DataError(ValueError):
    """Data cannot be used; the message names the file and line or the parameter, the rule and the value."""


class RunError(ValueError):
    """A run folder that cannot be used; the message names the folder or file, the rule and the value."""


def at_least(least: int, **given: float | int) -> None:
    """Raises a ValueError that names the first of the parameters given which is below `least`."""
    for name, value in given.items():
        if not value >= least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


def of_kind(kind: type, **given: Any) -> None:
    """Raises a TypeError that names the first of the parameters given which is not of the kind."""
    for name, value in given.items():
        if not isinstance(value, kind):
            raise TypeError(f"{name} must be of the class {kind.__name__}, got {type(value).__name__}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the known one that is nearest, if one is near."""
    near = difflib.get_close_matches(name, list(known), 1, 0.4)
    return f"; did you mean {near[0]!r}?" if near else ""
