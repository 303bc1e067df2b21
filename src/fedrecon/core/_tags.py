"""Names by which run folders know classes and functions, which stay when the names in Python change."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

Tagged = TypeVar("Tagged", bound=Callable[..., Any])


class Tag(NamedTuple):
    """The name of a class or function in files.

    Attributes:
        kind: The name in files, made of what the thing is and which one, such as `"split/fraction"`. No two
            classes or functions share a kind.
        names: Names of a dataclass's fields in files, by their names in Python, where the two differ.
        later: Fields, by their names in Python, that a file holds only if they are not at their default:
            fields that the class did not have when the first files were written.
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
        kind: The name in files, see `Tag`. It must not change once files were written with it.
        names: Names of fields in files where they differ from Python's, see `Tag`. A field that is renamed in
            Python is entered here with its old name.
        later: Fields that were added after the first files were written, see `Tag`.

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
            # Code that is loaded again, as in a notebook, brings the same name.
            if tag.kind == kind and other.__qualname__ != thing.__qualname__:
                raise ValueError(f"kind must be one that no other has, got {kind!r} of {other.__qualname__}")
        _TAGS[thing] = Tag(kind, names, later)
        return thing

    return mark


def tag_of(thing: object) -> Tag | None:
    """The tag of a class or function; None if it has none."""
    return _TAGS.get(thing)
