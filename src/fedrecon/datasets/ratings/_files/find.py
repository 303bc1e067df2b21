"""Finds the rating file of a path: the file itself, or the one of a folder or of a zip archive."""

import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from fedrecon.data._unpacking import UNPACKED_GIB, limit_of, strip_packing
from fedrecon.datasets.ratings._files.layout import has_columns
from fedrecon.datasets.ratings._files.source import (
    JSON_SUFFIXES,
    PARQUET_SUFFIXES,
    UNREADABLE,
    Source,
    reason,
)
from fedrecon.datasets.ratings._reader_options import Reading
from fedrecon.datasets.ratings._validation import NAMING, shown
from fedrecon.errors import DataError

_NAMES = ("ratings.dat", "ratings.csv", "ratings.tsv", "ratings.parquet", "u.data")
_ATOMIC = ".inter"  # RecBole's interactions, which name their columns and the kinds of them
_SUFFIXES = (".csv", ".tsv", ".dat", ".data", ".txt", *JSON_SUFFIXES, *PARQUET_SUFFIXES)
_LENSKIT = "schema.json"  # of a folder that LensKit saved


def find(path: str | os.PathLike[str], reading: Reading, unpacked_gib: float | int = UNPACKED_GIB) -> Source:
    """The rating file at `path`.

    Args:
        path: A rating file; or a folder or .zip archive with one rating file: `ratings.dat`, `ratings.csv`,
            `ratings.tsv`, `ratings.parquet`, `u.data` or RecBole's `.inter`, packed or not, at most one
            folder deep; or the path of a file within an archive; or a folder of the Parquet parts of one
            table, or of a data set of LensKit.
        reading: The options with which the file is read. With columns the one table of a folder or archive is
            taken whatever its name, and of several the one that has these columns.
        unpacked_gib: The number of GiB that the file may unpack to when it is read; 2 by default.

    Raises:
        DataError: There is no such file, more than one, or the archive is damaged.
        ValueError: `unpacked_gib` is not a positive number.
    """
    path = Path(path)
    whole = Source(path, limit=limit_of(unpacked_gib), encoding=reading.encoding)
    try:
        is_folder = path.is_dir()
        if not is_folder:
            path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        inside = _find_within_archive(whole)
        if inside is None:
            raise DataError(f"{path}: no such rating file") from error
        return inside
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {reason(error)}") from error
    if is_folder:
        return _find_in_folder(whole, reading)
    if not path.is_file():
        raise DataError(f"{path}: must be a file, a folder or a .zip archive")
    if path.suffix.lower() != ".zip":
        return whole
    members = {name: replace(whole, member=name) for name in _list_members(path)}
    return _only(str(path), members, reading)


def _list_members(archive: Path) -> list[str]:
    try:
        with zipfile.ZipFile(archive) as opened:
            return [name for name in opened.namelist() if name and not name.endswith("/")]
    except (*UNREADABLE, ValueError, NotImplementedError) as error:
        raise DataError(f"{archive}: cannot be read as a zip archive: {reason(error)}") from error


def _find_within_archive(whole: Source) -> Source | None:
    """The file of an archive whose path is that of the archive and of the file in it."""
    for archive in whole.path.parents:
        if archive.suffix.lower() == ".zip" and archive.is_file():
            member = whole.path.relative_to(archive).as_posix()
            if member in _list_members(archive):
                return replace(whole, path=archive, member=member)
    return None


def _find_in_folder(whole: Source, reading: Reading) -> Source:
    folder = whole.path
    try:
        files = list(_files(folder))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {reason(error)}") from error
    if folder / _LENSKIT in files:
        tables = tuple(x for x in files if x.parent == folder and x.suffix.lower() in PARQUET_SUFFIXES)
        return replace(whole, parts=(folder / _LENSKIT, *tables), is_lenskit=True)
    parts = _find_parts(folder, files)
    if parts:
        return replace(whole, parts=parts)
    sources = {str(file.relative_to(folder)): replace(whole, path=file) for file in files}
    return _only(str(folder), sources, reading)


def _files(folder: Path) -> Iterator[Path]:
    """The files in `folder` and in its folders, in a fixed order."""
    for entry in sorted(folder.iterdir()):
        if entry.is_dir():
            yield from (inner for inner in sorted(entry.iterdir()) if inner.is_file())
        elif entry.is_file():
            yield entry


def _find_parts(folder: Path, files: Sequence[Path]) -> tuple[Path, ...]:
    """The files of one Parquet table, as Spark and others write it: alike but for a number; else none."""
    tables = [
        x
        for x in files
        if x.suffix.lower() in PARQUET_SUFFIXES and x.parent == folder and x.name[0] not in "._"
    ]
    # Spark's names hold a UUID, which has letters among its digits.
    stems = {re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\d+", "#", x.name) for x in tables}
    numbered = all(re.search(r"\d", x.name) for x in tables)
    return tuple(tables) if len(tables) > 1 and len(stems) == 1 and numbered else ()


def _only(where: str, sources: dict[str, Source], reading: Reading) -> Source:
    """The one rating file among `sources`, whose keys are paths relative to `where`."""
    visible = {
        name: source
        for name, source in sources.items()
        if not PurePosixPath(name).name.startswith(".") and "__MACOSX" not in name
    }
    plain = {name: strip_packing(PurePosixPath(name).name).lower() for name in visible}
    chosen = [name for name in visible if plain[name] in _NAMES or plain[name].endswith(_ATOMIC)]
    if not chosen and reading.columns is not None:
        chosen = [name for name in visible if plain[name].endswith(_SUFFIXES) and not _is_readme(plain[name])]
        if len(chosen) > 1:
            chosen = [name for name in chosen if has_columns(visible[name], reading)] or chosen
    if len(chosen) == 1:
        return visible[chosen[0]]
    if chosen:
        raise DataError(
            f"{where}: must hold one rating file, has {_some(chosen)}; give the path of one of them"
        )
    others = f"; a table of another name needs its columns named, {NAMING}"
    raise DataError(
        f"{where}: must hold a rating file ({', '.join(_NAMES)}), has {_some(list(visible)) or 'no files'}"
        + (others if visible and reading.columns is None else "")
    )


def _is_readme(name: str) -> bool:
    return name.startswith(("readme", "license", "licence"))


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(shown, names[:8])) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
