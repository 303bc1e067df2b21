"""Which words are shared, and the ids of words, buckets, padding, begin and end.

The layout, for V words, B buckets and C output buckets:

    id                  what                     row of the global table   local row   can be a target
    0                   padding                  0                         -           no
    1                   begin of a sentence      1                         -           no
    2                   end of a sentence        2                         -           yes
    3 … V + 2           words, by frequency      3 … V + 2                 -           yes
    V + 3 … V + C + 2   buckets of other words   -                         0 … B - 1   yes

Ids are those of targets and of the model's output. Only words that are not shared have local rows: as an
input such a word is its bucket among B, as a target its bucket among C. The two are the same where B = C.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedrecon.data._cache import disk_backed_array
from fedrecon.data._clients import Clients
from fedrecon.errors import DataError, whole_number

PADDING, BEGIN, END, FIRST_WORD = 0, 1, 2, 3
SPECIAL = ("<padding>", "<begin>", "<end>")
OWN_FIELDS = ("own_word", "own_target")
FIELD = "word"  # of the clients, whose ids a vocabulary explains


def bucket_of(word: str, buckets: int) -> int:
    """The bucket of a word that is not shared: BLAKE2b of its UTF-8 bytes, modulo the number of buckets.

    The same in every process and version; a lone surrogate, which UTF-8 lacks, counts as a question
    mark.
    """
    digest = hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "little") % buckets


class Vocabulary:
    """The shared words, and what everything is numbered.

    Attributes:
        words: The shared words, the most frequent first.
        buckets: Local rows for all other words, at least 1.
        output_buckets: Ids for them, at least 1; None, the default, for as many.

    Raises:
        DataError: A word comes twice, or there are no buckets.

    Example:
        >>> vocabulary = Vocabulary(["the", "court"], buckets=1)
        >>> vocabulary.rows, vocabulary.classes, vocabulary.id_of("court"), vocabulary.id_of("certiorari")
        (5, 6, 4, 5)
    """

    def __init__(self, words: Sequence[str], buckets: int, output_buckets: int | None = None):
        output_buckets = buckets if output_buckets is None else output_buckets
        buckets = whole_number("buckets", buckets, 1, error=DataError)
        output_buckets = whole_number("output_buckets", output_buckets, 1, error=DataError)
        self.words, self.buckets, self.output_buckets = tuple(words), buckets, output_buckets
        self._rows = {word: FIRST_WORD + i for i, word in enumerate(self.words)}
        if len(self._rows) < len(self.words):
            twice = next(w for i, w in enumerate(self.words) if self._rows[w] != FIRST_WORD + i)
            raise DataError(f"the words of a vocabulary must differ, {twice!r} comes more than once")

    def __repr__(self) -> str:
        return f"Vocabulary({len(self.words):,} words, {self.described()})"

    def described(self) -> str:
        """How many buckets there are."""
        apart = "" if self.output_buckets == self.buckets else f" in, {self.output_buckets:,} out"
        return f"{self.buckets:,} buckets{apart}"

    @property
    def rows(self) -> int:
        """Rows of the global embedding table: padding, begin, end and the words."""
        return FIRST_WORD + len(self.words)

    @property
    def classes(self) -> int:
        """Outputs of a model: the rows and the output buckets."""
        return self.rows + self.output_buckets

    def row_of(self, word: str) -> int:
        """A word's row in the global table; 0 if it is not shared."""
        return self._rows.get(word, PADDING)

    def local_row_of(self, word: str) -> int:
        """The local row of a word that is not shared; -1 if it is."""
        return -1 if self.row_of(word) else bucket_of(word, self.buckets)

    def id_of(self, word: str) -> int:
        """A word's id, or that of its output bucket."""
        row = self.row_of(word)
        return row if row else self.rows + bucket_of(word, self.output_buckets)

    def named(self) -> np.ndarray:
        """What each row of the global table stands for: saved with a run, see `from_named`."""
        return np.asarray([*SPECIAL, *self.words], object)

    @staticmethod
    def from_named(
        named: Sequence[str], buckets: int, output_buckets: int | None = None, where: str = "the vocabulary"
    ) -> "Vocabulary":
        """Inverse of `named`.

        Raises:
            DataError: The names do not begin as every vocabulary's do, or a word comes twice.
        """
        if tuple(named[:FIRST_WORD]) != SPECIAL:
            start = list(named[:FIRST_WORD])
            raise DataError(f"{where} must begin with {', '.join(SPECIAL)}, it begins with {start}")
        return Vocabulary(tuple(named[FIRST_WORD:]), buckets, output_buckets)

    @staticmethod
    def read(path: str | os.PathLike[str], buckets: int, output_buckets: int | None = None) -> "Vocabulary":
        """The vocabulary that a run saved: of a run folder, or its `vocabularies.json`.

        Raises:
            DataError: There is none, or it is not one of words.
        """
        path = Path(path)
        path = path / "vocabularies.json" if path.is_dir() else path
        try:
            named = json.loads(path.read_text(encoding="utf-8"))[FIELD]
        except OSError as error:
            raise DataError(f"{path}: the vocabulary cannot be read: {error.strerror}") from None
        except (ValueError, KeyError, TypeError):
            raise DataError(f"{path}: must be a run's vocabularies.json with an entry {FIELD!r}") from None
        if not isinstance(named, list) or not all(isinstance(word, str) for word in named):
            raise DataError(f"{path}: the entry {FIELD!r} must be a list of words")
        return Vocabulary.from_named(named, buckets, output_buckets, str(path))

    @staticmethod
    def most_frequent(
        clients: Clients, size: int, buckets: int, output_buckets: int | None = None
    ) -> "Vocabulary":
        """The words that come most often in the texts of some clients; those of equal count by alphabet.

        Args:
            clients: The training clients to count over: those of `text.prepare`, or some of them.
            size: The largest number of shared words.
            buckets: The number of buckets that all other words share.
            output_buckets: The number of output ids of the other words; None, the default, for as many as
                `buckets`.

        Raises:
            DataError: A number is not whole, or out of its range.
        """
        size = whole_number("size", size, 0, error=DataError)
        lexicon = clients.vocabularies["token"]
        counts = np.zeros(len(lexicon), np.int64)
        for piece in clients.pieces():
            counts += np.bincount(piece.column("token").reshape(-1), minlength=len(lexicon))
        counts[0] = 0
        seen = np.flatnonzero(counts)
        order = sorted(seen.tolist(), key=lambda i: (-counts[i], lexicon[i]))
        return Vocabulary([lexicon[i] for i in order[:size]], buckets, output_buckets)

    def encode(self, clients: Clients, own_words: bool = False) -> Clients:
        """Texts as a model takes them.

        Args:
            clients: The clients that `text.prepare` returned, with the field `token`.
            own_words: Whether each client's words outside the vocabulary are numbered, too; False by default.

        Returns:
            The same clients with the fields, all int32 `[sentence, position]`: `word`, the row of the input
            in the global table, 0 where there is none; `bucket`, its local row, -1 where there is none;
            `target`, the id of the word that follows, 0 where there is none. With `own_words` also
            `own_word` and `own_target`: the number of the input and of the word that follows among the
            client's own words outside the vocabulary, from 1; 0 where it is none of them. A client's own
            words are numbered as its text first has them in the order of `vocabularies["token"]`.
        """
        lexicon = clients.vocabularies["token"]
        facts = [(self.row_of(word), self.local_row_of(word), self.id_of(word)) for word in lexicon]
        facts[0] = PADDING, -1, PADDING  # the lexicon's entry for "no word"
        by_token = np.array(facts, np.int32).T
        shape, start = (int(clients.num_examples.sum()), *clients.blank("token").shape), 0
        names = ("word", "bucket", "target", *(OWN_FIELDS if own_words else ()))
        columns = {name: disk_backed_array(shape, np.int32) for name in names}
        for piece in clients.pieces():
            tokens = piece.column("token")
            made = dict(self.columns(tokens, *by_token))
            if own_words:
                outside = (by_token[0][tokens] == PADDING) & (tokens != 0)
                made |= _own_columns(tokens, outside, piece.num_examples)
            stop = start + int(piece.num_examples.sum())
            for name, column in columns.items():
                column[start:stop] = made[name]
            start = stop
        encoded = Clients.from_columns(clients.ids, clients.offsets, columns, keys=clients.keys)
        # Not by `from_columns`, which would refuse a word of the texts that looks like one of `SPECIAL`.
        return encoded._with(vocabularies={FIELD: self.named()})

    @staticmethod
    def columns(tokens: Any, rows: Any, buckets: Any, ids: Any) -> Mapping[str, np.ndarray]:
        """The fields of `encode`: `tokens` are `[sentence, position]`, the others are by token."""
        word, bucket = np.zeros_like(tokens), np.full_like(tokens, -1)
        word[:, 0] = BEGIN
        word[:, 1:], bucket[:, 1:] = rows[tokens[:, :-1]], buckets[tokens[:, :-1]]
        target = ids[tokens]
        length = np.count_nonzero(tokens, axis=1)
        shorter = np.flatnonzero(length < tokens.shape[1])
        target[shorter, length[shorter]] = END
        return {"word": word, "bucket": bucket, "target": target}


def _own_columns(tokens: Any, outside: Any, sentences: Any) -> dict[str, np.ndarray]:
    """The fields of clients' own words.

    Args:
        tokens: The words' numbers in the lexicon, `[sentence, position]`.
        outside: Whether a word is outside the vocabulary, `[sentence, position]`.
        sentences: The number of sentences of each client, `[client]`.
    """
    client = np.repeat(np.arange(len(sentences)), sentences)
    owner = np.broadcast_to(client[:, None], tokens.shape)[outside].astype(np.int64)
    width = int(tokens.max(initial=0)) + 1
    pairs, which = np.unique(owner * width + tokens[outside], return_inverse=True)
    first = np.searchsorted(pairs, np.arange(len(sentences), dtype=np.int64) * width)
    target, word = np.zeros_like(tokens), np.zeros_like(tokens)
    target[outside] = which - first[owner] + 1
    word[:, 1:] = target[:, :-1]
    return {"own_word": word, "own_target": target}
