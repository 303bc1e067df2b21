"""The exceptions of fedrecon, and checks of arguments that all packages use."""

import difflib
import operator
import sys
from collections.abc import Iterable
from typing import Any


class DataError(ValueError):
    """Data that cannot be used; the message names file and line or the parameter, the rule and the value."""


class UncheckedWarning(UserWarning):
    """A warning that something cannot be checked: a file without checksums, or a state without ids."""


class RunError(ValueError):
    """A run folder that cannot be used; the message names the folder or file, the rule and the value."""


def whole_number(
    name: str,
    value: Any,
    least: int | None = None,
    most: int | None = None,
    *,
    error: type[ValueError] = ValueError,
) -> int:
    """Checks a parameter that must be a whole number, and returns it as an `int`.

    Integers of NumPy and JAX are accepted, and the result is the `int` of the same value, so that what is
    stored, hashed and printed does not depend on where a number came from. Booleans are refused, although
    Python counts them among the integers: where a number is expected, `True` is a mistake.

    Args:
        name: The parameter's name, for the message.
        value: The value to check.
        least: The smallest value allowed; None, the default, for no limit.
        most: The largest value allowed, only together with `least`; None, the default, for no limit.
        error: The class of the error that is raised; ValueError by default.

    Raises:
        ValueError: The value is not a whole number, or is out of its range. The message names the
            parameter, the rule and the value.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:  # of what has no `__index__`, such as 3.0, and of arrays of several numbers
        number = None
    if number is not None and (least is None or number >= least) and (most is None or number <= most):
        return number
    limits = "" if least is None else f" of at least {least}" if most is None else f" from {least} to {most}"
    raise error(f"{name} must be a whole number{limits}, got {plain(value)}")


def store_whole_numbers(owner: Any, least: int, *names: str, optional: bool = False) -> None:
    """Checks attributes of a frozen dataclass in its `__post_init__`, and stores each as an `int`.

    Args:
        owner: The instance whose attributes are checked.
        least: The smallest value that the attributes may have.
        *names: Names of the attributes to check.
        optional: Whether an attribute may also be None, which is left unchanged; False by default.

    Raises:
        ValueError: An attribute is not a whole number, or is below `least`. The message names the attribute,
            the rule and the value.
    """
    for name in names:
        value = getattr(owner, name)
        if not (optional and value is None):
            object.__setattr__(owner, name, whole_number(name, value, least))


def plain(value: Any) -> str:
    """The text of a value in a message, with NumPy scalars as Python's: `3` and not `np.int64(3)`.

    Those in dictionaries, lists and tuples are shown so, too.
    """
    if type(value) is dict:
        return "{" + ", ".join(f"{plain(k)}: {plain(x)}" for k, x in value.items()) + "}"
    if type(value) in (list, tuple):
        inside = ", ".join(map(plain, value))
        return f"[{inside}]" if type(value) is list else f"({inside}{',' * (len(value) == 1)})"
    # Recognised by the name of its module: importing NumPy here would double the start of `fedrecon --help`.
    scalar = type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0
    return repr(value.item() if scalar else value)


def parsing_error(error: ValueError) -> str:
    """What is wrong with a text that Python could not read.

    Of a number of thousands of digits, Python's own words name a function that users have never called.
    """
    if "sys.set_int_max_str_digits" in str(error):
        return f"a number must have at most {sys.get_int_max_str_digits():,} digits"
    return str(error)


def of_kind(kind: type, **given: Any) -> None:
    """Checks that parameters are instances of a class.

    Args:
        kind: The class.
        **given: The parameters by their names.

    Raises:
        TypeError: A parameter is not an instance of the class; the message names it.
    """
    for name, value in given.items():
        if not isinstance(value, kind):
            raise TypeError(f"{name} must be of the class {kind.__name__}, got {type(value).__name__}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: a question with the nearest known name, if one is near."""
    near = difflib.get_close_matches(name, list(known), 1, 0.4)
    return f"; did you mean {near[0]!r}?" if near else ""
