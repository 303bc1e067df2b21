"""The secret from which noise and cohorts of a private run are made."""

import hashlib
import hmac
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Int, UInt32

SECRET_BYTES = 32


@dataclass(frozen=True, eq=False)
class Secret:
    """A secret key, and what its noise belongs to.

    Noise for a round is a function of the key, of the round and of all that the round's sum depends on: a
    round that is computed again from the same inputs gets the same noise, and any other gets fresh noise.
    The same noise on two different sums would cancel in their difference and show it.

    Attributes:
        key: The secret bytes, at least 32.
        context: Bytes that belong to the inputs of all rounds, such as digests of the clients' examples; by
            default none.
        attempt: The number of keys that the run had before this one; 0 by default.
    """

    key: bytes
    context: bytes = b""
    attempt: int = 0

    def __post_init__(self) -> None:
        if len(self.key) < SECRET_BYTES:
            raise ValueError(f"key must have at least {SECRET_BYTES} bytes, got {len(self.key)}")

    def __repr__(self) -> str:
        return f"Secret(attempt={self.attempt})"  # never the key

    @staticmethod
    def fresh(context: bytes = b"", attempt: int = 0) -> "Secret":
        """A new secret from the operating system's generator."""
        return Secret(os.urandom(SECRET_BYTES), context, attempt)

    @property
    def cohort_seed(self) -> int:
        """The seed of the cohorts, of 63 bits."""
        return int.from_bytes(self._mac("cohorts", {})[:8], "little") >> 1

    def noise_key(
        self, round: int, cohort: Int[np.ndarray, "row"], plan: str, settings: Mapping[str, Any], params: Any
    ) -> UInt32[np.ndarray, "8"]:
        """The key of a round's noise.

        Args:
            round: The number of rounds that were done before this one.
            cohort: The positions of the round's clients among the training clients.
            plan: A description of how the clients are cut into blocks, which decides the order of sums.
            settings: The clipping bound, the noise and all other settings that decide what is released.
            params: The global parameters before the round; waits until they are computed.
        """
        values = {
            "round": round,
            "cohort": hashlib.sha256(cohort.astype(np.int64).tobytes()).hexdigest(),
            "plan": plan,
            "settings": dict(settings),
            "params": digest(params),
        }
        return np.frombuffer(self._mac("noise", values), "<u4")

    def correlated_noise_key(self, round: int, settings: Mapping[str, Any]) -> UInt32[np.ndarray, "8"]:
        """The key of the noise that a round adds anew under correlated noise; later rounds need it again.

        It does not depend on what the round computes with, of which later rounds know nothing: what tells
        runs apart is the secret's context. No run may release other numbers under the same context and key.

        Args:
            round: The number of rounds that were done before this one.
            settings: The clipping bound, the noise and all other settings that decide what is released.
        """
        return np.frombuffer(
            self._mac("correlated noise", {"round": round, "settings": dict(settings)}), "<u4"
        )

    def _mac(self, purpose: str, values: Mapping[str, Any]) -> bytes:
        text = json.dumps([purpose, self.attempt, self.context.hex(), values], sort_keys=True)
        return hmac.digest(self.key, text.encode(), "sha256")


def digest(params: Any) -> str:
    """Tells pytrees of arrays apart, whoever chose them."""
    state = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(params):
        array = np.ascontiguousarray(leaf)
        state.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        state.update(array.reshape(-1).view(np.uint8).data)
    return state.hexdigest()
