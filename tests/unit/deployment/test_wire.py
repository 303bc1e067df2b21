"""The wire format: what goes in comes out, whatever arrives is refused by name, and old bytes are read."""

import json
import struct
import zlib
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrecon.deployment import _wire
from fedrecon.deployment._refusals import Refusal, RefusedError
from fedrecon.deployment._wire import DTYPES, MAX_BYTES, Message, decode, encode, payload_bytes

GOLDEN = Path(__file__).parents[2] / "formats"


def arrays():
    rows = np.array([1, 4, 39], np.int32)
    return {
        "delta/item/factors": np.array([[0.5, -1], [2, 1e-3], [0, 3e8]], np.float32),
        "delta/item/bias": np.arange(3).astype(ml_dtypes.bfloat16),
        "delta/scale": np.float32(0.5),
        "rows/item/factors": rows,
        "rows/item/bias": rows,
        "weight": np.array(7.0, np.float32),
        "metrics": np.array([[1.5, 2.0]], np.float32),
        "statistics/quantised": np.array([[-7, 7]], np.int8),
        "statistics/small": np.array([0.5, -2.0], ml_dtypes.float8_e4m3fn),
        "statistics/empty": np.zeros((0, 3), np.float64),
    }


def message(**others):
    fields = {"kind": "update", "run": "trial", "round": 3, "attempt": 1, "client": "ann é"}
    return Message(**{**fields, "arrays": arrays(), "notes": {"metrics": ["loss"]}, **others})


def same(a, b):
    assert a._replace(arrays={}) == b._replace(arrays={})
    assert list(a.arrays) == list(b.arrays) or set(a.arrays) == set(b.arrays)
    for name, x in a.arrays.items():
        x, y = np.asarray(x), b.arrays[name]
        assert (x.dtype.name, x.shape) == (y.dtype.name, y.shape)
        assert x.tobytes() == y.tobytes()


def test_message_comes_back_as_it_was():
    same(message(), decode(encode(message())))


@pytest.mark.parametrize("kind", DTYPES)
def test_every_type_comes_back(kind):
    dtype = DTYPES[kind]
    given = np.arange(6).reshape(2, 3).astype(dtype)
    for x in (given, np.asfortranarray(given), given[:, ::2], given[:0], given[0, 0]):
        back = decode(encode(message(arrays={"x": x}))).arrays["x"]
        assert back.dtype.name == kind and back.shape == np.shape(x)
        np.testing.assert_array_equal(back.astype(np.float64), np.asarray(x).astype(np.float64))


def test_high_byte_first_is_turned_round():
    back = decode(encode(message(arrays={"x": np.array([1, 2], ">i4")}))).arrays["x"]
    assert back.tolist() == [1, 2]


@given(
    st.dictionaries(
        st.text(max_size=9),
        st.tuples(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 3), max_size=4)),
    ),
    st.text(max_size=20),
)
def test_anything_comes_back(described, client):
    rng = np.random.default_rng(1)
    arrays = {
        name: rng.integers(0, 2, shape).astype(DTYPES[kind]) for name, (kind, shape) in described.items()
    }
    sent = message(arrays=arrays, client=client)
    same(sent, decode(encode(sent)))


def test_array_with_two_names_is_sent_once():
    x = np.zeros(1000)
    once, twice = (len(encode(message(arrays=dict.fromkeys(names, x)))) for names in (["a"], ["a", "b"]))
    assert twice - once < 50
    assert payload_bytes(message()) == 24 + 6 + 4 + 12


def test_arrays_that_arrive_cannot_be_written_to():
    back = decode(encode(message())).arrays["delta/item/factors"]
    with pytest.raises(ValueError, match="read-only"):
        back[0] = 1


@pytest.mark.parametrize("x", [np.array(["a"]), np.array([None]), np.array(1j), np.array(0, "M8[s]")])
def test_other_types_are_not_sent(x):
    with pytest.raises(ValueError, match="'x' must be of a type of"):
        encode(message(arrays={"x": x}))


def reason(data, **others):
    with pytest.raises(RefusedError) as caught:
        decode(data, **others)
    return caught.value.reason


def test_every_cut_and_every_changed_byte_is_refused():
    data = encode(message())
    for end in range(0, len(data), 7):
        assert reason(data[:end]) is Refusal.CHECKSUM
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 0x10
        assert reason(bytes(changed)) in (Refusal.CHECKSUM, Refusal.WRONG_VERSION)
    assert reason(data + b"\0") is Refusal.CHECKSUM
    assert reason(b"") is Refusal.CHECKSUM


@given(st.binary(max_size=200))
def test_garbage_is_refused(data):
    assert reason(data) is Refusal.CHECKSUM


def forged(header, body=b"", version=_wire.VERSION):
    """Bytes with a right checksum and any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    data = struct.pack("<8sHHIQ", b"fedrecon", version, 0, len(text), len(body)) + text + body
    return data + struct.pack("<I", zlib.crc32(data))


def header(**others):
    fields = {
        "kind": "update",
        "run": "r",
        "round": 0,
        "attempt": 0,
        "client": "c",
        "arrays": [],
        "notes": {},
    }
    return {**fields, **others}


def test_forged_header_without_faults_is_read():
    assert decode(forged(header())).round == 0
    assert decode(forged(header(later="a field of a later version"))).round == 0


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (forged(header(), version=_wire.VERSION + 1), Refusal.WRONG_VERSION),
        (forged(b"[" * 100_000), Refusal.CHECKSUM),
        (forged(b"{}"), Refusal.CHECKSUM),
        (forged(b"7"), Refusal.CHECKSUM),
        (forged(header(kind="order")), Refusal.CHECKSUM),
        (forged(header(round="0")), Refusal.CHECKSUM),
        (forged(header(notes=[])), Refusal.CHECKSUM),
        (forged(header(arrays={})), Refusal.CHECKSUM),
        (forged(header(arrays=[[["x"], "float32", [2]]])), Refusal.CHECKSUM),
        (forged(header(arrays=[[["x"], "float32", [2**40, 2**40]]])), Refusal.CHECKSUM),
        (forged(header(arrays=[[["x"], "float32", [-1]]])), Refusal.CHECKSUM),
        (forged(header(arrays=[[["x"], "float32", [True]]]), b"\0" * 8), Refusal.CHECKSUM),
        (forged(header(arrays=[[[], "float32", [0]]])), Refusal.CHECKSUM),
        (forged(header(arrays=[["x", "float32", [0]]])), Refusal.CHECKSUM),
        (forged(header(arrays=[[["x", "x"], "float32", [0]]])), Refusal.CHECKSUM),
        (forged(header(arrays=[[["x"], "object", [0]]])), Refusal.WRONG_DTYPE),
        (forged(header(arrays=[[["x"], ["f4"], [0]]])), Refusal.WRONG_DTYPE),
        (forged(header(), b"\0" * 8), Refusal.CHECKSUM),
    ],
)
def test_forged_message_is_refused(data, wanted):
    assert reason(data) is wanted


def test_long_message_is_refused_before_it_is_looked_at():
    assert reason(encode(message()), max_bytes=100) is Refusal.TOO_LARGE
    assert MAX_BYTES >= 2**31


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("wire_*.bin")), ids=lambda path: path.name)
def test_bytes_of_every_version_that_was_released_are_read(path):
    same(message(), decode(path.read_bytes()))


def test_bytes_of_this_version_stay():
    assert encode(message()) == (GOLDEN / f"wire_{_wire.VERSION}.bin").read_bytes()


def test_node_one_version_behind_works(monkeypatch):
    old = encode(message())
    monkeypatch.setattr(_wire, "VERSION", _wire.VERSION + 1)
    monkeypatch.setattr(_wire, "READ", (_wire.VERSION - 1, _wire.VERSION))
    same(message(), decode(old))
    assert encode(message(), _wire.VERSION - 1) == old
    assert reason(forged(header(), version=_wire.VERSION - 2)) is Refusal.WRONG_VERSION
    with pytest.raises(ValueError, match="version must be one of"):
        encode(message(), _wire.VERSION - 2)
