"""The state of a sweep, on the disk after every trial, and the choice of the next trial by Optuna."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrecon import _safe_text as safe_text
from fedrecon._files import write_atomically
from fedrecon.data._hashing import mixed
from fedrecon.evaluation._metric_names import Direction, direction_of, label_of
from fedrecon.experiment import config as configs
from fedrecon.experiment.config import Config, override
from fedrecon.experiment.distributed.signals import defer_interrupt
from fedrecon.experiment.reporting import tables
from fedrecon.experiment.settings.extras import require
from fedrecon.experiment.storage.run_folder import RunFolder
from fedrecon.experiment.sweep import optuna_private
from fedrecon.experiment.sweep.shared_study import Turn, Worker, storage_of, worker_name
from fedrecon.experiment.sweep.space import Dimension, nest
from fedrecon.experiment.sweep.trial import (
    DONE,
    FAILED,
    INTERRUPTED,
    STOPPED,
    Outcome,
    metric_of,
    spec_without_test,
)

if TYPE_CHECKING:
    from optuna.trial import Trial

TRIALS, BEST, PAGE = "trials", "best.toml", "sweep.md"
# Seconds for which a process waits to open a folder. Others hold its lock for moments only.
_WAIT = 60.0


class Sweep:
    """An open sweep. Other processes, of other hosts too, may open its folder and run trials of it meanwhile.

    Args:
        config: The configuration of the experiment whose settings are tuned.
        space: The settings that are tuned, and their values.
        out: The folder of the sweep, which is made where it does not exist; the sweep that it holds goes on.
        metric: The metric of the validation clients to tune: `"METRIC"`, or `"METRIC:max"` or `"METRIC:min"`
            where it is not known which way it is better. None, the default, is the metric that selects the
            best round, or else the first in the table of metrics.
        prune: Whether trials that are worse than the median of the others at the same round are stopped;
            False by default.
        worker: The name of this process among those of the sweep; None, the default, for a new one.

    Raises:
        SettingError: Optuna is not installed, a setting does not fit the data, or there is no such metric.
        RunError: The folder cannot be written, or belongs to another sweep.
    """

    def __init__(
        self,
        config: Config,
        space: Sequence[Dimension],
        out: Path,
        metric: str | None = None,
        prune: bool = False,
        worker: str | None = None,
    ):
        require("optuna", "sweep", "fedrecon sweep")
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.config, self.space, self.out = config, space, out
        tuned = metric_of(spec_without_test(config)[1], metric)
        self.tuned, self.metric, self.direction = tuned, tuned.metric, tuned.direction
        described = {d.path: d._replace(path="")._asdict() for d in space}
        # The direction is left out if it is that of the table: so folders of earlier versions still match.
        name = tuned.metric if tuned.direction is direction_of(tuned.metric) else str(tuned)
        identity = json.loads(json.dumps({"space": described, "metric": name, "prune": prune}))
        RunFolder(out, config.model_dump(), identity, wait=_WAIT).close()
        self.turn = Turn(out)
        with self.turn:
            self.worker = Worker(out, worker or worker_name())
            self.study = self._study(prune)
            self._release_trials_of_the_dead()
            self._requeue()

    def close(self) -> None:
        """Tells the other processes that this one runs no trial any more."""
        self.worker.close()

    def trials(self) -> list[Any]:
        """Optuna's trials that ended, without those that Ctrl-C or a kill interrupted."""
        ended = (t for t in self.study.get_trials(deepcopy=False) if t.state.is_finished())
        return [t for t in ended if "interrupted" not in t.user_attrs]

    def best(self) -> Any:
        """The best trial that was done; None if there is none."""
        done = [t for t in self.trials() if t.user_attrs.get("outcome") == DONE]
        return min(done, key=lambda t: self.direction.loss(t.value), default=None)

    def unfinished(self) -> tuple[int, int]:
        """How many trials run in other processes, and how many belong to processes that died."""
        with self.turn:
            alive = [self.worker.alive(t.user_attrs.get("worker")) for t in self._running()]
        return sum(alive), len(alive) - sum(alive)

    def _running(self) -> list[Any]:
        from optuna.trial import TrialState

        return list(self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))

    @defer_interrupt()
    def ask(self, trials: int | None = None) -> tuple[Any, Config, Path] | None:
        """Starts the next trial, or one that Ctrl-C interrupted here or elsewhere.

        What it tries depends on the seed, its number and the trials that ended before it, and on nothing that
        happened on the way: so a sweep that was killed goes on as if it had not been.

        Args:
            trials: The number of trials that the sweep is to have, those that other processes run at present
                included; None, the default, for one more than there are.

        Returns:
            Optuna's trial, its configuration and its run folder; None if there are as many trials.
        """
        with self.turn:
            if trials is not None and len(self.trials()) + len(self._running()) >= trials:
                return None
            self._requeue()
            return self._ask()

    def _ask(self) -> tuple[Any, Config, Path]:
        trial = self.study.ask()
        # A trial that runs and has no worker is one whose process was killed right here.
        trial.set_user_attr("worker", self.worker.name)
        # An interrupted trial is a new one to Optuna, but goes on in its old folder, under its old number.
        number = int(trial.user_attrs.get("folder", self._next_number()))
        self.study.sampler = self._sampler(number)
        chosen: dict[str, Any] = {}
        for dimension in self.space:
            if dimension.exists(chosen):
                chosen[dimension.path] = dimension.suggest(trial)
        # This comes last: so a trial without a folder, which a kill may leave, is known to lack settings.
        name = f"{number:04d}"
        trial.set_user_attr("folder", name)
        return trial, self.configuration(chosen), self.out / TRIALS / name

    def _next_number(self) -> int:
        """The number after those of all trials so far, without those that drew no settings."""
        numbers = (number_of(t) for t in self.study.get_trials(deepcopy=False))
        return 1 + max((n for n in numbers if n is not None), default=-1)

    def _sampler(self, number: int) -> Any:
        import optuna

        # The seed is hashed, since generators of neighbouring seeds begin alike.
        seed = mixed(mixed(self.config.seed) + number) % 2**32
        return optuna.samplers.TPESampler(seed=seed)

    def configuration(self, chosen: dict[str, Any]) -> Config:
        """The experiment with these values of settings, by their dotted names."""
        return override(self.config, nest(chosen))

    @defer_interrupt()
    def watch(self, trial: "Trial", round: int, value: float) -> bool:
        """Records an evaluation of a trial.

        Args:
            trial: The trial.
            round: The round of the evaluation.
            value: The value of the tuned metric.

        Returns:
            Whether the trial should stop.
        """
        with self.turn:
            trial.report(value, round)
            return bool(trial.should_prune())

    @defer_interrupt()
    def tell(self, trial: "Trial", outcome: Outcome) -> None:
        """Records how a trial ended, and writes the files of the sweep."""
        with self.turn:
            self._tell(trial, outcome)
            self._write()

    def _tell(self, trial: "Trial", outcome: Outcome) -> None:
        from optuna.trial import TrialState

        trial.set_user_attr("outcome", outcome.state)
        trial.set_user_attr("rounds", outcome.rounds)
        trial.set_user_attr("seconds", outcome.seconds)
        if outcome.state == DONE:
            self.study.tell(trial, outcome.value)
        elif outcome.state == STOPPED:
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            trial.set_user_attr("message", outcome.message)
            if outcome.state == INTERRUPTED:
                trial.set_user_attr("interrupted", True)
            if outcome.rounds:
                # The trial diverged: the sampler learns from the worst value, but not from a failed trial.
                self.study.tell(trial, self.direction.worst)
            else:
                self.study.tell(trial, state=TrialState.FAIL)

    @defer_interrupt()
    def give_up(self, worker: str, reason: str | None = None) -> list[int]:
        """Ends the trials of a process that has died.

        Args:
            worker: The name of the process.
            reason: Why they failed; None, the default, if they were interrupted and are to go on.

        Returns:
            The numbers of the trials.
        """
        with self.turn:
            left = [t for t in self._running() if t.user_attrs.get("worker") == worker]
            for trial in left:
                self._end(trial, reason)
            self._write()
        return [number for number in map(number_of, left) if number is not None]

    def _end(self, trial: Any, reason: str | None = None) -> None:
        """Ends a trial that another process has started; see `give_up`."""
        from optuna.trial import TrialState

        # A trial that has no folder yet has drawn no settings: nothing of it can go on or count.
        if reason is None or number_of(trial) is None:
            optuna_private.set_user_attribute(self.study, trial, "interrupted", True)
        else:
            for name, value in (("outcome", FAILED), ("message", reason)):
                optuna_private.set_user_attribute(self.study, trial, name, value)
        self.study.tell(trial.number, state=TrialState.FAIL)

    def write(self) -> None:
        """Writes the trials so far, and the best configuration."""
        with self.turn:
            self._write()

    def _write(self) -> None:
        table = self.table()
        write_atomically(self.out / "trials.csv", tables.to_csv(table))
        best = self.best()
        lines = [f"# {safe_text.markdown(self.config.name)}: a sweep", ""]
        if best is not None:
            config = override(self.configuration(best.params), {"name": f"{self.config.name}-best"})
            write_atomically(self.out / BEST, configs.text(config))
            lines += [f"Best: trial {number_of(best)}, {label_of(self.metric)} {best.value:.4f}.", ""]
            lines += ["```sh", f"fedrecon run {self.out / BEST}", "```", ""]
        write_atomically(self.out / PAGE, "\n".join(lines) + "\n" + tables.section(table))

    def table(self) -> tables.ReportTable:
        """The trials that ended, the best first."""
        columns = [
            tables.Column("trial"),
            tables.Column("outcome"),
            tables.Column(label_of(self.metric), "{:.4f}".format),
            tables.Column("rounds", "{:,.0f}".format),
            tables.Column("seconds", "{:.1f}".format),
            *(tables.Column(d.path) for d in self.space),
        ]
        order = {DONE: 0, STOPPED: 1, FAILED: 2}
        rows = []
        for t in sorted(
            self.trials(),
            key=lambda t: (order.get(t.user_attrs.get("outcome"), 2), self.direction.loss(t.value or 0.0)),
        ):
            notes = t.user_attrs
            value = t.value if notes.get("outcome") in (DONE, STOPPED) else None
            row = (
                f"{number_of(t)}",
                notes.get("outcome", FAILED),
                value,
                notes.get("rounds"),
                notes.get("seconds"),
            )
            rows.append((*row, *(_cell(t.params.get(d.path)) for d in self.space)))
        note = (
            f"Measured on the validation clients; the test clients took no part.{self._releases(len(rows))}"
        )
        return tables.ReportTable("trials", "Trials", tuple(columns), tuple(rows), note)

    def _releases(self, trials: int) -> str:
        """What a sweep of private trials means for the training clients, as a further sentence."""
        if not self.config.privacy.on:
            return ""
        return (
            f" Each of the {trials} trials is a private run of its own on the same training clients, with a "
            f"ledger of its own: together they are {trials} releases, whose epsilons and deltas add up, and "
            f"the choice among them is in no ledger."
        )

    def _study(self, prune: bool) -> Any:
        import optuna

        return optuna.create_study(
            storage=storage_of(self.out, self.turn),
            study_name="sweep",
            direction="maximize" if self.direction is Direction.HIGHER else "minimize",
            # This one is not used, since `ask` gives each trial a sampler of its own.
            sampler=self._sampler(0),
            pruner=optuna.pruners.MedianPruner() if prune else optuna.pruners.NopPruner(),
            load_if_exists=True,
        )

    def _release_trials_of_the_dead(self) -> None:
        """Marks trials of processes that were killed as interrupted.

        This is done when a process joins the sweep, and not by those at work: a trial that ends the processes
        that run it must not end one after the other.
        """
        for trial in self._running():
            if not self.worker.alive(trial.user_attrs.get("worker")):
                self._end(trial)

    def _requeue(self) -> None:
        """Enqueues the trials that were interrupted, to be run again with the same settings."""
        from optuna.trial import TrialState

        waiting = {t.user_attrs.get("folder") for t in self.study.get_trials(states=(TrialState.WAITING,))}
        # Of several trials with the same folder the last one tells how it ended.
        last = {t.user_attrs.get("folder"): t for t in self.study.get_trials(deepcopy=False)}
        for name, trial in last.items():
            if trial.user_attrs.get("interrupted") and name is not None and name not in waiting:
                # A kill may also have come before a trial that goes on had got all of its settings again.
                params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
                self.study.enqueue_trial(params, user_attrs={"folder": name})


def number_of(trial: Any) -> int | None:
    """The number of a trial, which it keeps when it is interrupted and goes on; None if it lacks settings.

    Optuna's own numbers count such a trial twice. A kill may leave a trial that has not drawn its settings.
    """
    folder = trial.user_attrs.get("folder")
    return None if folder is None else int(folder)


def _cell(value: Any) -> tables.Cell:
    """The cell of a table that shows the value of a setting."""
    return str(value).lower() if isinstance(value, bool) else value
