"""Private training runs: the ledger in every record, the key outside, and what is refused."""

import json
import stat

import numpy as np
import pytest
from tests.small import LENGTHS, federation, rating_model, sgd, solver

import fedrecon as fr
from fedrecon.algorithms._building_blocks import uniform
from fedrecon.core._splits import AlternateBatches
from fedrecon.data._clients import Clients
from fedrecon.data._sampling import Everyone, Passes
from fedrecon.errors import RunError
from fedrecon.experiment.storage.metrics_log import UNPROTECTED
from fedrecon.experiment.storage.noise_keys import RELEASES
from fedrecon.privacy._user_level import user_level_dp

CLIENTS = federation()
OTHERS = federation(seed=1, lengths=(6, 9))
UNSEEN = Clients.from_arrays({f"unseen {client}": OTHERS[client] for client in OTHERS.ids})
N, ROUNDS = len(LENGTHS), 4


def private(**changed):
    base = fr.fedrecon(
        rating_model(), solver(), solver(), sgd(0.5), AlternateBatches(2), client_weight=uniform
    )
    settings = {"rounds": ROUNDS, "sampling": Everyone(), "num_clients": N, "epsilon": 8.0, **changed}
    return user_level_dp(base, clip=0.3, delta=1e-3, public_inputs={"items": "a catalogue"}, **settings)


def train(out, algorithm=None, clients=CLIENTS, rounds=ROUNDS, **others):
    settings = {"sampling": Everyone(), "evaluate": UNSEEN, "evaluate_every": 2, "checkpoint_every": 3}
    return fr.train(algorithm or private(), clients, rounds, out=out, **{**settings, **others})


class StopError(Exception):
    """What a callback raises to end a run in the middle."""


def stop_after(round):
    def callback(report):
        if report.round == round:
            raise StopError

    return callback


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run; the key that it had is in `key.seen`, read while it ran."""
    folder = tmp_path_factory.mktemp("runs")
    seen = {}

    def look(report):
        (path,) = folder.glob("*.noise-key")
        seen.update(key=path.read_bytes(), mode=stat.S_IMODE(path.stat().st_mode), training=report.training)

    return train(folder / "run", callbacks=[look]), folder, seen


def test_every_record_tells_epsilon(finished):
    result, folder, seen = finished
    ledger = result.privacy
    assert (ledger.releases, ledger.delta, ledger.relation) == (ROUNDS, 1e-3, "add_or_remove")
    assert 7.99 < ledger.epsilon <= 8
    saved = json.loads((folder / "run/result.json").read_text())["privacy"]
    assert saved == ledger.values()
    by_round = result.records.series("train", "epsilon", "total")
    assert list(by_round) == [1, 2, 3, 4]
    assert by_round[4] == ledger.epsilon == seen["training"]["epsilon"]
    assert f"{4},train,training,total,epsilon,{ledger.epsilon!r}" in (folder / "run/metrics.csv").read_text()
    summary = (folder / "run/summary.md").read_text()
    assert f"- Privacy of each client: {ledger}" in summary
    assert "items from a catalogue" in summary and ledger.not_covered[0] in summary
    assert "epsilon=" in repr(result)


def test_nothing_of_the_clients_is_recorded_beside_the_ledger(finished):
    """What rounds record is epsilon and what the number of clients and parameters already tells."""
    result, _, _ = finished
    names = {row.metric for row in result.records if row.split == "train"}
    sizes = {"bytes_down", "bytes_up", "dense_bytes_down", "dense_bytes_up"}
    assert names == {"clients", "epsilon", "seconds"} | sizes


def test_the_number_of_the_clients_examples_is_not_recorded(finished):
    """It is exact; that of clients is public, and validation clients are not those that are protected."""
    sets = json.loads((finished[1] / "run/environment.json").read_text())["sets"]
    assert sets["train"] == {"clients": N}
    assert sets["validation"] == {"clients": 2, "examples": 15}


def test_metrics_that_no_client_sends_are_in_a_file_of_their_own(tmp_path):
    """Each of them is in that file, which says so, and in no other; a resumed run has each round once."""
    algorithm = private(unprotected_metrics=True)
    with pytest.raises(StopError):
        train(tmp_path / "run", algorithm, callbacks=[stop_after(2)])
    result = train(tmp_path / "run", algorithm)
    assert result.resumed_from == 2
    lines = (tmp_path / "run" / UNPROTECTED).read_text().splitlines()
    assert lines[0].startswith("# not covered by epsilon")
    assert lines[1] == "round,split,protocol,weighting,metric,value"
    names = {line.split(",")[4] for line in lines[2:]}
    assert {"loss", "mse", "dropped", "empty"} <= names
    losses = [line for line in lines if ",loss," in line]
    assert [int(line.split(",")[0]) for line in losses] == [1, 2, 3, 4]
    recorded = {row.metric for row in result.records if row.split == "train"}
    assert not recorded & (names - {"clients"})
    values = [line.rsplit(",", 1)[1] for line in losses]
    for path in (tmp_path / "run").rglob("*"):
        if path.is_file() and path.name != UNPROTECTED:
            assert not any(value.encode() in path.read_bytes() for value in values), path


@pytest.mark.parametrize("at_first", [True, False])
def test_a_file_of_metrics_that_was_removed_or_comes_later_begins_at_the_resumption(tmp_path, at_first):
    with pytest.raises(StopError):
        train(tmp_path / "run", private(unprotected_metrics=at_first), callbacks=[stop_after(2)])
    (tmp_path / "run" / UNPROTECTED).unlink(missing_ok=True)
    assert train(tmp_path / "run", private(unprotected_metrics=True)).resumed_from == 2
    lines = (tmp_path / "run" / UNPROTECTED).read_text().splitlines()
    assert lines[0].startswith("# not covered by epsilon")
    assert [int(line.split(",")[0]) for line in lines if ",loss," in line] == [3, 4]


def test_recording_them_changes_no_released_number(finished, tmp_path):
    plain = train(None, private(unprotected_metrics=True))
    assert {row.metric for row in plain.records} == {row.metric for row in finished[0].records}
    assert not (finished[1] / "run" / UNPROTECTED).exists()


def test_the_key_is_nowhere_in_the_run_and_gone_at_its_end(finished):
    _, folder, seen = finished
    assert seen["mode"] == 0o600 and len(seen["key"]) == 32
    assert list(folder.glob("*key*")) == [] and list((folder / "run").rglob("*key*")) == []
    for path in (folder / "run").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert seen["key"] not in content
            assert seen["key"].hex().encode() not in content


def test_a_run_goes_on_with_its_key_and_without_it_counts_anew(tmp_path, monkeypatch):
    keys = tmp_path / "keys"
    monkeypatch.setenv("FEDRECON_KEYS", str(keys))
    with pytest.raises(StopError):
        train(tmp_path / "run", callbacks=[stop_after(2)])
    (key,) = keys.iterdir()
    again = train(tmp_path / "run")
    assert (again.resumed_from, again.privacy.releases) == (2, ROUNDS)
    assert list(keys.iterdir()) == []

    with pytest.raises(StopError):
        train(tmp_path / "lost", callbacks=[stop_after(2)])
    (key,) = keys.iterdir()
    key.unlink()
    # Somebody goes back before a round that was released: it is released again, with other noise.
    for path in (tmp_path / "lost/checkpoints").iterdir():
        records = json.loads((tmp_path / "lost" / RELEASES).read_text())
        for file in sorted(path.rglob("*"), reverse=True):
            file.unlink() if file.is_file() else file.rmdir()
        path.rmdir()
    assert records["keys"][-1]["released"] == 2
    result = train(tmp_path / "lost")
    assert result.privacy.releases == ROUNDS + 2
    assert result.privacy.epsilon > 8  # more than was planned, and the ledger says so


def test_a_finished_run_needs_no_key(finished):
    result, folder, _ = finished
    again = train(folder / "run")
    assert list(folder.glob("*key*")) == []
    assert again.privacy == result.privacy


def test_evaluation_that_a_kill_took_is_made_again_after_the_release(tmp_path):
    with pytest.raises(StopError):
        train(tmp_path / "run", callbacks=[stop_after(2)])
    metrics = tmp_path / "run/metrics.csv"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(line for line in lines if "validation" not in line))
    result = train(tmp_path / "run")
    assert list(result.records.series("validation", "mse")) == [2, 4]
    assert result.resumed_from == 2


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rounds": 3}, "rounds must be what user_level_dp accounts for, 4, got 3"),
        ({"sampling": Passes(2)}, r"sampling must be what user_level_dp accounts for, Everyone\(\)"),
        (
            {"clients": CLIENTS.take(range(5))},
            "num_clients must be what user_level_dp accounts for, 11, got 5",
        ),
        ({"select": "best"}, "select must be 'final' for a private algorithm"),
        ({"initial_global_params": 1}, "public_inputs must name the source of 'initial_global_params'"),
    ],
)
def test_another_run_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        train(None, **changed)


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"algorithm": private(epsilon=7.0)}, "noise_multiplier"),
        ({"clients": federation(seed=3)}, "the training clients or their examples are others"),
    ],
)
def test_another_run_cannot_go_on(tmp_path, changed, name):
    with pytest.raises(StopError):
        train(tmp_path / "run", callbacks=[stop_after(2)])
    with pytest.raises(RunError, match=name):
        train(tmp_path / "run", **changed)


def test_budget_ends_the_run(tmp_path):
    algorithm = private(epsilon=None, noise_multiplier=2.0, rounds=50, budget=4.0)
    result = train(tmp_path / "run", algorithm, rounds=50)
    assert result.rounds == algorithm.privacy.affordable < 50
    assert result.privacy.epsilon <= 4.0 < algorithm.privacy.epsilon(result.rounds + 1)
    assert not result.interrupted
    assert list(tmp_path.glob("*key*")) == []


def test_a_key_that_was_cut_short_is_refused_by_name(tmp_path):
    with pytest.raises(StopError):
        train(tmp_path / "run", callbacks=[stop_after(2)])
    (path,) = tmp_path.glob("*.noise-key")
    path.write_bytes(b"short")
    with pytest.raises(RunError, match=rf"{path.name}: a noise key must have 32 bytes, got 5"):
        train(tmp_path / "run")


def test_a_folder_without_room_for_the_key_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDRECON_KEYS", "/proc/keys-of-nobody")
    with pytest.raises(RunError, match="FEDRECON_KEYS"):
        train(tmp_path / "run")


def test_without_a_folder_the_ledger_lives_in_memory():
    result = train(None)
    assert result.privacy.releases == ROUNDS
    assert np.isfinite(result.global_params["item"]["bias"]).all()
