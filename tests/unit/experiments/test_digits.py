"""The clients of the digits experiment, and its intervals."""

import numpy as np
import pytest

pytest.importorskip("flax", reason="Flax is not installed")
pytest.importorskip("sklearn", reason="scikit-learn is not installed")

from experiments.digits import CLASSES_EACH, CLIENTS, homes, interval


def test_each_image_is_at_one_client_of_three_digits():
    cut = homes(0)
    assert len(cut) == CLIENTS
    assert sum(len(home["digit"]) for home in cut) == 1797
    assert all(len(np.unique(home["digit"])) <= CLASSES_EACH for home in cut)
    assert min(len(home["digit"]) for home in cut) >= 8
    images = np.concatenate([home["image"] for home in cut])
    assert len(np.unique(images, axis=0)) == 1797
    assert all(home["held_out"].sum() == len(home["digit"]) // 4 for home in cut)
    assert any(
        np.any(a["digit"] != b["digit"]) for a, b in zip(cut, homes(1), strict=True) if len(a) == len(b)
    )


def test_intervals_are_students():
    assert interval([0.5]) == "50.0"
    assert interval([0.4, 0.5, 0.6]) == "50.0 ± 24.8"  # 4.303 times .1 over the root of 3
