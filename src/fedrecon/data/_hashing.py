"""Stable hashes of clients' names: the same in every process, order and version."""

import enum
import hashlib
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Integer, UInt32, UInt64

from fedrecon.core._array_like import ArrayLike
from fedrecon.errors import DataError

ClientId: TypeAlias = int | str | np.integer
"""The name of a client."""

_SIZE = 2**64


class Purpose(enum.IntEnum):
    """What random numbers are drawn for.

    Draws for different purposes are independent under the same seed. The numbers enter the hash, so a
    number must never change or be used again: the draws of all earlier runs depend on it.
    """

    EXAMPLE_ORDER = 1
    """The order of a client's examples, by which some of them are held out or kept."""
    CLIENT_SPLIT = 2
    """The order of the clients, by which they are split into training, validation and test clients."""
    TRAINING = 3
    """What a client draws in a round of training."""
    EVALUATION = 4
    """What a client draws when it is evaluated, and when it is served."""
    INITIAL_PARAMS = 5
    """The global parameters at the start of training."""
    NEGATIVE_ITEMS = 21
    """Items that a client has not interacted with, drawn as negative examples for training."""


def mix(x: Integer[Any, "..."]) -> UInt64[np.ndarray, "*shape"]:
    """Scrambles 64-bit numbers: the finaliser of SplitMix64 (Steele et al., 2014), a bijection."""
    x = np.asarray(np.asarray(x, np.uint64) + np.uint64(0x9E3779B97F4A7C15))
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))


def mixed(x: int) -> int:
    """`mix` of one number, which NumPy takes ten times as long for."""
    x = (x % _SIZE + 0x9E3779B97F4A7C15) % _SIZE
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % _SIZE
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % _SIZE
    return x ^ (x >> 31)


def client_keys(ids: ArrayLike) -> UInt64[np.ndarray, "client"]:
    """A 64-bit key for every client id, from the id alone.

    Args:
        ids: 64-bit integers, or strings, of which BLAKE2b is taken: all of them, also a zero character at the
            end, which NumPy's arrays of strings (but not those of objects) cannot hold.
    """
    array = np.asarray(ids)
    with np.errstate(over="ignore"):
        if array.dtype.kind in "iu":
            return mix(array.astype(np.int64).view(np.uint64))
        # Of a list NumPy makes strings of one width, and takes zero characters at their ends for padding.
        names = array if isinstance(ids, np.ndarray) or array.dtype.kind != "U" else ids
        digests = (hashlib.blake2b(str(name).encode(), digest_size=8).digest() for name in names)
        return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


def checked_keys(names: np.ndarray, keys: ArrayLike | None) -> UInt64[np.ndarray, "client"]:
    """The keys of clients: those given, one for each, or by default those of their names.

    Raises:
        DataError: There are more or fewer than clients.
    """
    hashes = client_keys(names) if keys is None else np.asarray(keys, np.uint64)
    if len(hashes) != len(names):
        raise DataError(f"keys must be one for each of the {len(names):,} clients, got {len(hashes):,}")
    return hashes


def keyed(seed: int, purpose: Purpose, keys: Integer[Any, "..."]) -> UInt64[np.ndarray, "*shape"]:
    """`keys` hashed with a seed: sorting by it is a random order in which no key depends on another.

    Args:
        seed: The seed of the experiment.
        purpose: The purpose of the draws. Draws for another purpose are independent under the same seed.
        keys: Hashes of the clients' names, 64-bit numbers.
    """
    salt = mixed(mixed(int(seed)) + purpose)
    with np.errstate(over="ignore"):
        return mix(np.asarray(keys, np.uint64) ^ np.uint64(salt))


def round_keys(
    seed: int, purpose: Purpose, round: int, keys: Integer[Any, "..."]
) -> UInt32[np.ndarray, "*shape 2"]:
    """Key data for what clients draw in a round: from seed, round and client alone.

    Made on the host, where hashing a cohort takes microseconds; in a program, every hash has to be
    compiled first.
    """
    # Twice, since the key of the client whose id is a number is that number, mixed once: client 3 in
    # round 5 must not draw what client 5 draws in round 3.
    drawn = keyed(seed, purpose, np.asarray(keys, np.uint64) ^ np.uint64(mixed(mixed(int(round)))))
    # Big end first: the upper half before the lower.
    return drawn[..., None].astype(">u8").view(">u4").astype(np.uint32)
