"""Where texts by client come from: files of several forms, or a package."""

import codecs
import hashlib
import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from fedrecon.data._unpacking import (
    DAMAGE,
    PACKED_SUFFIXES,
    UNPACKED_GIB,
    limit_of,
    strip_packing,
    unpacking,
)
from fedrecon.datasets.text._encode import Writer
from fedrecon.datasets.text._jsonl import decoded, is_unicode, read_lines
from fedrecon.errors import DataError

LINES, PARQUET, SQLITE, LEAF = (
    (".jsonl", ".ndjson"),
    (".parquet",),
    (".sqlite", ".sqlite3", ".db"),
    (".json",),
)
_HEAD = 1 << 16  # bytes that tell what a file of JSON holds
FORMS = (
    "JSON Lines (.jsonl), SQLite, LEAF's JSON, each packed or not, Parquet, or a folder with a text file "
    "(.txt) for each client"
)


def find(path: str | os.PathLike[str]) -> Path:
    """The file at `path`, or the one file in that folder; the folder itself if it has a text file per client
    or is divided into several files of LEAF's JSON, each with some of the users.

    Hidden files are passed over, such as those that a Mac leaves beside every file.

    Raises:
        DataError: The folder has no text file, or files of more than one form.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder")
    if not path.is_dir():
        if not is_file_of_texts(path):
            packed = path.suffix.lower() in (*PACKED_SUFFIXES, ".zip")
            raise DataError(f"{path}: must be {FORMS}{'; unpack it first' if packed else ''}")
        return path
    files, texts = _sources(path), _texts(path)
    if len(files) > 1 and not texts and files == _leaf_parts(path):
        return path
    if len(files) + bool(texts) != 1:
        names = [p.name for p in (*files, *texts[:1])]
        raise DataError(f"{path}: must hold one source, {FORMS}; it holds {names or 'none'}")
    return files[0] if files else path


def is_file_of_texts(path: Path) -> bool:
    """Whether a file has the name of one that `find` takes."""
    name = path.name.lower()
    return strip_packing(name).endswith((*LINES, *SQLITE, *LEAF)) or name.endswith(PARQUET)


def holds_texts(path: Path) -> bool:
    """Whether a file or folder seems to hold texts by client, by its name and its first bytes.

    Files of JSON, SQLite and Parquet can hold anything else as well: of JSON the first line tells, SQLite is
    taken for texts, Parquet is not.
    """
    if path.is_dir():
        names = [strip_packing(file.name.lower()) for file in _visible(path)]
        tables = (".csv", ".tsv", ".dat", ".data", ".inter", *PARQUET)
        if any(name.endswith(tables) for name in names):
            return False
        return any(name.endswith(".txt") for name in names) or any(
            holds_texts(file) for file in _visible(path) if file.is_file()
        )
    name = strip_packing(path.name.lower())
    if name.endswith(SQLITE):
        return True
    if not name.endswith((*LINES, *LEAF)) or not path.is_file():
        return False
    try:
        with open(path, "rb") as raw, unpacking(raw, path.name) as file:
            head = file.read(_HEAD).removeprefix(codecs.BOM_UTF8).lstrip()
    except DAMAGE:
        return True  # whose reader says what is wrong
    if name.endswith(LEAF):
        return any(mark in head for mark in (b'"users"', b'"user_data"'))
    return all(mark in head.split(b"\n", 1)[0] for mark in (b'"client"', b'"text"'))


def fingerprint(path: Path) -> str:
    """A digest that changes whenever the files do: of their names, sizes, and times of change."""
    facts = []
    for file in (_texts(path) or _leaf_parts(path)) if path.is_dir() else [path]:
        status = file.stat()
        facts.append(
            (str(file.resolve()), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        )
    return hashlib.sha256(repr(facts).encode(errors="backslashreplace")).hexdigest()[:32]


def writers(path: Path, part: str | None, limit: int = limit_of(UNPACKED_GIB)) -> Iterator[Writer]:
    """The clients of what `find` found.

    Args:
        path: The path of a file or a folder, as `find` returned it.
        part: The part of an SQLite file to read; None for all parts.
        limit: The number of bytes that a packed file may unpack to; 2 GiB by default.

    Raises:
        DataError: The file cannot be read.
    """
    name = strip_packing(path.name.lower())
    if path.is_dir():
        parts = [] if _texts(path) else _leaf_parts(path)
        return chain.from_iterable(writers(p, part, limit) for p in parts) if parts else _folder(path)
    if name.endswith(LINES):
        return read_lines(path, limit)
    if name.endswith(LEAF):
        from fedrecon.datasets.text._leaf import read_leaf

        return read_leaf(path, limit)
    if name.endswith(PARQUET):
        from fedrecon.datasets.text._parquet import read_parquet

        return read_parquet(path, limit)
    from fedrecon.datasets.text._sqlite import read_sqlite

    return read_sqlite(path, part, limit)


def read_text(path: Path) -> list[str]:
    """The lines of a text file: a sentence each.

    Raises:
        DataError: The file cannot be read, or a line is not UTF-8.
    """
    try:
        lines = path.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    return [decoded(line, f"{path}, line {i}") for i, line in enumerate(lines, 1)]


def read_user(path: Path, unpacked_gib: float | int = UNPACKED_GIB) -> list[str]:
    """The sentences of one user: the lines of a text file, or the only client of another form, whatever part
    of an SQLite file it is in; `unpacked_gib` as for `prepare`.

    Raises:
        DataError: The source cannot be read, or holds several clients.
    """
    if path.is_file() and not is_file_of_texts(path):
        return read_text(path)
    limit = limit_of(unpacked_gib)
    users = [(writer.client, list(writer.sentences)) for writer in writers(find(path), None, limit)]
    if len(users) != 1:
        names = ", ".join(repr(client) for client, _ in users[:4])
        raise DataError(f"{path}: must hold one client, it holds {len(users):,}: {names}")
    return users[0][1]


def _texts(folder: Path) -> list[Path]:
    return sorted(p for p in _visible(folder) if p.suffix.lower() == ".txt" and p.is_file())


def _sources(folder: Path) -> list[Path]:
    """The files of a folder that hold the texts of several clients."""
    # Any tool leaves files of JSON beside its data: only their content tells whether they are LEAF's.
    return sorted(p for p in _visible(folder) if is_file_of_texts(p) and (not _is_json(p) or holds_texts(p)))


def _leaf_parts(folder: Path) -> list[Path]:
    return [p for p in _sources(folder) if _is_json(p)]


def _is_json(path: Path) -> bool:
    return strip_packing(path.name.lower()).endswith(LEAF)


def _visible(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if not path.name.startswith("."))


def _folder(folder: Path) -> Iterator[Writer]:
    for path in _texts(folder):
        if not is_unicode(path.stem):
            raise DataError(f"{str(path)!r}: the name of a client's file must be UTF-8 text")
        yield Writer(path.stem, read_text(path), str(path))
