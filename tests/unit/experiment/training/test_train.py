import json
import os
import signal
import threading
import tomllib
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet
import pytest

import fedrecon
from fedrecon.algorithms._fedrecon import fedrecon as federated_reconstruction
from fedrecon.core._mean import Mean
from fedrecon.core._model import Model
from fedrecon.core._splits import AlternateBatches, Fraction, NoSplit
from fedrecon.data._clients import Clients
from fedrecon.data._holdout import hold_out
from fedrecon.data._sampling import Poisson
from fedrecon.errors import RunError
from fedrecon.evaluation._evaluate import evaluate, evaluation_split_of
from fedrecon.experiment.console.progress import Progress
from fedrecon.experiment.reporting import plots
from fedrecon.experiment.reporting.result import RESULT_KEYS, Interrupted
from fedrecon.experiment.storage.checkpoint import Checkpoints
from fedrecon.experiment.storage.metrics_log import read
from fedrecon.experiment.training import train as training
from fedrecon.experiment.training.evaluation_rows import Evaluated
from fedrecon.experiment.training.evaluator import Evaluator
from fedrecon.experiment.training.round_recorder import LAG
from fedrecon.experiment.training.train import train
from fedrecon.simulation._simulation import Simulation
from fedrecon.solvers._gradient import Solver
from fedrecon.solvers._optimizers import optimizer


def predict(g, local, batch):
    return batch["x"] @ g["w"] + local


def squares(g, local, batch, key=None):
    return Mean.of((predict(g, local, batch) - batch["y"]) ** 2)


MODEL = Model(
    init_global=lambda key: {"w": jnp.zeros(2)},
    init_local=lambda g, key: jnp.zeros(()),
    loss=squares,
    metrics=lambda g, local, batch: {"mse": squares(g, local, batch)},
    predict=predict,
)
ALGORITHM = federated_reconstruction(
    MODEL,
    Solver(optimizer("sgd", learning_rate=0.3), 5),
    Solver(optimizer("sgd", learning_rate=0.1), 5),
    optimizer("adam", learning_rate=0.1),
)


def clients(seed, count=12):
    generator = np.random.default_rng(seed)

    def one():
        x = generator.normal(size=(generator.integers(6, 12), 2))
        return {"x": x, "y": x @ [1.0, -2.0] + generator.normal()}

    return Clients.from_arrays({f"{seed}-{i}": one() for i in range(count)})


TRAIN, VALIDATION, TEST = clients(0, 20), clients(1), clients(2)


def run(rounds=6, out=None, **changes):
    settings = {
        "clients_per_round": 5,
        "evaluate": VALIDATION,
        "test": TEST,
        "evaluate_every": 2,
        "checkpoint_every": 2,
        **changes,
    }
    return train(ALGORITHM, TRAIN, rounds, out=out, **settings)


def lines(path):
    """The metrics that do not tell the time."""
    return [x for x in (path / "metrics.csv").read_text().splitlines() if ",seconds," not in x]


@pytest.fixture
def no_figures(monkeypatch):
    """For runs whose figures nobody looks at."""
    monkeypatch.setattr(plots, "write", lambda folder, runs: [])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run(out=tmp_path_factory.mktemp("runs") / "run")


def test_it_learns_and_reports(finished):
    assert finished.rounds == finished.asked == finished.selected_round == 6
    assert not finished.interrupted
    curve = list(finished.records.series("validation", "rmse").values())
    assert curve == sorted(curve, reverse=True)
    metrics = finished.metrics["test"]["recon_eval"]
    assert metrics["examples"]["rmse"] == pytest.approx(metrics["examples"]["mse"] ** 0.5)
    assert finished.global_params["w"][0] > 0 > finished.global_params["w"][1]
    assert f"test rmse={metrics['examples']['rmse']:.4f}" in repr(finished)
    assert finished.seconds["total"] > finished.seconds["to_first_round"] > 0
    assert finished.compilations > 0


def test_the_evaluation_splits_clients_as_the_algorithm_does(finished):
    update = Solver(optimizer("sgd", learning_rate=0.1), batch_size=2)
    step = optimizer("sgd", learning_rate=1.0)
    by_half = federated_reconstruction(MODEL, update, update, step, split=Fraction(0.5))
    result = train(by_half, TRAIN, 1, evaluate=VALIDATION)
    given = evaluate(by_half, result.state, VALIDATION, split=Fraction(0.5)).over_examples()
    assert result.evaluations["validation"].over_examples() == given
    assert evaluate(by_half, result.state, VALIDATION).over_examples() == given
    assert evaluate(by_half, result.state, VALIDATION, split=AlternateBatches(5)).over_examples() != given
    assert evaluation_split_of(by_half) == Fraction(0.5)
    # Nothing could be measured on the examples that a client is personalised by.
    for algorithm in (ALGORITHM, federated_reconstruction(MODEL, update, update, step, split=NoSplit())):
        assert evaluation_split_of(algorithm) == AlternateBatches(5)


def test_progress_is_shown_on_request(monkeypatch):
    calls = []

    class Noted(Progress):
        def round(self, number, loss):
            calls.append(number)

    monkeypatch.setattr(training, "automatic_progress", Noted)
    run(rounds=3, progress="auto")
    assert calls == [1, 2, 3]
    run(rounds=3)
    assert calls == [1, 2, 3]
    with pytest.raises(TypeError, match="progress"):
        run(progress=True)


def test_a_result_says_how_it_ended(finished):
    assert repr(finished).startswith("Result(6 of 6 rounds, validation rmse")
    cut = replace(finished, interrupted=True, rounds=4, evaluations={})
    assert repr(cut) == "Result(4 of 6 rounds, interrupted)"
    assert repr(replace(cut, interrupted=False, divergence="it is NaN")) == "Result(4 of 6 rounds, diverged)"


def test_every_round_is_recorded_once(finished):
    records = finished.records
    assert list(records.series("train", "loss")) == [1, 2, 3, 4, 5, 6]
    assert list(records.series("train", "rmse")) == [1, 2, 3, 4, 5, 6]
    assert set(records.series("train", "clients", "total").values()) == {5.0}
    assert set(records.series("train", "dropped", "total").values()) == {0.0}
    assert all(x > 0 for x in records.series("train", "bytes_down", "total").values())
    assert list(records.series("validation", "rmse")) == [2, 4, 6]
    assert list(records.series("validation", "rmse", "clients")) == [2, 4, 6]
    assert list(records.series("test", "rmse")) == [6]
    assert list(records.series("train", "seconds", "total")) == [2, 4, 6]


def test_the_run_folder_holds_everything(finished):
    out = finished.out
    found = {
        p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file() and "checkpoints" not in p.parts
    }
    assert found == {
        ".lock",
        "config.toml",
        "environment.json",
        "fingerprint.json",
        "examples.json",
        "plan.json",
        "metrics.csv",
        "clients-test.parquet",
        "clients-validation.parquet",
        "plots/progress.png",
        "plots/progress.svg",
        "plots/clients.png",
        "plots/clients.svg",
        "summary.md",
        "result.json",
    }
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == ["4", "6"]
    assert [tuple(r) for r in read(out / "metrics.csv")] == [tuple(r) for r in finished.records]
    config = tomllib.loads((out / "config.toml").read_text())
    assert config["rounds"] == 6
    assert config["algorithm"] == repr(ALGORITHM)
    table = pyarrow.parquet.read_table(out / "clients-test.parquet").to_pydict()
    assert table["client"] == [f"2-{i}" for i in range(12)]
    assert table["rmse"] == pytest.approx(np.sqrt(table["mse"]))
    result = json.loads((out / "result.json").read_text())
    assert result["test"]["recon_eval"]["examples"] == finished.metrics["test"]["recon_eval"]["examples"]
    assert result["rounds"] == 6
    assert set(result["seconds"]) == {"total", "compilation", "to_first_round"}
    assert set(result["bytes_per_client_and_round"]) == {"down", "up", "dense_down", "dense_up"}
    assert set(result["work_per_client_and_round"]) == {"gradient_steps", "solves", "example_passes"}
    assert result["raw_data_bytes"] is None
    assert result["peak_memory_bytes"] > 1e7
    assert "| test (12 clients) | examples |" in (out / "summary.md").read_text()


def test_nothing_is_written_without_a_folder(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run()
    assert list(tmp_path.iterdir()) == []
    assert result.out is None
    np.testing.assert_array_equal(result.global_params["w"], finished.global_params["w"])
    assert result.metrics == finished.metrics


def test_callbacks_get_every_evaluated_round():
    heard = []
    run(rounds=5, callbacks=[heard.append])
    assert [report.round for report in heard] == [2, 4, 5]
    assert all(isinstance(report, Evaluated) for report in heard)
    assert list(heard[0].evaluations) == ["validation"]
    assert heard[0].training["loss"] > heard[-1].training["loss"]


def test_the_progress_hears_every_round_in_order():
    class Ear(Progress):
        def __init__(self):
            self.heard = []

        def start(self, done, rounds):
            self.heard.append(("start", done, rounds))

        def round(self, number, loss):
            self.heard.append(number)

        def close(self):
            self.heard.append("close")

    ear = Ear()
    run(rounds=3, progress=ear)
    assert ear.heard == [("start", 0, 3), 1, 2, 3, "close"]


def test_several_sets_of_clients_are_evaluated_by_name():
    result = run(rounds=2, evaluate={"young": VALIDATION, "old": TEST}, test=None)
    assert list(result.metrics) == ["young", "old"]


def test_a_run_without_evaluation_clients(tmp_path):
    result = run(rounds=2, evaluate=None, test=None, out=tmp_path / "run")
    assert result.metrics == {}
    assert list(result.records.series("train", "loss")) == [1, 2]
    assert not (tmp_path / "run" / "plots" / "progress.png").exists()


def test_the_best_parameters_meet_the_test_clients(tmp_path, no_figures):
    def worse_later(count):
        return jnp.where(count < 4, 0.5, -5.0)  # ascends from the fifth round on

    algorithm = federated_reconstruction(
        MODEL,
        Solver(optimizer("sgd", learning_rate=0.3), 5),
        Solver(optimizer("sgd", learning_rate=0.1), 5),
        optimizer("sgd", learning_rate=worse_later),
    )
    settings = {
        "clients_per_round": 5,
        "evaluate": VALIDATION,
        "test": TEST,
        "evaluate_every": 2,
        "checkpoint_every": 3,
        "select": "best",
    }
    kept = {}
    result = train(
        algorithm, TRAIN, 8, callbacks=[lambda r: kept.update({r.round: r.state.global_params})], **settings
    )
    assert result.selected_round == 4
    np.testing.assert_array_equal(result.global_params["w"], kept[4]["w"])
    assert list(result.records.series("test", "rmse")) == [4]
    curve = result.records.series("validation", "rmse")
    assert min(curve, key=curve.get) == 4

    # The best ones survive an interruption after they were found.
    def stop(report):
        if report.round == 6:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        train(algorithm, TRAIN, 8, callbacks=[stop], out=tmp_path, **settings)
    second = train(algorithm, TRAIN, 8, out=tmp_path, **settings)
    assert (second.resumed_from, second.selected_round) == (6, 4)
    assert second.metrics == result.metrics


def test_a_second_call_finds_the_run_finished(finished):
    before = {p: p.read_bytes() for p in finished.out.rglob("*") if p.is_file()}
    again = run(out=finished.out)
    assert again.resumed_from == 6
    assert again.recomputed == 0
    assert again.metrics == finished.metrics
    assert {p: p.read_bytes() for p in finished.out.rglob("*") if p.is_file()} == before


@pytest.mark.filterwarnings("ignore::fedrecon.errors.UncheckedWarning")
def test_a_folder_from_before_fingerprints_had_a_format_goes_on(tmp_path, no_figures):
    """Its algorithm, sampling, split and scoring stand there as Python printed them at that time."""
    done = run(out=tmp_path, rounds=4)
    algorithm = (
        "fedrecon(reconstruct=Solver(sgd(learning_rate=0.3), batch_size=5), "
        "update=Solver(sgd(learning_rate=0.1), batch_size=5), server_optimizer=adam(learning_rate=0.1), "
        "split=AlternateBatches(batch_size=5), joint=False, client_weight=by_examples, "
        "aggregator=WeightedMean())"
    )
    sampling, split = "Uniform(clients_per_round=5)", "AlternateBatches(batch_size=5)"
    evaluation = {"split": split, "every": 2, "select": "final", "scoring": "model_metrics"}
    first = {"algorithm": algorithm, "sampling": sampling, "seed": 0, "rounds": 4, "evaluation": evaluation}
    config = tomllib.loads((tmp_path / "config.toml").read_text())
    assert config == {**first, "checkpoint_every": 2}
    file = tmp_path / "fingerprint.json"
    saved = json.loads(file.read_text())
    assert saved["format"] == 2
    first |= {name: saved[name] for name in ("clients", "initial_global_params")}
    file.write_text(json.dumps(first, indent=2) + "\n")
    again = run(out=tmp_path, rounds=4)
    assert again.resumed_from == 4 and again.metrics == done.metrics
    assert json.loads(file.read_text()) == first
    file.write_text(json.dumps({**first, "algorithm": algorithm.replace("0.3", "0.4")}))
    with pytest.raises(RunError, match=r"algorithm is 'fed.*rate=0\.4.*' there and 'fed.*rate=0\.3"):
        run(out=tmp_path, rounds=4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"rounds": 7}, "rounds is 6 there and 7 here"),
        ({"clients_per_round": 4}, r"sampling is 'Uniform\(clients_per_round=5\)' there"),
        ({"evaluation_split": NoSplit()}, r"evaluation\.split is 'AlternateBatches\(batch_size=5\)' there"),
        ({"initial_global_params": {"w": jnp.ones(2)}}, "initial_global_params is '' there"),
    ],
)
def test_another_run_is_refused(finished, changes, message):
    with pytest.raises(RunError, match=f"belongs to another configuration: {message}"):
        run(out=finished.out, **changes)


def test_a_run_of_other_clients_is_refused(finished):
    said = r"belongs to other data: the test clients (are \d+ clients with \d+ examples there and|or their)"
    with pytest.raises(RunError, match=said):
        run(out=finished.out, test=VALIDATION)


@pytest.mark.parametrize("how", ["exception", "signal"])
def test_ctrl_c_saves_and_raises_what_is_there(how, finished, tmp_path, no_figures):
    def stop(report):
        if report.round == 4 and how == "exception":
            raise KeyboardInterrupt
        if report.round == 4:
            os.kill(os.getpid(), signal.SIGINT)

    old = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="interrupted after round 4 of 6") as raised:
        run(out=tmp_path, callbacks=[stop])
    assert isinstance(raised.value, fedrecon.Interrupted)
    first = raised.value.result
    assert signal.getsignal(signal.SIGINT) is old
    assert first.interrupted and not first.diverged
    assert first.rounds == 4
    assert list(first.records.series("train", "loss")) == [1, 2, 3, 4]
    assert json.loads((tmp_path / "result.json").read_text())["finished"] is False
    assert "Interrupted after 4 of 6 rounds" in (tmp_path / "summary.md").read_text()
    second = run(out=tmp_path)
    assert (second.resumed_from, second.recomputed, second.interrupted) == (4, 0, False)
    np.testing.assert_array_equal(second.global_params["w"], finished.global_params["w"])
    assert lines(tmp_path) == lines(finished.out)
    assert json.loads((tmp_path / "result.json").read_text())["finished"] is True


def test_ctrl_c_between_checkpoints_saves_that_round(finished, tmp_path, no_figures):
    class Stop(Progress):
        def round(self, number, loss):
            if number == 3:
                os.kill(os.getpid(), signal.SIGINT)

    # Metrics arrive at evaluations: at round 4, of which the checkpoint would come at round 6 only.
    with pytest.raises(Interrupted) as raised:
        run(out=tmp_path, progress=Stop(), checkpoint_every=6)
    assert raised.value.result.rounds == 4
    second = run(out=tmp_path, checkpoint_every=6)
    assert second.resumed_from == 4
    assert lines(tmp_path) == lines(finished.out)


def test_ctrl_c_within_a_round_saves_the_one_before(finished, tmp_path, no_figures):
    class Stop(Progress):
        def evaluated(self, report):
            if report.round == 4:
                raise KeyboardInterrupt  # as a second Ctrl-C does

    with pytest.raises(Interrupted) as raised:
        run(out=tmp_path, progress=Stop(), checkpoint_every=6)
    first = raised.value.result
    assert (first.rounds, first.interrupted) == (3, True)
    assert list(first.records.series("train", "loss")) == [1, 2, 3]
    assert list(first.records.series("validation", "rmse")) == [2]
    assert [tuple(r) for r in read(tmp_path / "metrics.csv")] == [tuple(r) for r in first.records]
    second = run(out=tmp_path, checkpoint_every=6)
    assert (second.resumed_from, second.recomputed) == (3, 0)
    np.testing.assert_array_equal(second.global_params["w"], finished.global_params["w"])
    assert lines(tmp_path) == lines(finished.out)


def test_a_loop_of_runs_ends_at_ctrl_c(tmp_path, no_figures):
    def stop(report):
        os.kill(os.getpid(), signal.SIGINT)

    seeds = iter(range(3))
    with pytest.raises(KeyboardInterrupt):
        [run(seed=seed, callbacks=[stop]) for seed in seeds]
    assert list(seeds) == [1, 2]


@pytest.mark.parametrize("answer", [KeyboardInterrupt, RuntimeError], ids=["plain", "wrapped"])
@pytest.mark.parametrize("times", [1, 2])
def test_further_ctrl_c_during_the_save(times, answer, finished, tmp_path, no_figures, monkeypatch):
    """One more changes nothing; the next one ends it at once, as a KeyboardInterrupt in any case."""

    def stop(report):
        if report.round == 4:
            os.kill(os.getpid(), signal.SIGINT)

    saved = Checkpoints.save

    def save(self, round, tree, info):
        if round == 4:
            try:
                for _ in range(times):
                    os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:
                raise answer from None
        saved(self, round, tree, info)

    monkeypatch.setattr(Checkpoints, "save", save)
    with pytest.raises(KeyboardInterrupt) as raised:
        run(out=tmp_path, callbacks=[stop], checkpoint_every=6)
    assert isinstance(raised.value, Interrupted) == (times == 1)
    monkeypatch.setattr(Checkpoints, "save", saved)
    second = run(out=tmp_path, checkpoint_every=6)
    assert second.resumed_from == (4 if times == 1 else None)
    assert lines(tmp_path) == lines(finished.out)


def test_ctrl_c_while_the_test_clients_are_evaluated(finished, tmp_path, no_figures, monkeypatch):
    original = Evaluator.evaluate

    def evaluated(self, state, client_states, name):
        if name == "test":
            raise KeyboardInterrupt
        return original(self, state, client_states, name)

    monkeypatch.setattr(Evaluator, "evaluate", evaluated)
    with pytest.raises(Interrupted) as raised:
        run(out=tmp_path)
    assert raised.value.result.rounds == 6
    assert json.loads((tmp_path / "result.json").read_text())["finished"] is False
    monkeypatch.setattr(Evaluator, "evaluate", original)
    assert run(out=tmp_path).metrics == finished.metrics
    assert lines(tmp_path) == lines(finished.out)
    assert json.loads((tmp_path / "result.json").read_text())["finished"] is True


def test_rounds_after_the_checkpoint_are_counted_and_computed_again(finished, tmp_path, no_figures):
    def fail(report):
        raise RuntimeError("mine")

    # The first evaluation comes at round 4, and the first checkpoint would come at round 6.
    with pytest.raises(RuntimeError, match="mine"):
        run(out=tmp_path, callbacks=[fail], evaluate_every=4, checkpoint_every=6)
    assert {row.round for row in read(tmp_path / "metrics.csv")} == {1, 2, 3, 4}
    second = run(out=tmp_path, evaluate_every=4, checkpoint_every=6)
    assert (second.resumed_from, second.recomputed) == (None, 4)
    assert list(second.records.series("train", "loss")) == [1, 2, 3, 4, 5, 6]
    np.testing.assert_array_equal(second.global_params["w"], finished.global_params["w"])


def test_a_callback_that_fails_is_not_hidden_and_the_run_goes_on_later(finished, tmp_path, no_figures):
    def fail(report):
        if report.round == 4:
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        run(out=tmp_path, callbacks=[fail])
    second = run(out=tmp_path)
    assert second.resumed_from == 4
    assert lines(tmp_path) == lines(finished.out)


def test_it_works_outside_the_main_thread(finished):
    results = []
    thread = threading.Thread(target=lambda: results.append(run()))
    thread.start()
    thread.join()
    assert results[0].metrics == finished.metrics


def test_training_starts_from_given_parameters(finished):
    result = run(rounds=2, initial_global_params=finished.global_params)
    assert result.records.series("train", "loss")[1] < finished.records.series("train", "loss")[1] / 2
    with pytest.raises(ValueError, match=r"'w' must be of shape \(2,\), got \(3,\)"):
        run(initial_global_params={"w": jnp.zeros(3)})


def test_the_cohort_may_be_drawn_otherwise():
    result = run(rounds=4, sampling=Poisson(5), clients_per_round=None)
    assert len(set(result.records.series("train", "clients", "total").values())) > 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": 0}, "rounds must be a whole number of at least 1, got 0"),
        ({"rounds": -1}, "rounds must be a whole number of at least 1, got -1"),
        ({"evaluate_every": 0}, "evaluate_every must be a whole number of at least 1, got 0"),
        ({"checkpoint_every": 0}, "checkpoint_every must be a whole number of at least 1, got 0"),
        ({"clients_per_round": 0}, "clients_per_round must be a whole number of at least 1, got 0"),
        ({"clients_per_round": 21}, "clients_per_round must be at most the 20 training clients, got 21"),
        ({"sampling": Poisson(5)}, "either sampling or clients_per_round must be given, got both"),
        ({"select": "last"}, "select must be 'final', 'best', .* got 'last'"),
        ({"select": "best", "evaluate": None}, "select='best' needs clients to evaluate, got none"),
        ({"evaluate": {" ": TEST}}, "the name of clients that are evaluated must have 1 to 100 characters"),
        ({"evaluate": {"test": TEST}}, "clients that are evaluated while training cannot be called 'test'"),
        ({"test": TEST.take([])}, "the clients to evaluate must be at least 1, got 0 in 'test'"),
    ],
)
def test_impossible_arguments_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        run(**changes)


def test_many_clients_are_not_asked_for_by_default():
    assert train(ALGORITHM, TRAIN, 1).records.series("train", "clients", "total") == {1: 20.0}


def test_the_public_name_is_this_function():
    assert fedrecon.train is train


def test_arrays_of_the_result_are_those_of_jax(finished):
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(finished.state))


def _held_out(sets, tmp_path):
    return train(
        ALGORITHM,
        sets["train"],
        rounds=2,
        clients_per_round=3,
        evaluate=clients(5).take([6]),
        evaluate_every=1,
        held_out={name: sets[name] for name in ("validation", "test")},
        out=tmp_path / "run",
    )


def test_held_out_examples_of_training_clients_are_scored_under_standard_eval(tmp_path):
    sets = hold_out(clients(5).take(range(6)), {"validation": 0.2, "test": 0.2})
    with pytest.warns(RuntimeWarning, match="4 of 6 updates changed nothing: their clients had no query"):
        result = _held_out(sets, tmp_path)
    assert set(result.evaluations) == {"validation", "seen validation", "seen test"}
    saved = json.loads((tmp_path / "run" / "result.json").read_text())
    counts = {"evaluated_clients", "asked_clients"}
    assert set(saved["validation"]) == {"recon_eval", "standard_eval"} | counts
    assert set(saved["test"]) == {"standard_eval"} | counts
    held = sum(int(sets["test"][x]["held_out"].sum()) for x in sets["test"].ids.tolist())
    assert result.evaluations["seen test"].table()["weight"].sum() == held
    both = [set(result.records.series(name, "mse")) for name in ("validation", "seen validation")]
    assert both == [{1, 2}, {1, 2}]


def test_other_names_of_held_out_sets_are_refused():
    sets = hold_out(clients(5), {"later": 0.2})
    with pytest.raises(ValueError, match="'later'"):
        train(ALGORITHM, sets["train"], rounds=1, clients_per_round=2, held_out={"later": sets["later"]})


def test_nobody_to_train_on():
    with pytest.raises(ValueError, match="the training clients must be at least 1, got 0"):
        train(ALGORITHM, TRAIN.take([]), 1)


def test_the_host_is_not_far_ahead_of_the_device(monkeypatch):
    """However long rounds take: each in flight holds a state, and Ctrl-C has to wait for it."""
    given, ahead = [], []

    def server_update(state, update):
        state = ALGORITHM.server_update(state, update)
        # Some milliseconds of work whose result, 0 but for rounding, the state needs.
        matrix = jax.lax.fori_loop(
            0, 60, lambda i, x: x @ x / 300, jnp.ones((300, 300)) * update.delta.weight
        )
        extra = 1e-30 * jnp.tanh(matrix[0, 0])
        return state._replace(global_params=jax.tree.map(lambda x: x + extra, state.global_params))

    original = Simulation.rounds

    def rounds(self, state, count):
        for round in original(self, state, count):
            given.append(jax.tree.leaves(round.state.global_params)[0])
            ahead.append(sum(not x.is_ready() for x in given))
            yield round

    monkeypatch.setattr(Simulation, "rounds", rounds)
    slow = replace(ALGORITHM, server_update=server_update)
    train(slow, TRAIN, 30, clients_per_round=5, evaluate_every=30)
    assert len(ahead) == 30
    assert 2 <= max(ahead) <= LAG + 2


def with_unknown_metric():
    """The algorithm with a metric that the table of metrics does not know: the negative squared error."""

    def metrics(g, local, batch):
        squares = MODEL.metrics(g, local, batch)["mse"]
        return {"acc": Mean(-squares.total, squares.weight)}

    model = replace(MODEL, metrics=metrics)
    step = Solver(optimizer("sgd", learning_rate=0.1), 5)
    return federated_reconstruction(model, step, step, optimizer("sgd", learning_rate=0.3))


def test_the_direction_of_a_metric_is_known_or_said(tmp_path):
    settings = {"clients_per_round": 5, "evaluate": VALIDATION, "test": TEST, "evaluate_every": 1}
    algorithm = with_unknown_metric()
    with pytest.raises(ValueError, match="more acc is better or worse; say it: best:acc:max or best:acc:min"):
        train(algorithm, TRAIN, 4, select="best", out=tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()
    for direction, chosen in (("max", max), ("min", min)):
        result = train(
            algorithm, TRAIN, 4, select=f"best:acc:{direction}", out=tmp_path / direction, **settings
        )
        curve = result.records.series("validation", "acc")
        assert result.selected_round == chosen(curve, key=curve.get)
        assert result.selected_by == f"best:acc:{direction}"
        saved = json.loads((tmp_path / direction / "result.json").read_text())
        assert saved["selected_by"] == result.selected_by
        words = {"max": "higher", "min": "lower"}[direction]
        summary = (tmp_path / direction / "summary.md").read_text()
        assert f"the best evaluation by acc, {words} is better." in summary


def test_the_best_by_a_named_metric():
    with pytest.raises(ValueError, match=r"select must be one of .*mse, rmse, got 'zeal'"):
        run(select="best:zeal")
    assert run(2, select="best:mse").selected_by == "best:mse:min"
    assert run(2, select="best").selected_by == "best:rmse:min"
    assert run(2).selected_by == "final"


def test_how_many_clients_were_evaluated_is_told_everywhere(tmp_path, no_figures):
    short = {f"s{i}": {"x": np.ones((3, 2)), "y": np.ones(3)} for i in range(4)}
    long = {f"l{i}": {"x": np.ones((8, 2)), "y": np.ones(8)} for i in range(2)}
    result = run(rounds=1, test=Clients.from_arrays({**short, **long}), out=tmp_path)
    assert (result.evaluations["test"].evaluated_clients, result.evaluations["test"].asked_clients) == (2, 6)
    assert "(2 of 6 clients)" in repr(result)
    assert repr(result.evaluations["test"]).startswith("Evaluation(2 of 6 clients, ")
    saved = json.loads((tmp_path / "result.json").read_text())
    assert (saved["test"]["evaluated_clients"], saved["test"]["asked_clients"]) == (2, 6)
    assert (saved["validation"]["evaluated_clients"], saved["validation"]["asked_clients"]) == (12, 12)
    assert saved["test"]["recon_eval"]["evaluated_clients"] == 2
    assert "| test (2 of 6 clients) | examples |" in (tmp_path / "summary.md").read_text()


def test_clients_that_are_all_too_short_to_be_evaluated_are_a_warning(tmp_path, no_figures):
    short = Clients.from_arrays({f"s{i}": {"x": np.ones((3, 2)), "y": np.ones(3)} for i in range(4)})
    with pytest.warns(RuntimeWarning, match="none of the 4 clients of 'test' was evaluated"):
        run(rounds=1, test=short, out=tmp_path)
    assert "- None of the 4 clients of 'test' was evaluated" in (tmp_path / "summary.md").read_text()


def test_clients_that_are_trained_and_tested_on_are_a_warning(tmp_path, no_figures):
    with pytest.warns(RuntimeWarning, match="5 of the 5 clients of 'test' are trained on as well"):
        run(rounds=1, test=TRAIN.take(range(5)), out=tmp_path)
    assert "5 of the 5 clients of 'test' are trained on as well" in (tmp_path / "summary.md").read_text()
    mixed = Clients.from_arrays({**{name: TRAIN[name] for name in ("0-0", "0-1")}, "new": VALIDATION["1-0"]})
    with pytest.warns(RuntimeWarning, match="2 of the 3 clients of 'validation' are trained on as well"):
        run(rounds=1, evaluate=mixed)


@pytest.mark.parametrize("name", sorted(RESULT_KEYS))
def test_a_set_whose_name_would_replace_a_key_of_the_result_is_refused_before_training(name, tmp_path):
    with pytest.raises(ValueError, match=f"cannot be called '{name}': result.json has another value"):
        run(evaluate={name: VALIDATION}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_names_that_sets_cannot_have_are_those_of_the_result(finished):
    keys = set(json.loads((finished.out / "result.json").read_text())) - {"validation", "test"}
    # Results of several seeds, of private runs and of deployments have more.
    assert keys | {"seeds", "privacy", "deployment"} == RESULT_KEYS
