"""Digests that tell whether the files of a run folder are what was written."""

import hashlib
import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedrecon.errors import RunError, UncheckedWarning

# The key of the digest of all other values in a JSON file.
DIGEST = "digest"
ADVICE = "put a copy back"
_warned: set[Path] = set()


def finite(value: Any) -> Any:
    """JSON values with null in place of NaN and infinities, which JSON does not have."""
    if isinstance(value, Mapping):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def digest_of(values: Any) -> str:
    """A digest of JSON values, 32 hexadecimal digits; the order of their names does not matter."""
    text = json.dumps(values, sort_keys=True, default=str)
    return digest_of_bytes(text.encode())


def digest_of_bytes(content: bytes) -> str:
    """A digest of the content of a file, 32 hexadecimal digits."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def seal(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON values with their digest added, under the key `DIGEST`."""
    return {**values, DIGEST: digest_of(values)}


def unseal(values: Any, path: Path) -> Any:
    """JSON values without their digest, after a check; the inverse of `seal`.

    Args:
        values: The values that were read. There is a warning if an earlier version wrote them, without a
            digest.
        path: The path of the file in its run folder, for the message.

    Raises:
        RunError: The values are not those that were written.
    """
    if not isinstance(values, dict) or DIGEST not in values:
        warn_unchecked(path.parent)
        return values
    rest = {name: value for name, value in values.items() if name != DIGEST}
    if digest_of(rest) != values[DIGEST]:
        raise damage_error(path)
    return rest


def read_json(path: Path) -> Any:
    """The values in a JSON file of a run folder, without their digest.

    Raises:
        RunError: The file is missing, or not what was written.
    """
    try:
        return unseal(json.loads(path.read_text(encoding="utf-8")), path)
    except FileNotFoundError:
        raise RunError(f"{path.parent}: a run folder must have a {path.name}, this has none") from None
    except RunError:
        raise
    # Also the error for a file that is not UTF-8, which derives from ValueError.
    except ValueError as error:
        raise RunError(f"{path}: no JSON: {error}; {ADVICE}") from None


def damage_error(path: Path) -> RunError:
    """The error for a file that is not what was written."""
    return RunError(f"{path}: is damaged: it is not what was written; {ADVICE}")


def missing(path: Path) -> RunError:
    """The error for a file that a run with a checkpoint must have."""
    return RunError(
        f"{path}: is missing, which a run with a checkpoint must have; {ADVICE}, or remove the checkpoints "
        "to start again"
    )


def warn_unchecked(run: Path) -> None:
    """Warns, once in a process, that the files of a run folder cannot be checked."""
    if run not in _warned:
        _warned.add(run)
        text = f"{run}: not checked: this run folder of an earlier version has no digests"
        warnings.warn(text, UncheckedWarning, stacklevel=3)


def mark_of(path: Path) -> dict[str, Any]:
    """Size in bytes and digest of a file, for `check_mark`."""
    content = path.read_bytes()
    return {"bytes": len(content), "digest": digest_of_bytes(content)}


def is_marked(path: Path, mark: Mapping[str, Any]) -> bool:
    """Whether a file begins with the bytes of which `mark_of` made a mark."""
    # Only the beginning is compared, since a log such as metrics.csv grows after its mark was made.
    if not path.exists():
        return False
    with open(path, "rb") as file:
        content = file.read(mark["bytes"])
    return len(content) == mark["bytes"] and digest_of_bytes(content) == mark["digest"]


def check_mark(path: Path, mark: Mapping[str, Any]) -> None:
    """Checks that a file begins with the bytes of which `mark_of` made a mark.

    Raises:
        RunError: The file is missing, or does not begin with these bytes.
    """
    if not is_marked(path, mark):
        raise damage_error(path)
