import csv
import io
import itertools
import math
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from fedrecon.data._clients import Clients
from fedrecon.errors import RunError
from fedrecon.evaluation._evaluate import model_metrics
from fedrecon.experiment import config as configs
from fedrecon.experiment.distributed.signals import Interrupt, defer_interrupt
from fedrecon.experiment.settings import extras
from fedrecon.experiment.settings.sections import SettingError
from fedrecon.experiment.sweep import run as sweeping
from fedrecon.experiment.sweep import sequence, shared_work, trial
from fedrecon.experiment.sweep.search import PAGE, Sweep
from fedrecon.experiment.sweep.shared_study import Turn
from fedrecon.experiment.sweep.shared_work import SharedWork
from fedrecon.experiment.sweep.space import parse
from fedrecon.experiment.sweep.trial import (
    DONE,
    FAILED,
    INTERRUPTED,
    STOPPED,
    Outcome,
    run_trial,
    spec_without_test,
)
from fedrecon.experiment.training import build
from fedrecon.experiment.training.build import spec_of, task_of
from fedrecon.experiment.training.evaluation_rows import Evaluated

SMALL = [
    "data.clients=40",
    "data.items=20",
    "data.fractions={train=0.6, validation=0.2, test=0.2}",
    "model.factors=2",
    "training.rounds=2",
    "training.clients_per_round=5",
    "evaluation.every=1",
]
SPACE = {
    "model": {"user_penalty": {"low": 1.0, "high": 9.0}, "item_bias": [True, False]},
}


@pytest.fixture(scope="module")
def config():
    return configs.load(None, SMALL)


@pytest.fixture
def space(config):
    return parse(SPACE, config, "space")


def scripted(outcomes):
    """Stands for `run_trial`: the squared distance of the penalty to 4, or what is scripted."""
    outcomes = iter(outcomes)

    def run(config, out, metric, watch, *_):
        out.mkdir(parents=True, exist_ok=True)
        planned = next(outcomes, None)
        if isinstance(planned, BaseException):
            raise planned
        value = (config.model.user_penalty - 4) ** 2 + (not config.model.item_bias)
        for round in (1, 2):
            if watch(round, value):
                return Outcome(STOPPED, value, round)
        return planned or Outcome(DONE, value, 2, 0.5)

    return run


def run(config, space, out, trials, outcomes=(), **more):
    """A sweep whose trials are scripted, and what it showed."""
    screen = Console(file=io.StringIO(), width=300)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sequence, "run_trial", scripted(outcomes))
        finished = sweeping.sweep(config, space, out, screen, trials, **more)
    return finished, screen.file.getvalue()


def rows(out):
    with open(out / "trials.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_best_trial_is_written_as_an_experiment(config, space, tmp_path):
    finished, shown = run(config, space, tmp_path / "sweep", 12)
    assert finished
    found = rows(tmp_path / "sweep")
    assert len(found) == 12
    values = [float(row["RMSE"]) for row in found]
    assert values == sorted(values)
    best = configs.load(tmp_path / "sweep" / "best.toml")
    assert best.model.user_penalty == float(found[0]["model.user_penalty"])
    assert str(best.model.item_bias).lower() == found[0]["model.item_bias"]
    assert best.data == config.data  # the test clients are there again
    assert best.name == f"{config.name}-best"
    assert f"Best: trial {found[0]['trial']}, RMSE {values[0]:.4f}" in shown
    assert f"fedrecon run {tmp_path / 'sweep' / 'best.toml'}" in (tmp_path / "sweep" / "sweep.md").read_text()


def test_a_sweep_goes_on_and_repeats_nothing(config, space, tmp_path):
    run(config, space, tmp_path / "sweep", 4)
    before = {row["trial"]: row for row in rows(tmp_path / "sweep")}
    _, shown = run(config, space, tmp_path / "sweep", 7)
    assert "7 trials (4 there)" in shown
    after = {row["trial"]: row for row in rows(tmp_path / "sweep")}
    assert len(after) == 7
    assert all(after[name] == row for name, row in before.items())
    assert len({row["model.user_penalty"] for row in after.values()}) == 7
    finished, shown = run(config, space, tmp_path / "sweep", 7)
    assert finished and "Best: trial" in shown


@pytest.mark.parametrize("how", [KeyboardInterrupt(), Outcome(INTERRUPTED)])
def test_ctrl_c_keeps_what_is_done_and_runs_the_rest_again(config, space, tmp_path, how):
    out = tmp_path / "sweep"
    finished, shown = run(config, space, out, 5, [None, None, how])
    assert not finished
    assert "Interrupted; 2 trials are kept, the same command goes on." in shown
    assert len(rows(out)) == 2
    opened = Sweep(config, space, out)
    (waiting,) = [t for t in opened.study.get_trials() if t.state.name == "WAITING"]
    _, chosen, folder = opened.ask()
    opened.close()
    assert folder == out / "trials" / "0002"  # where its checkpoints are
    assert chosen.model.user_penalty == waiting.system_attrs["fixed_params"]["model.user_penalty"]
    # That it was asked for and never ended is what a kill leaves, beside a torn line and a lock.
    with open(out / "journal.log", "ab") as file:
        file.write(b'{"op_code": 6, "wor')
    (out / "journal.log.lock").write_text("")
    finished, _ = run(config, space, out, 3)
    assert finished
    found = rows(out)
    assert len(found) == 3
    assert chosen.model.user_penalty in [float(row["model.user_penalty"]) for row in found]


def test_ctrl_c_while_the_journal_is_written_leaves_no_lock(config, space, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    acquire, calls = Turn.acquire, itertools.count()

    def asked_to_stop(lock):
        found = acquire(lock)
        if next(calls) == 30:
            signal.raise_signal(signal.SIGINT)
        return found

    monkeypatch.setattr(Turn, "acquire", asked_to_stop)
    finished, shown = run(config, space, Path("sweep"), 1000)
    assert not finished
    kept = len(rows(Path("sweep")))
    assert 1 <= kept < 30
    assert f"Interrupted; {kept} trials are kept" in shown
    assert run(config, space, Path("sweep"), kept + 1)[0]
    assert len(rows(Path("sweep"))) == kept + 1


def test_ctrl_c_reaches_who_listens_though_what_it_waited_for_failed():
    @defer_interrupt()
    def fails():
        signal.raise_signal(signal.SIGINT)
        assert not outer.asked
        raise ValueError("full")

    with Interrupt() as outer:
        with pytest.raises(ValueError, match="full"):
            fails()
        assert outer.asked


def test_failures_are_told_and_count(config, space, tmp_path):
    failed = Outcome(FAILED, message="too big")
    finished, shown = run(config, space, tmp_path / "sweep", 3, [failed])
    assert finished
    assert "failed: too big" in shown
    assert sorted(row["outcome"] for row in rows(tmp_path / "sweep")) == ["done", "done", "failed"]
    with pytest.raises(RunError, match="no trial could be measured"):
        run(config, space, tmp_path / "all", 2, [failed, failed])
    assert not (tmp_path / "all" / "best.toml").exists()


def test_bad_trials_are_stopped_where_that_is_asked_for(config, space, tmp_path):
    run(config, space, tmp_path / "pruned", 30, prune=True)
    found = rows(tmp_path / "pruned")
    stopped = [row for row in found if row["outcome"] == "stopped"]
    assert stopped
    assert {row["rounds"] for row in stopped} == {"1"}
    done = [float(row["RMSE"]) for row in found if row["outcome"] == "done"]
    assert min(float(row["RMSE"]) for row in stopped) > min(done)
    run(config, space, tmp_path / "all", 12)
    assert {row["outcome"] for row in rows(tmp_path / "all")} == {"done"}


def test_another_sweep_has_another_folder(config, space, tmp_path):
    run(config, space, tmp_path / "sweep", 1)
    other = parse({"model": {"factors": {"low": 1, "high": 4}}}, config, "space")
    with pytest.raises(RunError, match="belongs to another configuration: space"):
        run(config, other, tmp_path / "sweep", 1)
    with pytest.raises(RunError, match="belongs to another configuration: metric is 'rmse' there"):
        run(config, space, tmp_path / "sweep", 1, metric="accuracy")
    with pytest.raises(RunError, match="belongs to another configuration: training"):
        run(configs.load(None, [*SMALL, "training.rounds=3"]), space, tmp_path / "sweep", 1)


def test_more_of_some_metrics_is_better(config, space, tmp_path):
    run(config, space, tmp_path / "sweep", 5, metric="accuracy")
    values = [float(row["accuracy"]) for row in rows(tmp_path / "sweep")]
    assert values == sorted(values, reverse=True)


def test_a_metric_that_the_clients_lack(config, space, tmp_path):
    with pytest.raises(SettingError, match="--metric must be one of accuracy, mse, rmse, got 'auc'"):
        Sweep(config, space, tmp_path / "sweep", "auc")
    alone = configs.load(None, [*SMALL, "data.fractions.validation=0"])
    with pytest.raises(SettingError, match="a sweep needs validation clients"):
        Sweep(alone, space, tmp_path / "sweep")


def test_what_is_tuned_is_what_the_task_measures(tmp_path, space):
    """Models of rankings have no metrics of their own."""
    lines = [f"{user}::{item}::4::{user + item}\n" for user in range(12) for item in range(user % 3, 9)]
    (tmp_path / "ratings.dat").write_text("".join(lines))
    settings = ["task=ranking", f'data.path="{tmp_path / "ratings.dat"}"', "training.clients_per_round=5"]
    protocol = 'data.protocol={name="leave_one_out", held_out="second_latest", sampled=3, k=[2]}'
    spec = spec_without_test(configs.load(None, [*settings, protocol]))[1]
    assert str(trial.metric_of(spec, None)) == "hr@2:max"
    assert trial.metric_of(spec, "sampled_ndcg@2").metric == "sampled_ndcg@2"
    with pytest.raises(SettingError, match=r"--metric must be one of hr@2, ndcg@2, .* got 'rmse'"):
        trial.metric_of(spec, "rmse")
    with pytest.raises(SettingError, match="a sweep needs a metric, but"):
        trial.metric_of(replace(spec, scoring=model_metrics), None)


@pytest.mark.parametrize("error", [MemoryError("too wide"), TypeError("no such leaf")])
def test_a_trial_that_breaks_does_not_stop_the_others(config, space, tmp_path, monkeypatch, error):
    calls = []

    def run(spec, out, callbacks, **_):
        calls.append(out)
        if len(calls) == 1:
            raise error
        values = {"validation": Shown(1.0)}
        return SimpleNamespace(interrupted=False, divergence=None, rounds=2, evaluations=values)

    monkeypatch.setattr(trial, "run", run)
    screen = Console(file=io.StringIO(), width=300)
    assert sweeping.sweep(config, space, tmp_path / "sweep", screen, 2, metric="rmse") is True
    assert f"failed: {type(error).__name__}: {error}" in screen.file.getvalue()
    assert len(rows(tmp_path / "sweep")) == 2 and len(set(calls)) == 2


def test_without_optuna_the_extra_is_named(config, space, tmp_path, monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(SettingError, match=r"needs the package optuna, .* pip install 'fedrecon\[sweep\]'"):
        Sweep(config, space, tmp_path / "sweep")


class Untouchable(Clients):
    """Test clients that nobody may look at."""

    def __init__(self):
        pass

    def __getattribute__(self, name):
        if name != "__class__":  # which types are checked by
            raise AssertionError(f"a trial asked the test clients for {name}")
        return Untouchable

    def __len__(self):
        raise AssertionError("a trial counted the test clients")


def test_the_test_clients_are_not_loaded(config, monkeypatch):
    asked = []

    def build(config):
        asked.append(config)
        task = task_of(config)
        # They are put in past the task's own check, which numbers the test clients as the training clients.
        object.__setattr__(task, "test", Untouchable())
        object.__setattr__(task, "held_out", {"test": Untouchable()})
        return task

    monkeypatch.setattr(trial, "task_of", build)
    task, spec = spec_without_test(config)
    assert asked[0].data.fractions.test == 0
    assert (task.test, spec.test, dict(spec.held_out)) == (None, None, {})
    assert list(spec.fingerprint()["clients"]) == ["train", "validation"]
    # The others are the very clients that the experiment trains on and tunes by.
    whole = task_of(config)
    for name in ("train", "validation"):
        assert task.sets()[name].ids.tolist() == whole.sets()[name].ids.tolist()
        assert (task.sets()[name].column("rating") == whole.sets()[name].column("rating")).all()


def test_a_trial_knows_nothing_of_the_test_clients(tmp_path):
    """Other ratings of the test clients change nothing of what a trial works with."""
    lines = [
        (user, item, 1 + (user * item + user) % 5)
        for user in range(1, 31)
        for item in range(1, 21)
        if (user * 7 + item * 3) % 5 < 3
    ]
    path = tmp_path / "ratings.dat"

    def write(ratings):
        path.write_text("".join(f"{u}::{i}::{r}::{978300000 + i}\n" for u, i, r in ratings))

    write(lines)
    settings = [*(s for s in SMALL if "data.clients" not in s and "data.items" not in s), "task=movielens"]
    config = configs.load(None, [*settings, f'data.path="{path}"'])
    tested = set(task_of(config).test.ids.tolist())
    assert 0 < len(tested) < 30
    before = spec_without_test(config)[1], spec_of(config, task_of(config))
    write((u, i, 6 - r if u in tested else r) for u, i, r in lines)
    after = spec_without_test(config)[1], spec_of(config, task_of(config))
    # All that training and evaluation follow from is the same, though the experiment's own run is another.
    assert before[0].fingerprint() == after[0].fingerprint()
    assert before[1].fingerprint() != after[1].fingerprint()
    assert before[0].fingerprint()["clients"].keys() == {"train", "validation"}

    seen = {}
    stopped = run_trial(config, tmp_path / "run", "rmse", lambda r, v: seen.update({r: v}) is None)
    assert stopped[:3] == (STOPPED, seen[1], 1)
    assert stopped.seconds > 0
    records = (tmp_path / "run" / "metrics.csv").read_text()
    assert ",validation," in records and ",test," not in records
    assert not (tmp_path / "run" / "checkpoints").exists()
    wrong = configs.load(None, [*settings, f'data.path="{path}"', "training.clients_per_round=50"])
    failed = run_trial(wrong, tmp_path / "wrong", "rmse", lambda r, v: False)
    assert failed.state == FAILED
    assert "clients_per_round must be at most" in failed.message


class Shown:
    """An evaluation that found this."""

    def __init__(self, value):
        self.value = value

    def over_examples(self):
        return {"rmse": self.value}


@pytest.mark.parametrize(
    ("values", "select", "expected"),
    [
        ([3.0, math.nan, 1.0], "final", (FAILED, "nan", 2, 0.0, "rmse is nan after round 2")),
        ([3.0, 2.0, math.inf, 1.0], "best", (FAILED, "inf", 3, 0.0, "rmse is inf after round 3")),
        ([math.nan, 1.0], "best", (FAILED, "nan", 1, 0.0, "rmse is nan after round 1")),
    ],
)
def test_what_diverges_is_not_trained_to_its_end(config, tmp_path, monkeypatch, values, select, expected):
    def run(spec, out, callbacks, **_):
        for round, value in enumerate(values, 1):
            callbacks[0](Evaluated(round, len(values), None, {}, {"validation": Shown(value)}, 0.0))

    monkeypatch.setattr(trial, "run", run)
    settings = [*SMALL, f"training.rounds={len(values)}", f"evaluation.select={select}"]
    chosen = configs.load(None, settings)
    outcome = run_trial(chosen, tmp_path, "rmse", lambda r, v: False)
    assert outcome._replace(value=str(outcome.value), seconds=0.0) == expected


def test_a_sweep_learns_from_what_diverged(config, space, tmp_path):
    diverged = Outcome(FAILED, math.nan, 3, 0.0, "rmse is nan after round 3")
    _, shown = run(config, space, tmp_path / "sweep", 3, [diverged])
    assert "failed: rmse is nan after round 3" in shown
    opened = Sweep(config, space, tmp_path / "sweep")
    opened.close()
    assert [t.value == math.inf for t in opened.trials()] == [True, False, False]
    assert opened.best().number in (1, 2)
    assert [row["RMSE"] == "" for row in rows(tmp_path / "sweep")] == [False, False, True]


class Killed(BaseException):
    """Ends a sweep where it is, with nothing noted any more, as a kill does."""


def tried(folder):
    """What a sweep wrote of its trials, the time that they took aside."""
    rows = list(csv.DictReader(io.StringIO((folder / "trials.csv").read_text())))
    return [{name: cell for name, cell in row.items() if name != "seconds"} for row in rows]


def quality(config, out, metric, watch, *_):
    """A trial that takes no time: its value depends on its settings alone."""
    value = (config.model.user_penalty - 4.0) ** 2 + config.model.item_bias
    for round in (1, 2):
        if watch(round, value + 1.0 / round):
            return Outcome(STOPPED, value, round, 0.1)
    return Outcome(DONE, value, 2, 0.1)


@pytest.mark.parametrize("prune", [False, True])
def test_a_sweep_that_is_killed_anywhere_tries_what_it_would_have_tried(
    config, space, tmp_path, monkeypatch, prune
):
    from optuna.storages.journal import JournalFileBackend

    monkeypatch.setattr(sequence, "run_trial", quality)
    write, trials = JournalFileBackend.append_logs, 12  # more than the ten that are drawn at random
    calls, last = 0, None

    def counted(self, logs):
        nonlocal calls
        calls += 1
        if calls == last:
            raise Killed
        write(self, logs)

    monkeypatch.setattr(JournalFileBackend, "append_logs", counted)

    def search(name, number=trials):
        sweeping.sweep(config, space, tmp_path / name, Console(file=io.StringIO()), number, prune=prune)
        return tried(tmp_path / name)

    whole, total = search("whole"), calls
    assert len(whole) == trials
    search("grown", 2)
    assert search("grown") == whole
    for last in range(5, total, total // 5):
        calls = 0
        with pytest.raises(Killed):
            search(f"killed-{last}")
        calls = last + 1
        assert search(f"killed-{last}") == whole, last


def test_private_trials_on_the_same_clients_are_as_many_releases(config, tmp_path, monkeypatch):
    """The screen and the sweep's page say so, by the number of trials; a sweep without noise says nothing."""
    # Generated ratings have no public list of items; no trial is run here.
    monkeypatch.setattr(build, "_public_inputs", lambda *arguments: {})
    private = configs.with_overrides(
        config,
        [
            *("privacy.epsilon=4.0", "privacy.delta=1e-3", "privacy.clip=1.0", "training.sampling=everyone"),
            "algorithm.client_weight=uniform",
        ],
    )
    sentence = "private trials on the same clients are"
    for number, (each, out) in enumerate(((private, tmp_path / "a"), (config, tmp_path / "b"))):
        space = parse(SPACE, each, "space")
        _, shown = run(each, space, out, 2)
        page = (out / PAGE).read_text(encoding="utf-8")
        assert (f"2 {sentence} 2 releases: epsilons add up." in shown) == (number == 0)
        assert ("together they are 2 releases, whose epsilons and deltas add up" in page) == (number == 0)
    _, shown = run(private, parse(SPACE, private, "space"), tmp_path / "a", 3)  # the sweep goes on
    assert f"3 {sentence} 3 releases" in shown
    assert "together they are 3 releases" in (tmp_path / "a" / PAGE).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def trials():
    """Configurations that differ in a rate, and what is tuned in each."""
    rates = (0.11, 0.23)
    name = "algorithm.update.optimizer.learning_rate"
    return [(configs.load(None, [*SMALL, f"{name}={rate}"]), {name: rate}) for rate in rates]


def test_a_trial_is_the_same_with_what_others_left(trials, tmp_path, monkeypatch):
    built = []
    monkeypatch.setattr(
        shared_work, "built_task", lambda config: built.append(config) or build.built_task(config)
    )
    shared = SharedWork()

    def value(number, name, work):
        config, tuned = trials[number]
        outcome = run_trial(config, tmp_path / name, "rmse", lambda *_: False, tuned, work)
        assert outcome.state == DONE, outcome.message
        return outcome.value

    value(0, "first", shared)
    compilations = shared.programs.compilations
    assert compilations >= 2  # of the rounds and of the evaluations
    after = value(1, "after", shared)
    assert shared.programs.compilations == compilations
    assert len(built) == 1
    assert after == value(1, "alone", SharedWork())
    # As a run of its own, whose numbers are constants in its programs.
    config, _ = trials[1]
    own = trial.run(spec_without_test(config)[1], out=tmp_path / "own")
    assert own.evaluations["validation"].over_examples()["rmse"] == pytest.approx(after, abs=1e-6)


def test_trials_with_other_optimizers_have_other_programs(tmp_path):
    """The exact recipe's rounds take the server's state and do not use it: its structure tells them apart."""
    shared, optimizer = SharedWork(), "algorithm.server_optimizer"
    for number, name in enumerate(("sgd", "adam", "sgd")):
        tuned = {f"{optimizer}.name": name, f"{optimizer}.learning_rate": 0.11}
        config = configs.load(None, [*SMALL, *(f"{setting}={value}" for setting, value in tuned.items())])
        assert config.algorithm.reconstruct.kind == "newton"
        outcome = run_trial(config, tmp_path / f"{number}", "rmse", lambda *_: False, tuned, shared)
        assert outcome.state == DONE, outcome.message


def test_a_setting_of_a_rule_is_tuned_under_the_rule_alone(config):
    space = {"aggregation": {"rule": ["mean", "krum"], "hostile": {"low": 0.1, "high": 0.3}}}
    assert dict(parse(space, config, "space")[-1].needs) == {"aggregation.rule": ("krum",)}


def test_data_are_read_anew_where_their_settings_differ(trials):
    shared, (config, tuned) = SharedWork(), trials[0]
    first = shared.task_of(config, tuned)
    assert shared.task_of(trials[1][0], trials[1][1]).train is first.train
    for change in ({"data": {"items": 21}}, {"model": {"factors": 3}}, {"seed": 1}):
        assert shared.task_of(configs.override(config, change), tuned).train is not first.train
