"""Texts as a federation: converted once into a client file, which serves until the source changes."""

import os
from pathlib import Path

from fedrecon.data._cache import load_or_convert
from fedrecon.data._clients import Clients
from fedrecon.data._unpacking import UNPACKED_GIB, limit_of
from fedrecon.datasets.text import _chitchat as chitchat
from fedrecon.datasets.text._encode import to_clients
from fedrecon.datasets.text._load import find, fingerprint, writers
from fedrecon.datasets.text._tokenizers import TOKENIZERS, tokenizer_of
from fedrecon.errors import whole_number

_VERSION = 3  # of what is made from a source and its settings


def prepare(
    path: str | os.PathLike[str],
    *,
    tokenizer: str = "whitespace",
    sentences: int | None = 1024,
    length: int = 20,
    part: str = "train",
    unpacked_gib: float | int = UNPACKED_GIB,
    cache: str | os.PathLike[str] | None = None,
) -> Clients:
    """The clients of a text source, mapped from a client file that is made when it is needed.

    The client file is made whole or not at all, and anew when the source or a parameter changes. With a
    tokenizer of one's own, whose changes cannot be seen from here, nothing is kept.

    Args:
        path: A file or folder as `sources.find` takes it, or `"chitchat"` for the data set of that package.
        tokenizer: A name in `tokens.TOKENIZERS`, or `"package.module:function"`; `"whitespace"` by default.
        sentences: The largest number of sentences of a client, of which the first ones in order of time are
            kept; None for all. 1,024, the default, is the paper's number.
        length: The number of words of a sentence that are kept, the first ones. 20, the default, is the
            paper's number.
        part: The part of an SQLite file to read; None for all parts; `"train"` by default.
        unpacked_gib: GiB that a packed file (.gz, Parquet) may unpack to; 2 by default.
        cache: The folder of the client files; by default the platform's own for fedrecon.

    Returns:
        Clients with the field `token`, see `text.to_clients`.

    Raises:
        DataError: The source cannot be read or holds no text; or the folder cannot be written.
        ValueError: There is no such tokenizer, or a number is not whole or below 1.
    """
    length = whole_number("length", length, 1)
    if sentences is not None:
        sentences = whole_number("sentences", sentences, 1)
    limit = limit_of(unpacked_gib)
    tokenize = tokenizer_of(tokenizer)
    packaged = os.fspath(path) == chitchat.NAME and not Path(path).exists()
    source = chitchat.find_chitchat() if packaged else find(path)

    def convert() -> Clients:
        by_client = chitchat.read_chitchat(source) if packaged else writers(source, part, limit)
        return to_clients(by_client, tokenize, sentences, length, str(source))

    if tokenizer not in TOKENIZERS:
        return convert()
    return load_or_convert(
        convert,
        kind="texts",
        facts=(_VERSION, str(source.resolve()), tokenizer, sentences, length, part),
        fingerprint=lambda: fingerprint(source),
        where=str(source),
        folder=cache,
    )
