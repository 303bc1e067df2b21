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

JOURNAL, TRIALS, BEST, PAGE = "journal.log", "trials", "best.toml", "sweep.md"


class Sweep:
    """An open sweep. Another process cannot open its folder until `close`.

    Args:
        config: The configuration of the experiment whose settings are tuned.
        space: The settings that are tuned, and their values.
        out: The folder of the sweep, which is made where it does not exist; the sweep that it holds goes on.
        metric: The metric of the validation clients to tune: `"METRIC"`, or `"METRIC:max"` or `"METRIC:min"`
            where it is not known which way it is better. None, the default, is the metric that selects the
            best round, or else the first in the table of metrics.
        prune: Whether trials that are worse than the median of the others at the same round are stopped;
            False by default.

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
    ):
        require("optuna", "sweep", "fedrecon sweep")
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.config, self.space, self.out = config, space, out
        tuned = metric_of(spec_without_test(config)[1], metric)
        self.metric, self.direction = tuned.metric, tuned.direction
        described = {d.path: d._replace(path="")._asdict() for d in space}
        # The direction is left out if it is that of the table: so folders of earlier versions still match.
        name = tuned.metric if tuned.direction is direction_of(tuned.metric) else str(tuned)
        identity = json.loads(json.dumps({"space": described, "metric": name, "prune": prune}))
        self.folder = RunFolder(out, config.model_dump(), identity)
        self.study = self._study(prune)
        self._requeue()

    def close(self) -> None:
        """Lets other processes open the folder."""
        self.folder.close()

    def trials(self) -> list[Any]:
        """Optuna's trials that ended, without those that Ctrl-C or a kill interrupted."""
        ended = (t for t in self.study.get_trials(deepcopy=False) if t.state.is_finished())
        return [t for t in ended if "interrupted" not in t.user_attrs]

    def best(self) -> Any:
        """The best trial that was done; None if there is none."""
        done = [t for t in self.trials() if t.user_attrs.get("outcome") == DONE]
        return min(done, key=lambda t: self.direction.loss(t.value), default=None)

    @defer_interrupt()
    def ask(self) -> tuple[Any, Config, Path]:
        """Starts the next trial.

        What it tries depends on the seed, its number and the trials that ended before it, and on nothing that
        happened on the way: so a sweep that was killed goes on as if it had not been.

        Returns:
            Optuna's trial, its configuration and its run folder.
        """
        trial = self.study.ask()
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
        trial.report(value, round)
        return bool(trial.should_prune())

    @defer_interrupt()
    def tell(self, trial: "Trial", outcome: Outcome) -> None:
        """Records how a trial ended, and writes the files of the sweep."""
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
        self.write()

    def write(self) -> None:
        """Writes the trials so far, and the best configuration."""
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
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

        journal = self.out / JOURNAL
        # `RunFolder` has locked the folder for this process, so a lock of Optuna or half a line in the
        # journal is what a killed process left.
        Path(f"{journal}.lock").unlink(missing_ok=True)
        if journal.exists():
            content = journal.read_bytes()
            write_atomically(journal, content[: content.rfind(b"\n") + 1])
        # Optuna's default lock waits forever for a lock file that was left under a relative path.
        lock = JournalFileOpenLock(str(journal))
        storage = JournalStorage(JournalFileBackend(str(journal), lock))
        return optuna.create_study(
            storage=storage,
            study_name="sweep",
            direction="maximize" if self.direction is Direction.HIGHER else "minimize",
            # This one is not used, since `ask` gives each trial a sampler of its own.
            sampler=self._sampler(0),
            pruner=optuna.pruners.MedianPruner() if prune else optuna.pruners.NopPruner(),
            load_if_exists=True,
        )

    def _requeue(self) -> None:
        """Enqueues the trials that were interrupted, to be run again with the same settings."""
        from optuna.trial import TrialState

        # Trials that are running belong to a process that was killed.
        for trial in self.study.get_trials(states=(TrialState.RUNNING,)):
            optuna_private.set_user_attribute(self.study, trial, "interrupted", True)
            self.study.tell(trial.number, state=TrialState.FAIL)
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
