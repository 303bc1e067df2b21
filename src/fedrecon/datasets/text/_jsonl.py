"""JSON Lines: a client per line, `{"client": name, "text": [sentence, …]}`, packed or not."""

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedrecon.data._unpacking import DAMAGE, check_unpacked, unpacking
from fedrecon.datasets.text._encode import Writer
from fedrecon.errors import DataError, parsing_error


def read_lines(path: Path, limit: int) -> Iterator[Writer]:
    """The clients of a file; blank lines are passed over.

    Args:
        path: The file.
        limit: Bytes that it may unpack to, where it is packed.

    Raises:
        DataError: A line is not UTF-8, not JSON or not of this form; or the file cannot be read, or unpacks
            to more.
    """
    try:
        with open(path, "rb") as raw, unpacking(raw, path.name) as file:
            for number, line in enumerate(raw if file is raw else _bounded(file, path, limit), 1):
                line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                if line.strip():
                    where = f"{path}, line {number}"
                    yield _writer(json_value(line, where), where)
    except DAMAGE as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _bounded(file: Any, path: Path, limit: int) -> Iterator[bytes]:
    """The lines of a packed file; a line is read no further than the limit, for it may be all of the file."""
    size = 0
    while line := file.readline(limit - size + 1):
        size += len(line)
        check_unpacked(str(path), size, limit)
        yield line


def json_value(line: bytes, where: str) -> Any:
    """The value of a text of JSON.

    Raises:
        DataError: The text is not JSON, or JSON that Python does not take.
    """
    try:
        return json.loads(decoded(line, where))
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: must be JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise DataError(f"{where}: must be JSON that is less deeply nested") from None
    except DataError:
        raise
    except ValueError as error:  # Python turns no text of so many digits into a number
        raise DataError(
            f"{where}: must be JSON of numbers that can be read: {parsing_error(error)}"
        ) from None


def decoded(text: bytes, where: str) -> str:
    """Bytes as text.

    Raises:
        DataError: The bytes are not UTF-8.
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
