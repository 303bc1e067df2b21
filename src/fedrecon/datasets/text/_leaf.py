"""LEAF's JSON: one object with the texts of all users, as its Reddit, Sent140 and Shakespeare are."""

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from fedrecon.data._unpacking import DAMAGE, read_chunks, unpacking
from fedrecon.datasets.text._encode import Writer
from fedrecon.datasets.text._jsonl import is_unicode, json_value
from fedrecon.errors import DataError

_MARKS = ("<PAD>", "<BOS>", "<EOS>")  # which Reddit's lists of words are filled and framed with
_TWEET = 4  # the place of the text in Sent140's fields of a tweet
_TWEET_FIELDS = (5, 6)


def read_leaf(path: Path, limit: int) -> Iterator[Writer]:
    """The users of a file, each one's examples in their order.

    An example is a text; lists of words (Reddit); the fields of a tweet (Sent140); or, in Shakespeare, a
    window of characters whose label is the next one. Windows are put together to the text that they were cut
    from. LEAF writes all lines of a user one after the other, so that sentences end where their marks tell.

    Args:
        path: The file, which may be packed.
        limit: Bytes that it may unpack to.

    Raises:
        DataError: The file cannot be read, unpacks to more, or is not of this form.
    """
    try:
        with open(path, "rb") as raw, unpacking(raw, path.name) as file:
            content = file.read() if file is raw else b"".join(read_chunks(file, str(path), limit))
    except DAMAGE as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    users = json_value(content, str(path))
    users = users.get("user_data") if isinstance(users, dict) else None
    if not isinstance(users, dict):
        raise DataError(f'{path}: must be LEAF\'s JSON, an object with "user_data" of each user, it lacks it')
    overlap = any(_overlap(data) for data in users.values() if _has_examples(data))
    for user, data in users.items():
        where = f"{path}, user {user!r}"
        if not _has_examples(data):
            raise DataError(f'{where}: must have a list of examples "x", it lacks it')
        examples = data["x"]
        if not is_unicode(user):
            raise DataError(f"{where}: the name must be Unicode text")
        if overlap:
            yield Writer(user, _sentences(_join_windows(examples, data.get("y"), where)), where)
            continue
        sentences = [_sentence(x, f"{where}, example {i}") for i, x in enumerate(examples)]
        yield Writer(user, sentences, where)


def _has_examples(data: Any) -> bool:
    return isinstance(data, dict) and isinstance(data.get("x"), list)


def _join_windows(windows: list[Any], labels: Any, where: str) -> str:
    """The text from which windows of characters were cut, each with the next character as its label.

    The first version of LEAF begins every line with a window of blanks.

    Raises:
        DataError: A window or a label is no text, there are not as many labels as windows, or a window
            neither goes on where the one before it ends nor begins a line.
    """
    if not isinstance(labels, list) or len(labels) != len(windows):
        raise DataError(
            f'{where}: must have a list of labels "y" with the character after each window of characters "x"'
        )
    for number, pair in enumerate(zip(windows, labels, strict=True)):
        if not all(isinstance(x, str) for x in pair):
            shown = json.dumps(pair)[:40]
            raise DataError(f"{where}, example {number}: must be a window of characters, got {shown}")
    parts = list(windows[:1])
    for number, window in enumerate(windows):
        if number and window != windows[number - 1][1:] + labels[number - 1]:
            if window.strip():
                raise DataError(
                    f"{where}, example {number}: must begin a character after the one before it; no text can "
                    "be made of a random sample of windows: let LEAF sample whole users (preprocess.sh -s "
                    "niid)"
                )
            parts += ["\n", window]
        parts.append(labels[number])
    return "".join(parts)


def _sentences(text: str) -> list[str]:
    """The sentences of a text, which end with a line or with a full stop, a question or exclamation mark."""
    parts = (part.strip() for part in re.split(r"(?<=[.?!])\s+|\n+", text))
    return [part for part in parts if part]


def _overlap(data: dict[str, Any]) -> bool:
    """Whether each example is the one before it with its label, moved by a character."""
    labels = data.get("y")
    rows = list(zip(data["x"][:3], labels if isinstance(labels, list) else [], strict=False))
    if len(rows) < 2 or not all(isinstance(x, str) for row in rows for x in row):
        return False
    return all(
        len(label) == 1 and window == before[1:] + label for (before, label), (window, _) in pairwise(rows)
    )


def _sentence(example: Any, where: str) -> str:
    if isinstance(example, str):
        return example
    is_list = isinstance(example, list)
    if is_list and len(example) in _TWEET_FIELDS and all(isinstance(x, str) for x in example):
        return str(example[_TWEET])
    words = _words(example)
    if words is None:
        shown = json.dumps(example)[:40]
        raise DataError(f"{where}: must be a text, lists of words or the fields of a tweet, got {shown}")
    return " ".join(word for word in words if word not in _MARKS)


def _words(example: Any) -> list[str] | None:
    """The words of lists of lists of words; None where it is something else."""
    if not isinstance(example, list) or not all(isinstance(part, list) for part in example):
        return None
    words = [word for part in example for word in part]
    return words if all(isinstance(word, str) for word in words) else None
