"""Names of classes and functions in run folders, which stay when the names in Python change."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

Tagged = TypeVar("Tagged", bound=Callable[..., Any])


class Tag(NamedTuple):
    """The name of a class or function in files.

    Attributes:
        kind: The name in files, a category and a name such as `"split/fraction"`. No two classes or functions
            share a kind.
        names: Names of a dataclass's fields in files by their names in Python, for those that differ.
        later: Fields, by their names in Python, that a file holds only if they differ from their default:
            those that the class did not have when the first files were written.
    """

    kind: str
    names: Mapping[str, str]
    later: Sequence[str]


# Keyed by the class or function itself: neither a subclass nor a wrapper is taken for what it extends.
_TAGS: dict[Any, Tag] = {}


def tagged(
    kind: str, *, names: Mapping[str, str] = MappingProxyType({}), later: Sequence[str] = ()
) -> Callable[[Tagged], Tagged]:
    """A decorator that gives a dataclass or a function its `Tag`; it changes nothing else.

    A class without a tag appears in run folders by its `repr`, a function by its name.

    Args:
        kind: The name in files, such as `"split/fraction"`. It must not change once files have it.
        names: Names of a dataclass's fields in files by their names in Python, for those that differ: a field
            that is renamed in Python is entered here with its old name; none by default.
        later: Names of fields that were added after the first files were written; none by default.

    Raises:
        ValueError: Another class or function has this `kind`.

    Example:
        >>> import dataclasses
        >>> @tagged("split/every_third", names={"first": "offset"})
        ... @dataclasses.dataclass(frozen=True)
        ... class EveryThird:
        ...     first: int = 0
    """

    def mark(thing: Tagged) -> Tagged:
        for other, tag in _TAGS.items():
            # Code that is run again, as a notebook's cell, defines the same class a second time.
            if tag.kind == kind and other.__qualname__ != thing.__qualname__:
                raise ValueError(f"kind must be one that no other has, got {kind!r} of {other.__qualname__}")
        _TAGS[thing] = Tag(kind, names, later)
        return thing

    return mark


def tag_of(thing: object) -> Tag | None:
    """The tag of a class or function; None if it has none."""
    return _TAGS.get(thing)
