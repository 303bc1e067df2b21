"""Noise that is the same in every run of the tests."""

import numpy as np
import pytest

from fedrecon.experiment.storage import noise_keys
from fedrecon.privacy._secret import SECRET_BYTES, Secret


@pytest.fixture(autouse=True)
def repeatable_secrets(monkeypatch):
    """Draws secret keys from a seeded generator, so that no statistical test fails by bad luck.

    Keys within a test still differ from each other.
    """
    generator = np.random.default_rng(0)

    def fresh(context: bytes = b"", attempt: int = 0) -> Secret:
        return Secret(generator.bytes(SECRET_BYTES), context, attempt)

    monkeypatch.setattr(Secret, "fresh", staticmethod(fresh))
    monkeypatch.setattr(noise_keys.secrets, "token_bytes", generator.bytes)
