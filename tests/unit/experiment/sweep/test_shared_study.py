"""Several processes on one sweep, for which several `Sweep` stand: their locks exclude one another alike."""

import io

import pytest
from rich.console import Console

from fedrecon.errors import RunError
from fedrecon.experiment import config as configs
from fedrecon.experiment.sweep import run as sweeping
from fedrecon.experiment.sweep import shared_study, workers
from fedrecon.experiment.sweep.search import Sweep
from fedrecon.experiment.sweep.shared_study import JOURNAL, WORKERS, Turn
from fedrecon.experiment.sweep.space import parse
from fedrecon.experiment.sweep.trial import DONE, INTERRUPTED, Outcome

SMALL = ["data.clients=40", "data.items=20", "model.factors=2", "training.clients_per_round=5"]


@pytest.fixture(scope="module")
def config():
    return configs.load(None, SMALL)


@pytest.fixture
def opened(config, tmp_path):
    """`opened()` is a further process of the sweep."""
    space = parse({"model": {"user_penalty": {"low": 1.0, "high": 9.0}}}, config, "space")
    sweeps = []

    def open_sweep(**more):
        sweeps.append(Sweep(config, space, tmp_path / "sweep", **more))
        return sweeps[-1]

    yield open_sweep
    for sweep in sweeps:
        sweep.close()


def number(asked):
    return int(asked[2].name)


def die(sweep):
    """What a kill does: the operating system ends the process's lock."""
    sweep.worker._lock.release()


def test_trials_of_several_processes_are_counted_once(opened):
    here, there = opened(), opened()
    asked = [here.ask(3), there.ask(3), here.ask(3)]
    assert [number(x) for x in asked] == [0, 1, 2]
    assert len({x[0].params["model.user_penalty"] for x in asked}) == 3
    assert here.ask(3) is None and there.ask(3) is None
    assert here.unfinished() == (3, 0)
    for (trial, _, _), sweep in zip(asked, (here, there, here), strict=True):
        sweep.tell(trial, Outcome(DONE, trial.params["model.user_penalty"], 2))
    assert here.unfinished() == (0, 0)
    for sweep in (here, there):
        assert len(sweep.trials()) == 3
        assert sweep.best().value == min(x[0].params["model.user_penalty"] for x in asked)
    assert number(there.ask(4)) == 3


def test_what_one_process_is_asked_to_stop_another_one_goes_on_with(opened):
    here, there = opened(), opened()
    first, second = here.ask(2), there.ask(2)
    here.tell(first[0], Outcome(INTERRUPTED))
    resumed = there.ask(2)
    assert resumed[1:] == first[1:]
    assert there.ask(2) is None
    there.tell(resumed[0], Outcome(DONE, 1.0, 2))
    there.tell(second[0], Outcome(DONE, 2.0, 2))
    assert here.ask(2) is None


def test_what_a_kill_left_waits_for_a_process_that_starts(opened):
    here, there = opened(), opened()
    first = here.ask(2)
    second = there.ask(2)
    die(here)
    assert there.unfinished() == (1, 1)
    assert there.ask(2) is None  # it might end this process, too
    third = opened()
    names = {sweep.worker.name for sweep in (there, third)}
    assert {file.stem for file in (there.out / WORKERS).iterdir()} == names
    resumed = third.ask(2)
    assert resumed[1:] == first[1:]
    assert third.ask(2) is None
    there.tell(second[0], Outcome(DONE, 1.0, 2))  # that of a living process was left to it
    assert third.unfinished() == (1, 0)


def test_a_trial_that_ended_its_process_has_failed_for_the_one_that_started_it(opened):
    here, there = opened(), opened(worker="there")
    asked = there.ask(2)
    die(there)
    assert here.give_up("there", "its process died") == [number(asked)]
    (failed,) = here.trials()
    assert failed.user_attrs["message"] == "its process died"
    assert number(here.ask(2)) == 1
    assert here.ask(2) is None


def test_a_line_that_a_kill_tore_is_cut_off(tmp_path):
    journal = tmp_path / JOURNAL
    for content, whole in ((b"", b""), (b"{}\n", b"{}\n"), (b"{}\n{", b"{}\n"), (b"{", b"")):
        journal.write_bytes(content)
        with (turn := Turn(tmp_path)), turn:
            assert journal.read_bytes() == whole


@pytest.mark.parametrize(
    ("statuses", "error"),
    [
        ([0, 0], None),
        ([0, -9], None),
        ([-9, -9], "all processes of the sweep died"),
        ([3, 0], "had an error"),
    ],
)
def test_processes_that_die_or_have_an_error(config, opened, tmp_path, monkeypatch, statuses, error):
    class Ended(workers.Workers):
        """Processes that began a trial each and ended with these statuses."""

        def __init__(self, search, count):
            self.names = [f"worker-{i}" for i in range(count)]
            sweeps = [opened(worker=name) for name in self.names]
            for sweep, status in zip(sweeps, statuses, strict=True):
                trial, _, _ = sweep.ask()
                if status == 0:
                    sweep.tell(trial, Outcome(DONE, 1.0, 2))
                die(sweep)

        def ends(self):
            yield from zip(self.names, statuses, strict=True)

        def close(self):
            pass

    monkeypatch.setattr(sweeping, "Workers", Ended)
    space = parse({"model": {"user_penalty": {"low": 1.0, "high": 9.0}}}, config, "space")
    screen = Console(file=io.StringIO(), width=300)

    def sweep():
        return sweeping.sweep(config, space, tmp_path / "sweep", screen, 3, jobs=2)

    if error is None:
        assert sweep() is True
    else:
        with pytest.raises(RunError, match=error):
            sweep()
    assert screen.file.getvalue().count("failed: its process died") == statuses.count(-9)
    left = opened()
    # What ended with a message is not to blame for it: it is the first to go on.
    assert number(left.ask()) == (0 if 3 in statuses else 2)


def test_a_trial_that_ctrl_c_met_while_it_was_asked_for_is_nobodys(config, opened, tmp_path, monkeypatch):
    ask = Sweep.ask

    def interrupted(self, trials):
        ask(self, trials)
        raise KeyboardInterrupt

    monkeypatch.setattr(Sweep, "ask", interrupted)
    space = parse({"model": {"user_penalty": {"low": 1.0, "high": 9.0}}}, config, "space")
    screen = Console(file=io.StringIO(), width=300)
    assert sweeping.sweep(config, space, tmp_path / "sweep", screen, 2) is False
    assert "other processes" not in screen.file.getvalue()
    monkeypatch.undo()
    here = opened()
    assert here.unfinished() == (0, 0)
    assert number(here.ask(1)) == 0


def test_a_turn_that_cannot_begin_blocks_nobody(tmp_path, monkeypatch):
    def full(self):
        raise OSError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(Turn, "_mend", full)
        with pytest.raises(OSError, match="no space"):
            Turn(tmp_path).acquire()
    monkeypatch.setattr(shared_study, "_PATIENCE", 0.1)
    with Turn(tmp_path), pytest.raises(RunError, match=r"has held this lock for 0\.1 seconds"):
        Turn(tmp_path).acquire()
