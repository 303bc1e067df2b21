"""`tf.train.Example` without TensorFlow: the part of the protocol-buffer wire format that it uses.

    message Example  { Features features = 1; }
    message Features { map<string, Feature> feature = 1; }  # of { string key = 1; Feature value = 2; }
    message Feature  { BytesList bytes_list = 1; FloatList float_list = 2; Int64List int64_list = 3; }
    message BytesList { repeated bytes value = 1; }
    message FloatList { repeated float value = 1 [packed]; }
    message Int64List { repeated int64 value = 1 [packed]; }

Numbers may come packed or one by one; fields that are not known are passed over, as the format asks.

References:
    https://protobuf.dev/programming-guides/encoding
"""

import struct
from collections.abc import Iterator
from typing import Any

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

Values = list[bytes] | list[float] | list[int]


def example(data: bytes) -> dict[str, Values]:
    """The features of a serialized example by their names.

    Raises:
        ValueError: The bytes are no such message, or are cut short.
    """
    found: dict[str, Values] = {}
    for number, features in _fields(data):
        if number == 1:
            for inner, entry in _fields(_sub(features)):
                if inner == 1:
                    name, values = _entry(_sub(entry))
                    found[name] = values
    return found


def _entry(data: bytes) -> tuple[str, Values]:
    name: str = ""
    values: Values = []
    for number, value in _fields(data):
        if number == 1:
            name = _sub(value).decode("utf-8")
        elif number == 2:
            values = _feature(_sub(value))
    return name, values


def _feature(data: bytes) -> Values:
    values: list[Any] = []
    for kind, inner in _fields(data):
        for number, value in _fields(_sub(inner)) if kind in (1, 2, 3) else ():
            if number != 1:
                continue
            if kind == 1:
                values.append(_sub(value))
            elif kind == 2:
                values += _floats(value)
            else:
                values += map(_signed, [value] if isinstance(value, int) else _varints(value))
    return values


def _floats(value: Any) -> list[float]:
    data = struct.pack("<I", value) if isinstance(value, int) else value
    if len(data) % 4:
        raise ValueError(f"a list of floats must take a multiple of 4 bytes, got {len(data)}")
    return list(struct.unpack(f"<{len(data) // 4}f", data))


def _varints(data: bytes) -> Iterator[int]:
    place = 0
    while place < len(data):
        value, place = _varint(data, place)
        yield value


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _sub(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a field must hold bytes, got a number")
    return value


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a message: their number, and an int for a varint or fixed width, else bytes."""
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, place = _varint(data, place)
            yield number, value
            continue
        if kind == _BYTES:
            size, place = _varint(data, place)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"byte {place}: wire type {kind} is not known")
        if place + size > len(data):
            raise ValueError(f"byte {place}: {size} bytes must follow, {len(data) - place} are left")
        piece = data[place : place + size]
        place += size
        yield number, piece if kind == _BYTES else int.from_bytes(piece, "little")


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """A number of 7 bits a byte, the lowest first, and where it ends."""
    value = 0
    for i in range(10):
        if place + i >= len(data):
            raise ValueError(f"byte {place}: a number is cut short")
        byte = data[place + i]
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value & (1 << 64) - 1, place + i + 1
    raise ValueError(f"byte {place}: a number takes more than 10 bytes")
