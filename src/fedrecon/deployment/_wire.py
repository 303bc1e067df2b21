"""The wire format: encodes a message as bytes and decodes it, as docs/wire_format.md describes."""

import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from fedrecon.deployment._refusals import Refusal, RefusedError

VERSION = 1
READ = (VERSION - 1, VERSION)
"""Versions that can be read: this one, and the one before, since the devices of a fleet update one by one."""
MAX_BYTES = 2**31

_MAGIC = b"fedrecon"
_HEAD = struct.Struct("<8sHHIQ")  # magic, version, 0, size of the header, size of the arrays, both in bytes
_CHECKSUM = struct.Struct("<I")
_ALIGNMENT = 8
_MAX_HEADER = 2**20
_KINDS = ("ask", "request", "broadcast", "update", "refusal", "state")

# The types that an array may have, by their names in a message. Objects and strings are left out: reading
# them from an untrusted sender could run code or take any amount of memory.
_NAMES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_FLOATS = ("float16", "float32", "float64")
_SMALL = (
    "bfloat16",
    "float8_e4m3fn",
    "float8_e4m3fnuz",
    "float8_e4m3b11fnuz",
    "float8_e5m2",
    "float8_e5m2fnuz",
)
_BITS = ("int4", "uint4")
DTYPES: Mapping[str, np.dtype] = {
    **{name: np.dtype(name).newbyteorder("<") for name in (*_NAMES, *_FLOATS)},
    **{name: np.dtype(getattr(ml_dtypes, name)) for name in (*_SMALL, *_BITS)},
}


class Message(NamedTuple):
    """A message between a server and a client.

    Attributes:
        kind: The kind of message: `"ask"`, `"request"`, `"broadcast"`, `"update"` or `"refusal"`, or
            `"state"` for one that is kept on a disk.
        run: Name of the run to which the message belongs.
        round: Number of rounds done before the message's round.
        attempt: Number of earlier attempts at the round.
        client: The client's name; `""` for a message that is for no single client.
        arrays: The arrays by their names. An array object that stands under two names is sent once.
        notes: Further values by their names, as JSON can hold them; none by default.
    """

    kind: str
    run: str
    round: int
    attempt: int
    client: str
    arrays: Mapping[str, np.ndarray]
    notes: Mapping[str, Any] = {}


def encode(message: Message, version: int = VERSION) -> bytes:
    """Encodes a message as bytes.

    Args:
        message: The message to encode.
        version: Version of the format, one that the receiver can read; the present version by default.

    Raises:
        ValueError: An array has a type that the format does not allow, or the version is unknown.
    """
    if version not in READ:
        raise ValueError(f"version must be one of {READ}, got {version}")
    names: dict[int, list[str]] = {}
    unique: dict[int, np.ndarray] = {}
    for name, x in message.arrays.items():
        names.setdefault(id(x), []).append(name)
        unique[id(x)] = x
    entries: list[Any] = []
    parts: list[Any] = []
    size = 0
    for number, x in unique.items():
        array, kind = _plain(x, names[number][0])
        entries.append([names[number], kind, list(array.shape)])
        fill = -array.nbytes % _ALIGNMENT
        parts += [array.reshape(-1).view(np.uint8).data, bytes(fill)]
        size += array.nbytes + fill
    described = {
        "kind": message.kind,
        "run": message.run,
        "round": message.round,
        "attempt": message.attempt,
        "client": message.client,
        "arrays": entries,
        "notes": dict(message.notes),
    }
    header = json.dumps(described, separators=(",", ":"), allow_nan=False).encode()
    header += b" " * (-(len(header) + _HEAD.size) % _ALIGNMENT)
    parts = [_HEAD.pack(_MAGIC, version, 0, len(header), size), header, *parts]
    checksum = 0
    # The checksum is taken over the parts, and these are joined once with it: to copy a large message takes
    # as long as to compute its checksum.
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    return b"".join([*parts, _CHECKSUM.pack(checksum)])


def decode(data: bytes, max_bytes: int = MAX_BYTES) -> Message:
    """Decodes a message from an untrusted sender: every size is checked before it is used.

    Args:
        data: The bytes of the message.
        max_bytes: The largest number of bytes of a message; a longer one is refused; 2 GiB by default.

    Returns:
        The message. Its arrays are read-only views of `data`.

    Raises:
        RefusedError: The message is refused with the reason `too_large`, `wrong_version`, `wrong_dtype`, or
            `checksum` for bytes that are not a complete message as `encode` writes it.
    """
    if len(data) > max_bytes:
        raise RefusedError(Refusal.TOO_LARGE, f"a message may have {max_bytes:,} bytes, got {len(data):,}")
    if len(data) < _HEAD.size + _CHECKSUM.size:
        raise _broken(f"it has {len(data)} bytes")
    magic, version, _, header_size, size = _HEAD.unpack_from(data)
    # The version is checked before lengths and checksum: another version may place those differently, and its
    # sender should learn that the version is the reason.
    if magic != _MAGIC:
        raise _broken("it does not begin as one")
    if version not in READ:
        raise RefusedError(
            Refusal.WRONG_VERSION, f"a message must be of a version of {READ} of the format, got {version}"
        )
    if _HEAD.size + header_size + size + _CHECKSUM.size != len(data) or header_size > _MAX_HEADER:
        raise _broken("its length is not what it says")
    end = len(data) - _CHECKSUM.size
    view = memoryview(data)
    # The checksum comes before the header is parsed, so that a damaged message is refused as damaged and not
    # for whatever its header has turned into.
    if zlib.crc32(view[:end]) != _CHECKSUM.unpack_from(data, end)[0]:
        raise _broken("its checksum does not match")
    try:
        header = json.loads(bytes(view[_HEAD.size : _HEAD.size + header_size]))
        fields = [header[name] for name in ("kind", "run", "round", "attempt", "client", "arrays", "notes")]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _broken("its header is not JSON with all fields") from None
    kind, run, round, attempt, client, entries, notes = fields
    whole = isinstance(round, int) and isinstance(attempt, int)
    texts = isinstance(run, str) and isinstance(client, str) and kind in _KINDS
    if not (whole and texts and isinstance(notes, dict) and isinstance(entries, list)):
        raise _broken("a field of its header is of another type")
    arrays = _arrays(view[_HEAD.size + header_size : end], entries)
    return Message(kind, run, round, attempt, client, arrays, notes)


def payload_bytes(message: Message) -> int:
    """Number of bytes of a message's parameters and rows, without the header, padding and metrics."""
    counted = ("global_params/", "delta/", "rows/")
    arrays = {id(x): x for name, x in message.arrays.items() if name.startswith(counted)}
    return sum(x.nbytes for x in arrays.values())


def _plain(x: Any, name: str) -> tuple[np.ndarray, str]:
    """An array in C order and little-endian, and the name of its type."""
    array = np.asarray(x)
    kind = array.dtype.name
    if kind not in DTYPES:
        raise ValueError(f"array {name!r} must be of a type of {sorted(DTYPES)}, got {array.dtype}")
    return np.ascontiguousarray(array, DTYPES[kind]).reshape(array.shape), kind


def _arrays(data: memoryview, entries: list[Any]) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    at = 0
    for entry in entries:
        names, kind, shape = _entry(entry)
        count = 1
        for length in shape:
            count *= length
        size = count * DTYPES[kind].itemsize
        if at + size > len(data):
            raise _broken("an array ends behind it")
        array = np.frombuffer(data[at : at + size], np.uint8).view(DTYPES[kind]).reshape(shape)
        at += size + -size % _ALIGNMENT
        for name in names:
            if name in arrays:
                raise _broken("a name comes twice")
            arrays[name] = array
    if at != len(data):
        raise _broken("it has bytes that belong to no array")
    return arrays


def _entry(entry: Any) -> tuple[list[str], str, list[int]]:
    if not (isinstance(entry, list) and len(entry) == 3):
        raise _broken("an array is not described by three values")
    names, kind, shape = entry
    if not (isinstance(names, list) and names and all(isinstance(x, str) for x in names)):
        raise _broken("an array has no name")
    if not isinstance(kind, str) or kind not in DTYPES:
        raise RefusedError(
            Refusal.WRONG_DTYPE, f"an array must be of a type of {sorted(DTYPES)}, got {str(kind)[:40]!r}"
        )
    whole = isinstance(shape, list) and len(shape) <= 32
    if not (whole and all(type(x) is int and 0 <= x < 2**48 for x in shape)):
        raise _broken("an array has no shape")
    return names, kind, shape


def _broken(what: str) -> RefusedError:
    return RefusedError(Refusal.CHECKSUM, f"a message must be whole and as it was written, but {what}")
