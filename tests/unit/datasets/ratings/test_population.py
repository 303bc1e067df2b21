"""Generated federations of any size."""

import numpy as np
import pytest

from fedrecon import Clients
from fedrecon.datasets.ratings._dataset import load
from fedrecon.datasets.ratings._population import distinct_items, population
from fedrecon.datasets.ratings._synthetic import draw_items
from fedrecon.errors import DataError
from fedrecon.experiment.cli.main import main


def test_no_item_comes_twice_and_counts_are_as_asked():
    random = np.random.default_rng(0)
    counts = np.array([1, 20, 0, 3, 37, 2])
    items = distinct_items(random, counts, random.normal(size=40))
    assert len(items) == counts.sum() and items.min() >= 0 and items.max() < 40
    owner = np.repeat(np.arange(6), counts)
    assert len(np.unique(owner * 40 + items)) == len(items)


def test_both_ways_to_draw_have_one_law():
    popularity, counts = np.log([16.0, 8, 4, 2] + [0.1] * 60), np.full(4000, 3)
    shares = []
    for draw in (distinct_items, draw_items):
        items = draw(np.random.default_rng(1), counts, popularity).reshape(-1, 3)
        shares.append([np.mean(np.any(items == i, axis=1)) for i in range(4)])
        assert abs(np.mean(items[:, 0] == 0) - np.mean(items[:, 2] == 0)) < 0.05  # in random order
    np.testing.assert_allclose(shares[0], shares[1], atol=0.04)


def test_a_smaller_population_is_the_beginning_of_a_larger_one():
    (small,), (large,) = (list(population(n, 300, mean_ratings=30, seed=4)) for n in (5, 40))
    for client in range(5):
        for name, values in small[client].items():
            np.testing.assert_array_equal(values, large[client][name])
    assert large.num_examples.min() >= 20 and 22 < large.num_examples.mean() < 40
    assert set(np.unique(large.column("rating"))) <= {1, 2, 3, 4, 5}
    (other,) = population(40, 300, mean_ratings=30, seed=5)
    assert not np.array_equal(other.num_examples, large.num_examples)


def test_command_writes_what_the_movielens_task_reads(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("fedrecon.datasets.ratings._population._PER_PIECE", 64)
    path = tmp_path / "population.arrow"
    assert (
        main(["generate", "--clients", "150", "--items", "200", "--ratings", "21", "--out", str(path)]) == 0
    )
    assert "150 clients" in capsys.readouterr().out
    found = Clients.open(path)
    assert len(found) == 150 and found.distinct("item") and len(found.vocabularies["item"]) == 200
    assert found.ids.tolist() == list(range(150))
    sets = load(path, seed=0, order="file", cap=12, cache=tmp_path)
    assert [len(x) for x in sets.values()] == [120, 15, 15] and sets["train"].num_examples.max() == 12
    strange = tmp_path / "strange.arrow"
    found.select("item").write(strange)
    with pytest.raises(DataError, match="a client file of ratings must have the field 'rating'"):
        load(strange, seed=0, cache=tmp_path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--clients", "0"], "Invalid value for '--clients': 0 is not in the range 1<=x<=2147483647"),
        (["--items", "1"], "--items must be a whole number of at least 2, got 1"),
        (["--ratings", "20"], "--ratings must be more than 20 per client, got 20.0"),
        (["--out", "nowhere/x"], "nowhere/x: cannot be written: No such file or directory"),
    ],
)
def test_mistakes(tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    assert main(["generate", "--clients", "9", "--items", "30", "--out", "x", *flags]) > 0
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_written_over(tmp_path, capsys):
    path = tmp_path / "mine.arrow"
    path.write_bytes(b"mine")
    assert main(["generate", "--clients", "9", "--items", "30", "--out", str(path)]) == 2
    assert "mine.arrow is there already; remove it" in capsys.readouterr().err
    assert path.read_bytes() == b"mine"
    assert (
        main(["generate", "--clients", "9", "--items", "30", "--seed", "-1", "--out", str(tmp_path / "x")])
        == 2
    )
    assert "--seed must be a whole number of at least 0, got -1" in capsys.readouterr().err
