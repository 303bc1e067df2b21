"""The rounds of a run, with evaluations, records and checkpoints on the way."""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Event, Thread
from typing import Any, cast

import jax
import jax.numpy as jnp

from fedrecon.algorithms._base import ServerState
from fedrecon.data._clients import Clients
from fedrecon.errors import DataError
from fedrecon.evaluation._evaluate import measure
from fedrecon.evaluation._evaluation import Evaluation
from fedrecon.evaluation._metric_names import direction_of
from fedrecon.evaluation._selection import Criterion
from fedrecon.experiment.console.progress import Progress
from fedrecon.experiment.distributed.broadcast import saved_for_all, share_client_states
from fedrecon.experiment.distributed.processes import ALONE, ProcessGroup
from fedrecon.experiment.distributed.signals import Interrupt
from fedrecon.experiment.storage.checkpoint import CheckpointError, Checkpoints
from fedrecon.experiment.storage.metrics_log import TRAINING, Records, Row, place, rows
from fedrecon.experiment.storage.resource_usage import Stopwatch
from fedrecon.experiment.training.block_plan_tuning import BlockPlanTuner
from fedrecon.experiment.training.evaluation_rows import (
    Best,
    Evaluated,
    mean_of,
    training_rows,
)
from fedrecon.experiment.training.run_ledger import EPSILON, RunLedger
from fedrecon.experiment.training.run_spec import RunSpec
from fedrecon.experiment.training.vocabularies import DIGEST
from fedrecon.simulation._block_plan import Plan, plan_evaluation
from fedrecon.simulation._client_state_store import ClientStateStore
from fedrecon.simulation._compilation import heavy
from fedrecon.simulation._round import Round
from fedrecon.simulation._simulation import Simulation

RECORDS = "records"  # in what a checkpoint saves beside the parameters: the mark of the rows so far
# Seconds between two looks at the results of past rounds, and how many rounds the device keeps to work on.
LOOK_EVERY, LAG = 0.5, 2


class TrainingLoop:
    """Runs a job's rounds from its last checkpoint on.

    Between evaluations and checkpoints the host stays a few rounds ahead of the device; twice a second the
    metrics of rounds are fetched which lie that far back.

    Attributes:
        begun: Set after the first round: what may wait until then must not delay it.

    Args:
        spec: What to do.
        simulation: Of the job's training clients.
        records: Where numbers go.
        checkpoints: Where states go; None for nowhere.
        stopwatch: The run's clock.
        progress: Who is told.
        callbacks: Called with each `Evaluated`.
        processes: The processes that run it together. The first of them alone has checkpoints.
        tuner: Who may change the plan on the way; None for nobody.
        ledger: Counts the releases of a private algorithm; None for others.
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
    ):
        self.tuner = tuner
        self.ledger = ledger
        self.last = spec.rounds if ledger is None else ledger.privacy.affordable
        self.processes = processes
        self.spec, self.simulation, self.records = spec, simulation, records
        self.checkpoints, self.stopwatch, self.progress, self.callbacks = (
            checkpoints,
            stopwatch,
            progress,
            callbacks,
        )
        self.state = simulation.init(spec.initial_global_params)
        self.done = 0
        self.resumed_from: int | None = None
        self.recomputed = 0
        self.criterion = spec.criterion
        self.best: Best | None = None
        self.evaluations: dict[str, Evaluation] = {}
        self.interrupted = False
        self.begun = Event()
        self._ahead = Thread(target=self._compile_evaluation)
        self._pending: deque[Round] = deque()
        self._looked = time.monotonic()
        self._since: dict[str, tuple[float, float]] = {}

    def restore(self) -> None:
        """Goes back to the last checkpoint, or to the start if there is none.

        Raises:
            CheckpointError: The checkpoint is cut short or another run's.
        """
        saved, mark = saved_for_all(self.checkpoints, self._tree(), self.processes), None
        recorded = None if saved is None else saved.info.get(RECORDS)
        if saved is not None:
            tree = jax.tree.map(jnp.asarray, saved.tree)
            self.state, self.done, self.resumed_from = tree["state"], saved.round, saved.round
            self.stopwatch.before = saved.info["seconds"]
            if saved.info["best"] is not None:
                self.best = Best.from_info(saved.info["best"], tree["best"])
                self._continue_with(self.best.metric)
            mark = saved.info.get("kept")
        if self.simulation.client_states is not None:
            try:
                marks = [mark, None if self.best is None else self.best.client_states_mark]
                share_client_states(self.simulation.client_states, marks, self.processes)
                self.simulation.client_states.restore(mark)
                self.simulation.client_states.hold(
                    None if self.best is None else self.best.client_states_mark
                )
            except DataError as error:
                raise CheckpointError(str(error)) from None
        self.recomputed = self.records.restart(self.done, recorded)
        if self.ledger is not None and self._evaluates(self.done) and self.done < self.last:
            # A kill may have come between a release and its evaluation.
            self.records.forget_evaluations(self.done)
            self._evaluate(self.done, self.state)
        if self.tuner is not None:
            self.tuner.resume(self.done)

    def _continue_with(self, metric: str) -> None:
        """Selects by the metric of the best evaluation so far, even if today's choice would be another one.

        Earlier versions preferred perplexity to accuracy: values of two metrics cannot be compared.
        """
        if self.criterion is None or self.criterion.metric == metric:
            return
        direction = direction_of(metric)
        if direction is None:
            raise CheckpointError(f"its best evaluation is by {metric!r}, of which no direction is known")
        self.criterion = Criterion(metric, direction)

    def resumption(self) -> str:
        """What to say of a run that goes on."""
        start = "there is no checkpoint yet: starting again"
        if self.resumed_from is not None:
            start = f"going on from the checkpoint of round {self.resumed_from}"
        return f"{start}; recorded rounds computed again: {self.recomputed}"

    def run(self) -> None:
        """Runs the rounds that are left. After Ctrl-C it saves the last complete round, and returns."""
        spec = self.spec
        self.progress.start(self.done, spec.rounds)
        if self.processes.count == 1:  # else the processes' programs would meet in another order
            self._ahead.start()
        try:
            with Interrupt(self.processes.pass_on) as interrupt:
                for round in self.simulation.rounds(self.state, self.last - self.done):
                    self._after(round)
                    if self.processes.stops(interrupt.asked, round.number):
                        self.interrupted = True
                        break
        except KeyboardInterrupt:
            self.interrupted = True
        finally:
            self.begun.set()  # where no round came so far: somebody may wait for it
        if self.interrupted:
            # A second Ctrl-C may come at any place, also in the middle of a round's evaluation.
            self._pending = deque(round for round in self._pending if round.number <= self.done)
            self._save_after_ctrl_c()
        if self._ahead.ident is not None:
            self._ahead.join()

    def _save_after_ctrl_c(self) -> None:
        """Saves the last complete round. One more Ctrl-C changes nothing, and a third one ends it at once."""
        with Interrupt() as again:
            try:
                self._look(0)
                self.records.forget(self.done)
                self._save()
            except Exception as error:
                # What is in the middle of a write may answer a KeyboardInterrupt by an error of its own.
                if again.insisted:
                    raise KeyboardInterrupt from error
                raise

    def evaluate(self) -> dict[str, Evaluation]:
        """Evaluates the validation clients under the parameters of now, where that was not just done."""
        if not self.evaluations:
            self.evaluations = self._evaluations(self.state)
        return self.evaluations

    def evaluated(self, state: ServerState, client_states: ClientStateStore | None, name: str) -> Evaluation:
        """All clients of a set, under the protocol that its name tells."""
        spec = self.spec
        if self._ahead.is_alive():
            self._ahead.join()
        return self._evaluate_some(state, client_states, name, spec.evaluated[name])

    def selected(self) -> tuple[int, Any, ClientStateStore | None]:
        """The round whose parameters meet the test clients, a state with them, and what clients kept then."""
        client_states = self.simulation.client_states
        if self.spec.selects_best and self.best is not None:
            state = self.state._replace(global_params=self.best.global_params)
            return self.best.round, state, client_states and client_states.at(self.best.client_states_mark)
        return self.done, self.state, client_states

    def _evaluations(self, state: ServerState) -> dict[str, Evaluation]:
        client_states = self.simulation.client_states
        return {name: self.evaluated(state, client_states, name) for name in self.spec.while_training()}

    def _compile_evaluation(self) -> None:
        """Evaluates one client of each validation set for the program that it compiles, beside the first
        rounds.

        What goes wrong here does so again where the evaluation is wanted, and is told there.
        """
        spec = self.spec
        self.begun.wait()
        with suppress(Exception):
            client_states = self.simulation.client_states
            for name in spec.while_training():
                clients = spec.evaluated[name]
                if client_states is not None and client_states.knows(clients.keys):
                    continue  # what they keep is read by another program, and not while rounds change it
                large = heavy(self.state.global_params, spec.algorithm.model.tables)
                plan = plan_evaluation(clients.num_examples, large)
                self._evaluate_some(self.state, None, name, clients.take([0]), plan)

    def _evaluate_some(
        self,
        state: ServerState,
        client_states: ClientStateStore | None,
        name: str,
        clients: Clients,
        plan: Plan | None = None,
    ) -> Evaluation:
        """Clients of a set, under the protocol that its name tells."""
        spec, split = self.spec, self.spec.split_of(name)
        return measure(
            spec.algorithm,
            state,
            clients,
            split=split,
            seed=spec.seed,
            plan=plan,
            client_states=client_states,
            scoring=spec.scoring,
        )

    def _after(self, round: Round) -> None:
        number, last = round.number, round.number == self.last
        self._pending.append(round._replace(state=cast(Any, None)))
        if len(self._pending) > LAG:
            # No further ahead: every round in flight holds a state, and Ctrl-C would wait for all of them.
            jax.block_until_ready(self._pending[-1 - LAG].block_metrics)
        if self.stopwatch.first_round is None:
            jax.block_until_ready(round.state)
            self.stopwatch.first()
            self.begun.set()
        evaluating = self._evaluates(number)
        saving = last or number % self.spec.checkpoint_every == 0
        if evaluating or saving:
            self._look(0)
        elif time.monotonic() - self._looked > LOOK_EVERY:
            self._look(LAG)
        if self.ledger is not None and (evaluating or saving):
            # What is released is on the disk before anyone can see it, so that it is never computed again.
            self.done, self.state = number, round.state
            self._save()
        report = self._evaluate(number, round.state) if evaluating else None
        self.evaluations = report.evaluations if report is not None else {}
        self.done, self.state = number, round.state
        if saving and self.ledger is None:
            self._save()
        if report is not None:
            for callback in self.callbacks:
                callback(report)
        if self.tuner is not None and not last:
            self.tuner.after(number, round.state, self.stopwatch.compilation(), not self._ahead.is_alive())

    def _evaluates(self, number: int) -> bool:
        return number == self.last or (number > 0 and number % self.spec.evaluate_every == 0)

    def _look(self, leave: int) -> None:
        """Fetches the metrics of all but the last few rounds."""
        while len(self._pending) > leave:
            round = self._pending[0]
            means = {name: (float(mean.total), float(mean.weight)) for name, mean in round.metrics().items()}
            self._pending.popleft()
            self.records.append(training_rows(round, means))
            for name, (total, weight) in means.items():
                before = self._since.get(name, (0.0, 0.0))
                self._since[name] = (before[0] + total, before[1] + weight)
            if self.ledger is not None:
                number = round.number
                self.records.append(self.ledger.rows(number, costly=self._evaluates(number)))
            self.progress.round(round.number, mean_of(*means["loss"]) if "loss" in means else math.nan)
        self.records.write()
        self._looked = time.monotonic()

    def _evaluate(self, number: int, state: ServerState) -> Evaluated:
        evaluations = self._evaluations(state)
        for name, evaluation in evaluations.items():
            self.records.append(rows(number, *place(name), evaluation.summary()))
        seconds = self.stopwatch.seconds()
        self.records.append([Row(number, "train", TRAINING, "total", "seconds", seconds)])
        self.records.write()
        if self.criterion is not None:
            # The first clients decide which parameters are the best.
            metric, direction = self.criterion.metric, self.criterion.direction
            value = next(iter(evaluations.values())).over_examples()[metric]
            if self.best is None or math.isnan(self.best.value) or direction.better(value, self.best.value):
                client_states = self.simulation.client_states
                mark = None
                if client_states is not None:
                    mark = client_states.mark(number)
                    client_states.hold(mark)
                self.best = Best(number, metric, value, state.global_params, mark)
        training = {name: mean_of(*mean) for name, mean in self._since.items()}
        self._since = {}
        if self.ledger is not None:
            training[EPSILON] = self.ledger.ledger(number).epsilon
        report = Evaluated(number, self.spec.rounds, state, training, evaluations, seconds)
        self.progress.evaluated(report)
        return report

    def _save(self) -> None:
        """Commits the records and then the state: a state never lacks its records."""
        self.records.commit()
        if self.checkpoints is None or not self.done:
            return
        if self.ledger is not None:
            self.ledger.release(self.done)
        best = None if self.best is None else self.best.to_info()
        info = {"seconds": self.stopwatch.seconds(), "best": best, DIGEST: self.spec.vocabularies}
        info[RECORDS] = self.records.mark
        client_states = self.simulation.client_states
        if client_states is not None:
            info["kept"] = client_states.commit(self.done)
        self.checkpoints.save(self.done, self._tree(), info)
        if client_states is not None:
            saved = [self.checkpoints.info(round) for round in self.checkpoints.rounds()]
            marks = [x.get("kept") for x in saved] + [(x.get("best") or {}).get("kept") for x in saved]
            client_states.remove_all_but([mark for mark in marks if mark is not None])

    def _tree(self) -> dict[str, Any]:
        tree = {"state": self.state}
        if self.spec.selects_best:
            tree["best"] = self.state.global_params if self.best is None else self.best.global_params
        return tree
