"""The Chit-Chat data set, by the package `chitchat-dataset` (MIT): a client is a speaker."""

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from fedrecon.datasets.text._encode import Writer
from fedrecon.errors import DataError

NAME = "chitchat"


def find_chitchat() -> Path:
    """The data file of the installed package.

    Raises:
        DataError: The package is not installed.
    """
    spec = find_spec("chitchat_dataset")
    if spec is None or spec.origin is None:
        raise DataError("data.path 'chitchat' needs a package: pip install 'fedrecon[chitchat]'")
    return Path(spec.origin).parent / "dataset.json"


def read_chitchat(path: Path) -> Iterator[Writer]:
    """The speakers, each one's messages in order of time."""
    said: dict[str, list[tuple[str, str]]] = {}
    for conversation in json.loads(path.read_text(encoding="utf-8")).values():
        for turn in conversation["messages"]:
            for message in turn:
                said.setdefault(message["sender"], []).append((message["timestamp"], message["text"]))
    for speaker, messages in sorted(said.items()):
        in_time = sorted(messages, key=lambda pair: pair[0])
        yield Writer(speaker, [text for _, text in in_time], f"{path}, sender {speaker!r}")
