"""A run from its specification to its result: what `train` and the command line call."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from importlib import import_module
from os import PathLike
from pathlib import Path
from threading import Event, Thread
from typing import Any

import jax
import numpy as np

from fedrecon.algorithms._base import ServerState
from fedrecon.data._pooling import raw_bytes
from fedrecon.evaluation._evaluation import Evaluation
from fedrecon.experiment.console.progress import Progress
from fedrecon.experiment.distributed.broadcast import saved_plan
from fedrecon.experiment.distributed.processes import ProcessGroup
from fedrecon.experiment.reporting.figure_process import FigureDrawer
from fedrecon.experiment.reporting.result import Result
from fedrecon.experiment.settings.sections import flat
from fedrecon.experiment.storage import run_folder as folders
from fedrecon.experiment.storage.checkpoint import Checkpoints
from fedrecon.experiment.storage.environment import environment
from fedrecon.experiment.storage.metrics_log import (
    METRICS,
    NOT_COVERED,
    UNPROTECTED,
    Records,
    Row,
    place,
    rows,
)
from fedrecon.experiment.storage.resource_usage import Stopwatch, device_memory, peak_memory
from fedrecon.experiment.storage.run_folder import RunFolder, saved_digests
from fedrecon.experiment.training.block_plan_tuning import BlockPlanTuner
from fedrecon.experiment.training.divergence import divergence, last_evaluations
from fedrecon.experiment.training.evaluation_rows import Evaluated
from fedrecon.experiment.training.loop import TrainingLoop
from fedrecon.experiment.training.run_ledger import RunLedger
from fedrecon.experiment.training.run_report import require_files, write_report
from fedrecon.experiment.training.run_spec import RunSpec
from fedrecon.simulation._block_plan import Plan
from fedrecon.simulation._client_state_store import ClientStateStore
from fedrecon.simulation._simulation import Simulation, checked_devices
from fedrecon.simulation._trained_state import TrainedState


def run(
    spec: RunSpec,
    *,
    out: str | PathLike[str] | None = None,
    callbacks: Sequence[Callable[[Evaluated], Any]] = (),
    plan: Plan | None = None,
    progress: Progress | None = None,
    listener: Callable[[list[Row]], Any] | None = None,
    started: float | None = None,
    title: str = "Run",
    notes: Mapping[str, str] | None = None,
    figures: FigureDrawer | None = None,
) -> Result:
    """Runs a training run from its specification; `train` describes what it does.

    Args:
        spec: The specification of the run.
        out: The run folder; None, the default, keeps nothing on the disk.
        callbacks: Functions that are called with `Evaluated` after every evaluated round; none by default.
        plan: The plan by which cohorts are cut into blocks; None, the default, chooses one for the clients.
        progress: Receives every round and evaluation, to show them; None, the default, shows nothing.
        listener: A function that is called with the rows of every recorded number; None, the default, for
            none.
        started: When the run began, in seconds of `time.monotonic`; None, the default, for now.
        title: The title of the summary and of the figures; `"Run"` by default.
        notes: Further facts for the summary, by their names; none by default.
        figures: Draws the figures, which a `FigureProcess` may still do when this returns; None, the default,
            to draw them in this process at the end.
    """
    # An unknown metric, and what cannot be simulated, are refused here, before there is a run folder.
    spec.criterion  # noqa: B018
    figures = figures or FigureDrawer()
    with ExitStack() as stack:
        processes = ProcessGroup.present()
        stack.enter_context(processes.together())
        devices = checked_devices(spec.algorithm, spec.clients, spec.sampling)
        if processes.count > 1:
            processes.agree(_values_to_agree_on(spec))
        if not processes.first:
            out, progress, listener = None, None, None
        folder = None
        if out is not None:
            spec.compare_with(saved_digests(Path(out)))
            folder = RunFolder(Path(out), spec.configuration(), spec.fingerprint(), spec.counts())
            stack.callback(folder.close)
            require_files(folder)
        stopwatch = Stopwatch(started)
        stack.callback(stopwatch.close)
        shown = stack.enter_context(progress or Progress())
        ledger = RunLedger.of(spec, folder)
        if len(devices) < jax.local_device_count():
            shown.note(
                f"rounds use one of {jax.local_device_count()} devices, since the server takes each client's "
                f"delta and no sum"
            )
        # The plan of an earlier process of the run comes first: it decides the order of all sums, and with it
        # the last bits of the results, which a resumed run must repeat.
        simulation = _simulation(spec, folder, saved_plan(folder, processes) or plan, ledger)
        if folder is not None:
            describe_run(folder, simulation.plan, spec)
        # Under correlated noise a round that is computed again must be cut into the same blocks.
        steady = ledger is not None and ledger.privacy.noise_bands > 1
        free = plan is None and spec.clients_per_block is None and not steady
        loop = TrainingLoop(
            spec,
            simulation,
            Records(None if folder is None else folder.path / METRICS, listener),
            None if folder is None else Checkpoints(folder.path / folders.CHECKPOINTS),
            stopwatch,
            shown,
            callbacks,
            processes,
            BlockPlanTuner(simulation, spec.rounds, folder, processes, free),
            ledger,
            None if ledger is None else _unprotected_records(spec, folder),
        )
        if folder is not None:
            _load_beside_rounds(loop.evaluator.begun, figures, stack)
        loop.restore()
        if loop.resumed_from is not None or loop.recomputed:
            shown.note(loop.resumption())
        loop.run()
        result = _result(loop, stopwatch, folder, ledger, notes or {})
        if ledger is not None and loop.done == loop.last:
            ledger.finish()
        if folder is not None:
            write_report(folder, result, title, figures, over=loop.resumed_from == loop.last)
    return result


def _values_to_agree_on(spec: RunSpec) -> dict[str, Any]:
    """The settings and digests that must be equal in all processes of a run.

    Paths of data are left out, since they may differ from machine to machine.
    """
    settings = {n: x for n, x in flat(spec.configuration()).items() if not folders.is_place(n)}
    return flat({"settings": settings, **spec.fingerprint()})


def _simulation(
    spec: RunSpec, folder: RunFolder | None, plan: Plan | None, ledger: RunLedger | None
) -> Simulation:
    return Simulation(
        spec.algorithm,
        spec.clients,
        spec.sampling,
        seed=spec.seed,
        plan=plan,
        client_states_folder=None if folder is None else folder.path / folders.CLIENT_STATES,
        clients_per_block=spec.clients_per_block,
        secret=None if ledger is None else ledger.secret,
    )


def _unprotected_records(spec: RunSpec, folder: RunFolder | None) -> Records:
    """The records of what a private run's clients do not send: a file only where it was asked for."""
    if folder is None or spec.algorithm.unprotected_update is None:
        return Records()
    return Records(folder.path / UNPROTECTED, comment=NOT_COVERED)


def describe_run(folder: RunFolder, plan: Plan, spec: RunSpec) -> None:
    """Writes the files that describe a run, unless an earlier process has written them."""
    if folder.read(folders.ENVIRONMENT) is None:
        folder.write_json(folders.ENVIRONMENT, {**environment(spec.seed), folders.SETS: spec.counts()})
    if folder.read(folders.EXAMPLES) is None:
        folder.write_json(folders.EXAMPLES, spec.examples())
    if folder.read(folders.PLAN) is None:
        folder.write_json(folders.PLAN, {"slots": json.loads(plan.to_json())})
    vocabularies = {name: np.asarray(ids).tolist() for name, ids in spec.clients.vocabularies.items()}
    if vocabularies and folder.read(folders.VOCABULARIES) is None:
        folder.write(folders.VOCABULARIES, json.dumps(vocabularies) + "\n")


def _load_beside_rounds(begun: Event, figures: FigureDrawer, stack: ExitStack) -> None:
    """Starts a thread that imports what writes checkpoints and figures, which takes seconds.

    It waits until the first round is done, so that it does not delay that round. The stack joins it.
    """

    def load() -> None:
        begun.wait()
        for name in ("orbax.checkpoint", "pyarrow.parquet"):
            import_module(name)
        figures.prepare()

    thread = Thread(target=load)
    thread.start()
    stack.callback(thread.join)
    # This callback runs before the other one: if there was no round, nothing else would wake the thread.
    stack.callback(begun.set)


def _result(
    loop: TrainingLoop,
    stopwatch: Stopwatch,
    folder: RunFolder | None,
    ledger: RunLedger | None,
    notes: Mapping[str, str],
) -> Result:
    """The result of a loop that has run, after the evaluations at the end."""
    spec, criterion = loop.spec, loop.selection.criterion
    selected_round, state, client_states = loop.selected()
    if loop.interrupted:
        evaluations, baselines = dict(loop.evaluations), {}
    else:
        try:
            evaluations = _final_evaluations(loop, selected_round, state, client_states)
            baselines = {name: loop.evaluator.baselines(name) for name in evaluations}
        except KeyboardInterrupt:
            # All rounds are done and saved: the next call makes the evaluations.
            loop.interrupted, evaluations, baselines = True, {}, {}
            loop.records.forget_test()
    return Result(
        algorithm=spec.algorithm,
        state=TrainedState.of(loop.state, spec.clients.vocabularies),
        global_params=state.global_params,
        evaluations=evaluations,
        baselines=baselines,
        records=loop.records,
        rounds=loop.done,
        asked=spec.rounds,
        selected_round=selected_round,
        selected_by=f"best:{criterion}" if criterion is not None else "final",
        interrupted=loop.interrupted,
        seconds={
            "total": stopwatch.seconds(),
            "compilation": stopwatch.compilation(),
            "to_first_round": stopwatch.first_round,
        },
        peak_memory=peak_memory(),
        device_memory=device_memory(),
        compilations=loop.simulation.compilations,
        resumed_from=loop.resumed_from,
        recomputed=loop.recomputed,
        out=None if folder is None else folder.path,
        notes=notes,
        raw_data=raw_bytes(spec.clients) if spec.algorithm.exchanges == "examples" else None,
        client_states=client_states,
        privacy=None if ledger is None else ledger.ledger(loop.done),
        warnings=tuple(spec.warnings()),
        divergence=_divergence(loop, evaluations),
    )


def _final_evaluations(
    loop: TrainingLoop, round: int, state: ServerState, client_states: ClientStateStore | None
) -> dict[str, Evaluation]:
    """The evaluations after the last round, and those of the selected round that are made at the end."""
    evaluations = dict(loop.evaluate())
    for name in loop.spec.at_the_end():
        evaluations[name] = loop.evaluator.evaluate(state, client_states, name)
        loop.records.append(rows(round, *place(name), evaluations[name].summary()))
    loop.records.commit()
    return evaluations


def _divergence(loop: TrainingLoop, evaluations: Mapping[str, Evaluation]) -> str | None:
    """How the run diverged, as the end of a sentence; None if it did not, or was interrupted."""
    if loop.interrupted:
        return None
    spec = loop.spec
    before = (loop.last - 1) // spec.evaluate_every * spec.evaluate_every
    last = last_evaluations(evaluations, spec.while_training())
    return divergence(loop.state.global_params, last, loop.records, before)
