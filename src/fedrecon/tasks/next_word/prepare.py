"""Texts as a federation: converted once into a client file, which serves until the source changes."""

import hashlib
import os
from pathlib import Path

import platformdirs

from fedrecon.errors import DataError
from fedrecon.federation.clients import Clients
from fedrecon.tasks.next_word import chitchat
from fedrecon.tasks.next_word.sources import find, fingerprint, writers
from fedrecon.tasks.next_word.text import to_clients
from fedrecon.tasks.next_word.tokens import TOKENIZERS, tokenizer_of

_VERSION = 1  # of what is made from a source and its settings


def prepare(
    path: str | os.PathLike[str],
    *,
    tokenizer: str = "whitespace",
    sentences: int | None = 1024,
    length: int = 20,
    part: str = "train",
    cache: str | os.PathLike[str] | None = None,
) -> Clients:
    """The clients of a text source, mapped from a client file that is made when it is needed.

    The client file is made whole or not at all, and anew when the source or a parameter changes. With a
    tokenizer of one's own, whose changes cannot be seen from here, nothing is kept.

    Args:
        path: A file or folder as `sources.find` takes it, or `"chitchat"` for the data set of that package.
        tokenizer: A name in `tokens.TOKENIZERS`, or `"package.module:function"`.
        sentences: Of a client, the first ones in order of time; None for all. 1,024 is the paper's.
        length: Words of a sentence, the first ones. 20 is the paper's.
        part: Of an SQLite file, which of its parts.
        cache: The folder of the client files; by default the platform's own for fedrecon.

    Returns:
        Clients with the field `token`, see `text.to_clients`.

    Raises:
        DataError: The source cannot be read or holds no text; or the folder cannot be written.
        ValueError: There is no such tokenizer.
    """
    tokenize = tokenizer_of(tokenizer)
    packaged = os.fspath(path) == chitchat.NAME and not Path(path).exists()
    source = chitchat.find_chitchat() if packaged else find(path)

    def convert() -> Clients:
        found = chitchat.read_chitchat(source) if packaged else writers(source, part)
        return to_clients(found, tokenize, sentences, length, str(source))

    if tokenizer not in TOKENIZERS:
        return convert()
    mark = fingerprint(source)
    folder = platformdirs.user_cache_path("fedrecon") if cache is None else Path(cache)
    facts = repr((_VERSION, str(source.resolve()), tokenizer, sentences, length, part))
    prefix = "texts-" + hashlib.sha256(facts.encode(errors="backslashreplace")).hexdigest()[:16]
    target = folder / f"{prefix}-{mark}.arrow"
    try:
        if target.exists():
            return Clients.open(target)
    except (DataError, OSError):
        pass  # damaged, or removed just now: made anew
    clients = convert()
    if fingerprint(source) != mark:
        raise DataError(f"{source}: must not change while it is read, but did; read it again")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        clients.write(target)
        for former in folder.glob(f"{prefix}-*.arrow"):
            if former != target:
                former.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"{folder}: the cache folder must be writable: {error.strerror}; another one can be set in the "
            "environment as XDG_CACHE_HOME"
        ) from error
    return Clients.open(target)
