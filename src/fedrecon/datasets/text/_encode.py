"""Texts by client as numbers: sentences of at most so many words."""

from array import array
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from fedrecon.data._cache import disk_backed_array
from fedrecon.data._clients import Clients
from fedrecon.data._columns import offsets_of
from fedrecon.datasets.text._tokenizers import Tokenizer
from fedrecon.errors import DataError

_PIECE = 4_000_000  # sentences that are gathered before they may leave the memory


class Writer(NamedTuple):
    """A client and what it wrote.

    Attributes:
        client: The name of the writer.
        sentences: The writer's sentences in order of time.
        where: The place of the text in messages, such as a file and line.
    """

    client: str
    sentences: Iterable[str]
    where: str


def to_clients(
    writers: Iterable[Writer], tokenize: Tokenizer, most_sentences: int | None, length: int, source: str
) -> Clients:
    """The first words of every client's first sentences, numbered.

    Sentences without a word are left out before they are counted.

    Args:
        writers: The writers, each client once.
        tokenize: The tokenizer, which splits a sentence into words.
        most_sentences: The largest number of sentences of a client, of which the first ones are kept; None
            for all.
        length: The largest number of words of a sentence, of which the first ones are kept.
        source: The name of the whole source in messages.

    Returns:
        Clients in the order given with one field, `token`, int32 `[sentence, position]`: 0 after the
        sentence's end, and else a place in `vocabularies["token"]`, whose entry 0 is no word.

    Raises:
        DataError: A client comes twice, or nobody wrote a word.
    """
    numbers: dict[str, int] = {}
    flat, lengths = array("i"), array("i")
    ids, counts = [], []
    pieces: list[np.ndarray] = []
    seen: dict[str, str] = {}

    def cut() -> None:
        """Puts what was read into a piece of its own, which may lie on the disk."""
        piece = disk_backed_array((len(lengths), length), np.int32)
        piece[:] = 0
        piece[np.arange(length) < np.asarray(lengths)[:, None]] = np.asarray(flat)
        pieces.append(piece)
        del flat[:], lengths[:]

    for writer in writers:
        if writer.client in seen:
            raise DataError(
                f"{writer.where}: client {writer.client!r} must come once, it is also at "
                f"{seen[writer.client]}"
            )
        seen[writer.client] = writer.where
        count = 0
        for words in _tokenize(writer, tokenize):
            if count == most_sentences:
                break
            kept = words[:length]
            flat.extend([numbers.setdefault(word, len(numbers) + 1) for word in kept])
            lengths.append(len(kept))
            count += 1
            if len(lengths) == _PIECE:
                cut()
        ids.append(writer.client)
        counts.append(count)
    if not sum(counts):
        raise DataError(f"{source}: must hold text, none of its {len(ids):,} clients has a word")
    cut()
    tokens = disk_backed_array((sum(counts), length), np.int32)
    np.concatenate(pieces, out=tokens)
    lexicon = np.asarray(["", *numbers], object)
    clients = Clients.from_columns(np.asarray(ids, object), offsets_of(counts), {"token": tokens})
    # Not by `from_columns`, which would refuse a tokenizer's word that looks like the entry of no word.
    return clients._with(vocabularies={"token": lexicon})


def _tokenize(writer: Writer, tokenize: Tokenizer) -> Iterator[list[str]]:
    for sentence in writer.sentences:
        words = tokenize(sentence)
        if words:
            yield words
