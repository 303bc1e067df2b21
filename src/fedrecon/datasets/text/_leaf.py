"""LEAF's JSON: one object with the texts of all users, as its Reddit and Sent140 are."""

import json
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

    An example is a text; lists of words (Reddit); or the fields of a tweet (Sent140).

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
    for user, data in users.items():
        where = f"{path}, user {user!r}"
        examples = data.get("x") if isinstance(data, dict) else None
        if not isinstance(examples, list):
            raise DataError(f'{where}: must have a list of examples "x", it lacks it')
        if not is_unicode(user):
            raise DataError(f"{where}: the name must be Unicode text")
        if _overlap(examples):
            raise DataError(
                f"{where}: holds windows of characters that overlap, as LEAF cuts Shakespeare; whole lines "
                "are in TensorFlow Federated's shakespeare.sqlite.lzma, or can be given as a folder of "
                "text files"
            )
        sentences = [_sentence(x, f"{where}, example {i}") for i, x in enumerate(examples)]
        yield Writer(user, sentences, where)


def _overlap(examples: list[Any]) -> bool:
    """Whether each text is the one before it, moved by a character."""
    texts = [x for x in examples[:3] if isinstance(x, str)]
    return len(texts) > 1 and all(len(a) > 1 and b[:-1] == a[1:] for a, b in pairwise(texts))


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
