"""Stable hashes of clients' names: the same in every process, order and version."""

import hashlib
from typing import Any

import numpy as np
from jaxtyping import UInt64


def mix(x: Any) -> UInt64[np.ndarray, "*shape"]:
    """Scrambles 64-bit numbers: the finaliser of SplitMix64 (Steele et al., 2014), a bijection."""
    x = np.asarray(x, np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def client_keys(ids: Any) -> UInt64[np.ndarray, "client"]:
    """A 64-bit key for every client id, from the id alone.

    Args:
        ids: 64-bit integers, or strings, of which BLAKE2b is taken.
    """
    ids = np.asarray(ids)
    with np.errstate(over="ignore"):
        if ids.dtype.kind in "iu":
            return mix(ids.astype(np.int64).view(np.uint64))
        digests = (hashlib.blake2b(str(i).encode(), digest_size=8).digest() for i in ids)
        return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


def keyed(seed: int, keys: Any) -> UInt64[np.ndarray, "*shape"]:
    """`keys` hashed with a seed: sorting by it is a random order that depends on no other key."""
    with np.errstate(over="ignore"):
        return mix(np.asarray(keys, np.uint64) ^ mix(np.uint64(seed % 2**64)))
