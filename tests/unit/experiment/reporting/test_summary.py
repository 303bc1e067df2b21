import json
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from fedrecon.core._mean import Mean
from fedrecon.data._clients import Clients
from fedrecon.data._vocabulary_mapper import VocabularyMapper
from fedrecon.errors import DataError
from fedrecon.evaluation._evaluation import Evaluation
from fedrecon.experiment.analysis.seeds import statistics
from fedrecon.experiment.cli.commands.describe import page
from fedrecon.experiment.console.screen import rich_table
from fedrecon.experiment.reporting import summary as report
from fedrecon.experiment.reporting.client_files import clients_file, clients_of
from fedrecon.experiment.reporting.tables import size
from fedrecon.experiment.storage.metrics_log import Records, Row

VALUES = {
    "test": {
        "recon_eval": {
            "examples": {"mse": 0.81, "rmse": 0.9, "accuracy": 0.4},
            "clients": {"mse": 0.82, "rmse": 0.905, "accuracy": 0.41},
        }
    },
    "seconds": {"total": 10.0},
    "rounds": 3,
}


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "unknown"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1234567, "1.2 MB"),
        (9.6e8, "960.0 MB"),
        (2e12, "2000.00 GB"),
    ],
)
def test_sizes(count, text):
    assert size(count) == text


def test_tables_put_first_what_is_read_first():
    assert report.table(VALUES) == [
        ["clients", "weighted by", "rmse", "accuracy", "mse"],
        ["test", "examples", "0.9000", "0.4000", "0.8100"],
        ["test", "clients", "0.9050", "0.4100", "0.8200"],
    ]


def test_json_has_no_numbers_that_json_lacks():
    text = report.dumps({"a": [1.5, math.nan], "b": {"c": math.inf}, "d": None, "e": True})
    values = json.loads(text, parse_constant=pytest.fail)
    assert len(values.pop("digest")) == 32
    assert values == {
        "a": [1.5, None],
        "b": {"c": None},
        "d": None,
        "e": True,
    }


def test_bytes_are_per_client_and_round():
    records = Records()
    for round, clients, down in ((1, 2, 100.0), (2, 3, 200.0)):
        for name, value in (
            ("clients", clients),
            ("bytes_down", down),
            ("bytes_up", down / 2),
            ("dense_bytes_down", 1e3),
        ):
            records.append([Row(round, "train", "training", "total", name, float(value))])
    found = report.bytes_per_client(records)
    assert found == {"down": 60.0, "up": 30.0, "dense_down": 400.0, "dense_up": 0.0}
    assert report.bytes_per_client(Records())["down"] == 0.0


def test_clients_are_written_with_their_metrics(tmp_path):
    means = Mean(np.array([4.0, 0.0]), np.array([1.0, 0.0]))
    report.write_clients(
        tmp_path / "clients.parquet", Evaluation(np.array(["a", "b"], object), {"mse": means})
    )
    table = pyarrow.parquet.read_table(tmp_path / "clients.parquet").to_pydict()
    assert table["client"] == ["a", "b"]
    assert table["weight"] == [1.0, 0.0]
    assert table["rmse"][0] == 2.0
    assert math.isnan(table["rmse"][1])


def test_seeds_give_mean_and_deviation():
    other = json.loads(json.dumps(VALUES))
    other["test"]["recon_eval"]["examples"]["rmse"] = 1.1
    found = statistics([VALUES, other])
    assert found["test"]["recon_eval"]["examples"]["rmse"] == {
        "mean": pytest.approx(1.0),
        "deviation": pytest.approx(np.std([0.9, 1.1], ddof=1)),
        "values": [0.9, 1.1],
    }
    assert found["test"]["recon_eval"]["clients"]["rmse"]["deviation"] == 0.0
    assert found["seconds"] == {"total": 20.0}
    assert "rounds" not in found


def test_a_page_about_clients():
    clients = Clients.from_columns(
        [7, 8, 9],
        [0, 1, 4, 4],
        {"item": [0, 1, 0, 1], "rating": [1.0, 4.5, 4.5, 4.5], "time": [0.1, 0.2, 0.3, 0.4]},
        {"item": np.array(["x", "y", "z"])},
    )
    shown = page("here", clients).splitlines()
    assert shown[0] == "here"
    assert "clients               3" in shown
    assert "examples              4" in shown
    line = "item                  3 known, 2 used; 1 duplicate: the client has an example of it before"
    assert line in shown
    assert "Examples per client: least 0  10% 0  median 1  90% 3  most 3" in shown
    assert [x.split() for x in shown if " to " in x or x.strip().startswith(("0 ", "1 "))][:3] == [
        ["0", "1", "█" * 40],
        ["1", "1", "█" * 40],
        ["2", "to", "3", "1", "█" * 40],
    ]
    assert f"  4.5  3  {'█' * 40}" in shown
    assert f"    1  1  {'█' * 13}" in shown


def test_a_page_about_many_values_and_about_nobody():
    clients = Clients.from_arrays({"a": {"x": np.arange(30), "image": np.zeros((30, 2, 2))}})
    assert "x: int32, 0 to 29, 30 values" in page("here", clients)
    assert "image: float32, of shape (30, 2, 2)" in page("here", clients)
    assert "clients               0" in page("here", clients.take([]))


def test_ids_are_matched_by_what_they_stand_for():
    other = Clients.from_columns(
        ["ann", "bob"],
        [0, 3, 4],
        {"item": [0, 1, 2, 1], "rating": [1.0, 2.0, 3.0, 4.0]},
        {"item": np.array([30, 10, 20])},
    )
    found, unknown = VocabularyMapper(other.vocabularies, {"item": [10, 20, 40]})(other)
    assert unknown == 1
    assert found.vocabularies["item"].tolist() == [10, 20, 40]
    assert {name: x.tolist() for name, x in found["ann"].items()} == {"item": [0, 1], "rating": [2.0, 3.0]}
    assert found["bob"]["item"].tolist() == [0]
    with pytest.raises(DataError, match=r"none of the ids of the field 'item' .* like 30, the run's like 99"):
        VocabularyMapper(other.vocabularies, {"item": [99]})


def test_texts_are_matched_by_nothing_but_the_same_vocabulary():
    named = ["<begin>", "the", "<begin>"]  # a text's word may look like one of the task's own
    texts = Clients.from_columns(["ann"], [0, 2], {"word": [[0, 1], [2, 0]]})
    texts = texts._with(vocabularies={"word": np.array(named, object)})
    found, unknown = VocabularyMapper(texts.vocabularies, {"word": named})(texts)
    assert unknown == 0 and found["ann"]["word"].tolist() == [[0, 1], [2, 0]]
    with pytest.raises(DataError, match="must be in the run's vocabulary of the field 'word'"):
        VocabularyMapper(texts.vocabularies, {"word": ["<begin>", "court"]})(texts)


def test_files_of_clients_are_told_apart_by_split_and_protocol():
    names = ["test", "seen test", "validation", "seen validation", "my-own"]
    files = [clients_file(name) for name in names]
    assert files[:2] == ["clients-test.parquet", "clients-test-standard_eval.parquet"]
    assert [clients_of(Path(file)) for file in files] == names


def test_many_metrics_stand_below_each_other():
    names = [f"m{i}" for i in range(7)]
    values = {"test": {"recon_eval": {w: dict.fromkeys(names, 0.5) for w in ("examples", "clients")}}}
    head, *rows = report.table(values)
    assert head == ["metric", "test, by examples", "test, by clients"]
    assert rows == [[name, "0.5000", "0.5000"] for name in names]
    assert [c.justify for c in rich_table([head, *rows]).columns] == ["left", "right", "right"]
