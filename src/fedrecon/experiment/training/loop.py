"""The rounds of a run, with evaluations, records and checkpoints on the way."""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from fedrecon._safe_text import counted
from fedrecon.algorithms._base import ServerState
from fedrecon.data._sampling import AbstractSampling
from fedrecon.evaluation._evaluation import Evaluation
from fedrecon.experiment.console.progress import Progress
from fedrecon.experiment.distributed.processes import ALONE, ProcessGroup
from fedrecon.experiment.distributed.signals import Interrupt
from fedrecon.experiment.storage.checkpoint import Checkpoints
from fedrecon.experiment.storage.metrics_log import EPSILON, TRAINING, Records, Row
from fedrecon.experiment.storage.resource_usage import Stopwatch
from fedrecon.experiment.training.best_selection import BestSelection
from fedrecon.experiment.training.block_plan_tuning import BlockPlanTuner
from fedrecon.experiment.training.checkpointer import Checkpointer
from fedrecon.experiment.training.evaluation_rows import Evaluated
from fedrecon.experiment.training.evaluator import Evaluator
from fedrecon.experiment.training.round_recorder import RoundRecorder
from fedrecon.experiment.training.run_ledger import RunLedger
from fedrecon.experiment.training.run_spec import RunSpec
from fedrecon.simulation._client_state_store import ClientStateStore
from fedrecon.simulation._round import Round
from fedrecon.simulation._simulation import Simulation


class TrainingLoop:
    """Runs the rounds of a run from its last checkpoint on.

    Its parts have one subject each: `Evaluator`, `RoundRecorder`, `BestSelection`, `Checkpointer` and
    `BlockPlanTuner`. The loop calls them in the order that makes a resumed run end with the same bits.

    Args:
        spec: The specification of the run.
        simulation: The simulation of the run's training clients.
        records: The records of the run.
        checkpoints: The checkpoints of the run; None in all processes but the first, and for a run that keeps
            none.
        stopwatch: The stopwatch of the run.
        progress: Receives every round and evaluation, to show them.
        callbacks: Functions that are called with each `Evaluated`, in this order; none by default.
        processes: The processes of the run; by default this one alone.
        tuner: May change the block plan after the first rounds; None, the default, never changes it.
        ledger: Counts the releases of a private algorithm; None, the default, for others.
        unprotected: Gets the training metrics of a private algorithm's clients; None, the default, for
            others.

    Attributes:
        state: The server's state after the last complete round.
        last: The number of the last round: a private algorithm may afford fewer rounds than were asked for.
        done: The number of rounds done.
        resumed_from: The round of the checkpoint from which the run continued; None for a run from the start.
        recomputed: The number of recorded rounds that are computed again.
        evaluations: The evaluations after the last round, by the name of the set; empty if there were none.
        interrupted: Whether Ctrl-C ended the rounds.
        evaluator: Evaluates the sets of clients.
        selection: The best evaluation so far.
    """

    def __init__(
        self,
        spec: RunSpec,
        simulation: Simulation,
        records: Records,
        checkpoints: Checkpoints | None,
        stopwatch: Stopwatch,
        progress: Progress,
        callbacks: Sequence[Callable[[Evaluated], Any]] = (),
        processes: ProcessGroup = ALONE,
        tuner: BlockPlanTuner | None = None,
        ledger: RunLedger | None = None,
        unprotected: Records | None = None,
    ):
        self.spec, self.simulation, self.records = spec, simulation, records
        self.state = simulation.init(spec.initial_global_params)
        self.last = spec.rounds if ledger is None else ledger.privacy.affordable
        self.done = 0
        self.resumed_from: int | None = None
        self.recomputed = 0
        self.evaluations: dict[str, Evaluation] = {}
        self.interrupted = False
        self.evaluator = Evaluator(spec, simulation, lambda: self.state)
        self.selection = BestSelection(spec.criterion, simulation.client_states)
        self._recorder = RoundRecorder(records, progress, self._further_rows, unprotected)
        self._checkpointer = Checkpointer(
            spec, simulation.client_states, checkpoints, records, stopwatch, processes, self.selection, ledger
        )
        self._stopwatch, self._progress, self._callbacks = stopwatch, progress, callbacks
        self._processes, self._tuner, self._ledger = processes, tuner, ledger
        self._unprotected = unprotected

    def restore(self) -> None:
        """Goes back to the last checkpoint, or to the start if there is none.

        Raises:
            CheckpointError: The checkpoint is damaged, or does not fit the run.
        """
        restored = self._checkpointer.restore(self.state)
        self.state, self.done, self.recomputed = restored.state, restored.done, restored.recomputed
        self.resumed_from = restored.done if restored.from_checkpoint else None
        unprotected = self._unprotected
        # Its owner may have removed the file, or asked for it only now: it then begins here.
        if unprotected is not None and unprotected.path is not None and unprotected.path.exists():
            unprotected.restart(self.done)
        if self._ledger is not None and self._evaluates(self.done) and self.done < self.last:
            # A private round is saved before it is evaluated, so a kill may have come in between.
            self.records.forget_evaluations(self.done)
            self._evaluate(self.done, self.state)
        if self._tuner is not None:
            self._tuner.resume(self.done)

    def resumption(self) -> str:
        """A sentence for the user about where a resumed run continues, or that the run is finished."""
        if self.done == self.last and not self.recomputed:
            # A run made in Python has no settings, by which the command could begin it again.
            extensible = self._ledger is None and self.spec.settings
            more = "; resume with --rounds N goes on to more" if extensible else ""
            return f"this run is finished: all of its {counted(self.done, 'round')} are done{more}"
        start = "there is no checkpoint yet: starting again"
        if self.resumed_from is not None:
            start = f"going on from the checkpoint of round {self.resumed_from}"
        return f"{start}; recorded rounds computed again: {self.recomputed}"

    def run(self) -> None:
        """Runs the rounds that are left. After Ctrl-C it saves the last complete round, and returns."""
        begun = self.evaluator.begun
        self._progress.start(self.done, self.spec.rounds)
        if self._processes.count == 1:
            # All processes must run their common programs in the same order, which a thread beside the rounds
            # cannot guarantee.
            self.evaluator.compile_ahead()
        try:
            with Interrupt(self._processes.pass_on) as interrupt:
                for round in self.simulation.rounds(self.state, self.last - self.done):
                    self._after(round)
                    if self._processes.stops(interrupt.asked, round.number):
                        self.interrupted = True
                        break
        except KeyboardInterrupt:
            self.interrupted = True
        finally:
            # Threads wait for the first round, and would wait for ever if there was none.
            begun.set()
        if self.interrupted:
            # A second Ctrl-C may have come at any place, also in the middle of a round's evaluation: what was
            # recorded of that round is removed again.
            self._save_after_ctrl_c()
        self.evaluator.join()

    def _save_after_ctrl_c(self) -> None:
        """Saves the last complete round. One more Ctrl-C changes nothing, and a third one ends it at once."""
        with Interrupt() as again:
            try:
                self._recorder.end_at(self.done)
                self._checkpointer.save(self.done, self.state)
            except Exception as error:
                # Code in the middle of a write may answer a KeyboardInterrupt by an error of its own.
                if again.insisted:
                    raise KeyboardInterrupt from error
                raise

    def evaluate(self) -> dict[str, Evaluation]:
        """The evaluations of the present parameters while training, which may have been made just before."""
        if not self.evaluations:
            self.evaluations = self.evaluator.while_training(self.state)
        return self.evaluations

    def selected(self) -> tuple[int, Any, ClientStateStore | None]:
        """The selected round, a state with its parameters, and the client states after it: for the test."""
        client_states, best = self.simulation.client_states, self.selection.best
        if self.spec.selects_best and best is not None:
            state = self.state._replace(global_params=best.global_params)
            return best.round, state, client_states and client_states.at(best.client_states_mark)
        return self.done, self.state, client_states

    def _after(self, round: Round) -> None:
        """Records, evaluates and saves a round, as far as each is due.

        The order matters. The round counts as done, by `done` and `state`, only after its evaluation, so that
        Ctrl-C in between leaves the round before it; and it is saved before callbacks run, which may raise.
        """
        number, last = round.number, round.number == self.last
        self._recorder.add(round)
        if self._stopwatch.first_round is None:
            jax.block_until_ready(round.state)
            self._stopwatch.first()
            self.evaluator.begun.set()
        evaluating = self._evaluates(number)
        saving = self._saves(number)
        if evaluating or saving:
            self._recorder.fetch()
        else:
            self._recorder.fetch_if_due()
        if self._ledger is not None and (evaluating or saving):
            # A private round is on the disk before its evaluation shows anything of it: were it lost after
            # that, it would be computed again, and two releases of one round would have been seen.
            self.done, self.state = number, round.state
            self._checkpointer.save(self.done, self.state)
        evaluated = self._evaluate(number, round.state) if evaluating else None
        self.evaluations = evaluated.evaluations if evaluated is not None else {}
        self.done, self.state = number, round.state
        if saving and self._ledger is None:
            self._checkpointer.save(self.done, self.state)
        if evaluated is not None:
            for callback in self._callbacks:
                callback(evaluated)
        if self._tuner is not None and not last:
            quiet = not self.evaluator.is_compiling
            self._tuner.after(number, round.state, self._stopwatch.compilation(), quiet)

    def _evaluates(self, number: int) -> bool:
        """Whether the parameters after a round are evaluated."""
        return number == self.last or (number > 0 and number % self.spec.evaluate_every == 0)

    def _saves(self, number: int) -> bool:
        """Whether the parameters after a round are saved, also where they are not evaluated."""
        return number == self.last or number % self.spec.checkpoint_every == 0

    def _further_rows(self, number: int) -> list[Row]:
        """The rows of a round beside its metrics: about its privacy, or what its sampling tells of it."""
        if self._ledger is not None:
            # What a sampling tells of its cohort would not be covered by epsilon.
            # A round that is saved is released: its epsilon must be in the records, whatever that takes.
            return self._ledger.rows(number, costly=self._evaluates(number) or self._saves(number))
        sampling = self.spec.sampling
        if not isinstance(sampling, AbstractSampling):
            return []
        figures = sampling.figures(number - 1, self.spec.clients.num_examples, self.spec.seed)
        return [
            Row(number, "train", TRAINING, "total", name, float(value)) for name, value in figures.items()
        ]

    def _evaluate(self, number: int, state: ServerState) -> Evaluated:
        """Evaluates the parameters after a round, and records the evaluations."""
        evaluations = self.evaluator.while_training(state)
        seconds = self._stopwatch.seconds()
        self._recorder.add_evaluations(number, evaluations, seconds)
        self.selection.consider(number, state, evaluations)
        means = self._recorder.take_training_means()
        if self._ledger is not None:
            means[EPSILON] = self._ledger.ledger(number).epsilon
        evaluated = Evaluated(number, self.spec.rounds, state, means, evaluations, seconds)
        self._progress.evaluated(evaluated)
        return evaluated
