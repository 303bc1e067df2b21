"""The formats of `fingerprint.json`, which holds the values that two calls of the same run have in common.

Format 2 holds the parts of a run as `fingerprint_parts` describes them.

Files without a format number are of format 1, see `fingerprint_format_1`. They are never rewritten, since
what was made from such a run, for instance a half-written file of personalised clients, holds a copy of
their content that is compared with them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedrecon.errors import RunError
from fedrecon.experiment.storage import fingerprint_format_1

FORMAT = 2


def in_format_of(saved: Mapping[str, Any], fingerprint: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """A fingerprint of this version in the format of one that was read from a file.

    Args:
        saved: The content of the file, whose `format` decides; without one it is of format 1.
        fingerprint: The fingerprint that `RunSpec.fingerprint` returned.
        path: The path of the file, for the message.

    Raises:
        RunError: A later version of the library wrote the file.
    """
    number = saved.get("format", 1)
    if number == 1:
        return fingerprint_format_1.to_format_1(fingerprint)
    if number != FORMAT:
        raise RunError(f"{path}: format must be at most {FORMAT}, got {number!r}: a later fedrecon wrote it")
    return fingerprint


def as_text(saved: Any) -> str | None:
    """A part of a run on one line, from a fingerprint of any format; None if the fingerprint lacks it.

    Equal parts have equal texts, whichever format they are read from.
    """
    return saved if saved is None or isinstance(saved, str) else fingerprint_format_1.text(saved)
