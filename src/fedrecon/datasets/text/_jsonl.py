"""JSON Lines: a client per line, `{"client": name, "text": [sentence, …]}`, plain or gzip."""

import codecs
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedrecon.data._unpacking import check_unpacked
from fedrecon.datasets.text._encode import Writer
from fedrecon.errors import DataError


def read_lines(path: Path, limit: int) -> Iterator[Writer]:
    """The clients of a file; blank lines are passed over.

    Args:
        path: The file.
        limit: Bytes that it may unpack to, where it is packed.

    Raises:
        DataError: A line is not UTF-8, not JSON or not of this form; or the file cannot be read, or unpacks
            to more.
    """
    packed = path.suffix.lower() == ".gz"
    try:
        with gzip.open(path, "rb") if packed else open(path, "rb") as file:
            for number, line in enumerate(_bounded(file, path, limit) if packed else file, 1):
                line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                if line.strip():
                    where = f"{path}, line {number}"
                    yield _writer(_object(line, where), where)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _bounded(file: Any, path: Path, limit: int) -> Iterator[bytes]:
    """The lines of a packed file; a line is read no further than the limit, for it may be all of the file."""
    size = 0
    while line := file.readline(limit - size + 1):
        size += len(line)
        check_unpacked(str(path), size, limit)
        yield line


def _object(line: bytes, where: str) -> Any:
    try:
        return json.loads(decoded(line, where))
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: must be JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise DataError(f"{where}: must be JSON that is less deeply nested") from None
    except DataError:
        raise
    except ValueError as error:  # Python turns no text of so many digits into a number
        raise DataError(f"{where}: must be JSON of numbers that can be read: {error}") from None


def decoded(text: bytes, where: str) -> str:
    """Bytes as text.

    Raises:
        DataError: They are not UTF-8.
    """
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: must be UTF-8 text, byte {error.start} is {text[error.start]:#04x}"
        ) from None


def is_unicode(text: str) -> bool:
    """Whether it can be written down: no half of a surrogate pair, as a cut emoji leaves it, is in it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _writer(value: Any, where: str) -> Writer:
    for name in ("client", "text"):
        if not isinstance(value, dict) or name not in value:
            raise DataError(f'{where}: must be an object with "client" and "text", it lacks {name!r}')
    client, text = value["client"], value["text"]
    if isinstance(client, bool) or not isinstance(client, str | int):
        raise DataError(f'{where}: "client" must be a string or a whole number, got {client!r}')
    if not is_unicode(str(client)):
        raise DataError(f'{where}: "client" must be Unicode text, got {client!r}')
    if not isinstance(text, list):
        raise DataError(f'{where}: "text" must be a list of sentences, got {type(text).__name__}')
    for i, sentence in enumerate(text):
        if not isinstance(sentence, str):
            raise DataError(f'{where}: "text" must hold strings, entry {i} is {sentence!r}')
    return Writer(str(client), text, where)
