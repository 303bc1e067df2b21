"""The experiment of private releases by population: its sets of users, and what a row holds."""

import numpy as np
import pytest
from experiments import private_population


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(private_population, "ITEMS", 30)
    monkeypatch.setattr(private_population, "TEST", 20)
    monkeypatch.setattr(private_population, "DELTA", 1e-3)


def test_test_users_are_none_of_the_training_users():
    train, test = private_population.federation(50, 0)
    assert (len(train), len(test)) == (50, 20)
    assert not set(train.ids) & set(test.ids)


def test_rows_compare_with_the_same_population():
    rows = list(private_population.rows([60, 30], [8.0], 2, 0))
    assert [(row["users"], row["epsilon"]) for row in rows] == [(30, None), (30, 8.0), (60, None), (60, 8.0)]
    for plain, private in zip(rows[::2], rows[1::2], strict=True):
        assert private["loss"] == pytest.approx(private["rmse"] - plain["rmse"]) and private["deviation"] > 0
        assert 7.9 < private["spent"] <= 8 and plain["spent"] is None
        assert np.isfinite(plain["rmse"])
