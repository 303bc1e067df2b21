"""The experiment that ranks items by one private release: its item rows, and what is held out."""

import numpy as np
import pytest
from experiments.private_ranking import item_rows, latest_held_out

from fedrecon.data._clients import Clients


def test_rows_grow_with_the_root_of_the_count_and_noise_below_zero_counts_as_none():
    features = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], np.float32)
    rows = item_rows(np.array([99.0, 24.0, -7.0]), features)
    np.testing.assert_allclose(rows[:, 0], [1.0, 0.5, 0.1])
    np.testing.assert_allclose(rows[:, 1:], rows[:, :1] * (features - features.mean(0)), rtol=1e-6)
    assert item_rows(np.array([99.0, 24.0]), None).shape == (2, 1)
    np.testing.assert_array_equal(item_rows(None, features)[:, 0], 1)


@pytest.mark.parametrize("examples", [1, 4])
def test_the_latest_example_alone_is_held_out(examples):
    columns = {"item": np.arange(examples + 2, dtype=np.int32), "rating": np.ones(examples + 2, np.float32)}
    clients = Clients.from_columns(["a", "b"], np.array([0, 2, examples + 2]), columns)
    held = latest_held_out(clients)
    assert held.fields == ("item", "held_out")
    assert held["a"]["held_out"].tolist() == [0, 1]
    assert held["b"]["held_out"].tolist() == [0] * (examples - 1) + [1]
