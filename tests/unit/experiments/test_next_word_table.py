"""The experiment that makes the paper's second table: which of its kept rows are used."""

import json

import jax
import numpy as np
import pytest
from experiments import next_word_table as script

from fedrecon.algorithms._base import Broadcast
from fedrecon.core._examples import Examples
from fedrecon.core._pooled_view import ROW
from fedrecon.datasets.text._encode import Writer, to_clients
from fedrecon.models.next_word._model import next_word_lstm

ONE, TUNED = "FedRecon, 1 bucket", "FedRecon, 500 buckets"
FOUND = dict.fromkeys(script.METRICS, 0.5)


@pytest.fixture
def call(tmp_path, monkeypatch):
    """`call(*arguments)` runs the script on a text, and gives the names of what it trained."""
    trained = []

    def row(training, texts, words, rounds, seed):
        trained.append(training.name)
        found = {training.name + way: FOUND for way in training.served}
        return {"cpu_seconds": 1.0, "bytes": 1000.0, "found": {str(number): found for number in rounds}}

    def prepare(path, sentences):
        return to_clients([Writer("a", [path], "here")], str.split, None, 4, "here")

    monkeypatch.setattr(script, "row", row)
    monkeypatch.setattr(script, "prepare", prepare)
    monkeypatch.setattr(script, "recurrence", lambda *arguments: 0.5)

    def call(*arguments, data="the court"):
        trained.clear()
        given = ["script", data, "--out", str(tmp_path), "--words", "9", *arguments]
        monkeypatch.setattr("sys.argv", given)
        script.main()
        return list(trained)

    return call


def kept(folder):
    return json.loads((folder / "rows.json").read_text())


def test_a_row_is_made_anew_for_what_it_lacks_alone(call, tmp_path):
    def rows(*arguments):
        return call("--rows", ONE, TUNED, *arguments)

    assert rows("--plain", "--rounds", "5") == [ONE, TUNED]
    assert rows("--plain", "--rounds", "5") == []
    assert rows("--rounds", "5") == [TUNED]  # the other one is served in one way
    assert rows("--plain", "--rounds", "5") == []
    assert rows("--plain", "--rounds", "3", "5") == [ONE, TUNED]
    found = kept(tmp_path)[f"9/5/0/{TUNED}"]["found"]
    assert set(found["3"]) == {TUNED} and set(found["5"]) == {TUNED, TUNED + " + fine-tuning"}
    assert rows("--rounds", "5") == []


def test_a_row_of_other_data_is_not_used(call):
    assert call("--rows", ONE) == [ONE]
    with pytest.raises(SystemExit, match=r"rows\.json: its rows are of other data; give another folder"):
        call("--rows", ONE, data="the count")


def test_rows_that_do_not_say_their_data_are_read(call, tmp_path, capsys):
    call("--rows", ONE)
    rows = kept(tmp_path)
    for row in rows.values():
        del row["data"]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    assert call("--rows", ONE) == []
    assert "1 rows do not say what data they are of" in capsys.readouterr().out


def test_names_of_no_row_are_refused(call, capsys):
    with pytest.raises(SystemExit):
        call("--rows", "FedRecom")
    assert "--rows must be some of ['FedRecon, 1 bucket'," in capsys.readouterr().err


def test_other_approaches_are_asked_for_by_themselves(call):
    names = [training.name for training in script.others()]
    assert call("--others", "--plain") == names and "FedAlt" in names
    assert call("--others", "--rows", "FedAlt", "MAML") == []
    with pytest.raises(SystemExit):
        call("--rows", "FedAlt")


@pytest.mark.parametrize("training", list(script.others()), ids=lambda training: training.name)
def test_the_other_approaches_fit_the_model(training):
    """As far as shapes tell; a part that is to be local is found in the model."""
    model = next_word_lstm(6, 4, embedding=4, hidden=5)
    algorithm = training.algorithm(model, *((3,) if training.pooled else ()))
    row = np.full(20, -1 if training.pooled else 0, np.int32)
    fields = {name: np.zeros((20, 5), np.int32) for name in ("word", "bucket", "target")}
    clients = {**fields, ROW: row} if training.pooled else fields

    def served(key):
        state = algorithm.init(key)
        broadcast, examples = (
            Broadcast(state.global_params, state.round),
            Examples(clients, np.ones(20, bool)),
        )
        kept = algorithm.init_client_state(state.global_params, key)
        update, _ = algorithm.client_update(broadcast, kept, examples, key)
        local = algorithm.personalize(broadcast, kept, examples, key)
        measured = algorithm.personal_model.metrics(state.global_params, local, clients)
        return update.metrics, measured

    metrics, measured = jax.eval_shape(served, jax.random.key(0))
    assert "loss" in metrics and set(measured) >= {"accuracy", "accuracy_restricted"}
