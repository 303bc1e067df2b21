"""Training with evaluation, records, checkpoints and a report: what the command line calls."""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib import import_module
from os import PathLike
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np

from fedrecon.algorithms._base import Algorithm, ServerState
from fedrecon.core._examples import AlternateBatches, Split
from fedrecon.data._clients import Clients
from fedrecon.data._pooling import raw_bytes
from fedrecon.data._sampling import Sampling, Uniform
from fedrecon.errors import of_kind
from fedrecon.evaluation._evaluation import Evaluation
from fedrecon.experiment.console.progress import Progress
from fedrecon.experiment.distributed.broadcast import saved_plan
from fedrecon.experiment.distributed.processes import ProcessGroup
from fedrecon.experiment.reporting.result import Interrupted, Result
from fedrecon.experiment.reporting.training_warnings import all_warnings
from fedrecon.experiment.settings.sections import flat
from fedrecon.experiment.storage import run_folder as folders
from fedrecon.experiment.storage.checkpoint import Checkpoints
from fedrecon.experiment.storage.environment import environment
from fedrecon.experiment.storage.metrics_log import METRICS, Records, Row, place, rows
from fedrecon.experiment.storage.resource_usage import Stopwatch, device_memory, peak_memory
from fedrecon.experiment.storage.run_folder import RunFolder
from fedrecon.experiment.training.block_plan_tuning import BlockPlanTuner
from fedrecon.experiment.training.divergence import divergence, last_evaluations
from fedrecon.experiment.training.evaluation_rows import Evaluated
from fedrecon.experiment.training.loop import TrainingLoop
from fedrecon.experiment.training.run_ledger import RunLedger
from fedrecon.experiment.training.run_report import require_files, write_report
from fedrecon.experiment.training.run_spec import RunSpec
from fedrecon.simulation._block_plan import Plan
from fedrecon.simulation._client_state_store import ClientStateStore
from fedrecon.simulation._simulation import Simulation
from fedrecon.simulation._trained_state import TrainedState

ALTERNATE_BATCHES = AlternateBatches(5)


def train(
    algorithm: Algorithm,
    clients: Clients,
    rounds: int,
    *,
    sampling: Sampling | None = None,
    clients_per_round: int | None = None,
    seed: int = 0,
    evaluate: Mapping[str, Clients] | Clients | None = None,
    evaluation_split: Split = ALTERNATE_BATCHES,
    evaluate_every: int = 50,
    test: Clients | None = None,
    held_out: Mapping[str, Clients] | None = None,
    select: str = "final",
    callbacks: Sequence[Callable[[Evaluated], Any]] = (),
    out: str | PathLike[str] | None = None,
    checkpoint_every: int = 50,
    initial_global_params: Any = None,
    plan: Plan | None = None,
    progress: Progress | None = None,
) -> Result:
    """Trains an algorithm, evaluates it on unseen clients, and keeps a record.

    Under JAX's distributed runtime every process calls it with the same arguments; the first one alone
    writes the run folder and tells of progress.

    With `out`, a run that was killed goes on from its last checkpoint when it is started again with the
    same arguments, and ends with the same bits as if it had not been killed. Ctrl-C saves what is there, and
    raises `Interrupted`, which has it.

    Args:
        algorithm: What is trained.
        clients: The training clients.
        rounds: How many rounds, at least 1.
        sampling: Of the cohorts; by default `Uniform(clients_per_round)`.
        clients_per_round: By default 100, or all clients if they are fewer.
        seed: Of all draws.
        evaluate: Unseen clients to evaluate while training, by name; without a name it is `"validation"`.
        evaluation_split: Support and query set in evaluation.
        evaluate_every: Rounds between evaluations; the last round is always evaluated.
        test: Unseen clients to evaluate once, at the end.
        held_out: Training clients with marked examples that are not trained on, as `hold_out` makes them:
            `"validation"` to evaluate while training, `"test"` at the end.
        select: Whether the `"final"` parameters meet the test clients, or those of the `"best"` evaluation
            of the first clients in `evaluate`. The best is decided by the metric that is read first: RMSE,
            accuracy, perplexity, else the first that the model measures. `"best:METRIC"` names another one,
            and `"best:METRIC:max"` or `"best:METRIC:min"` one of which the library does not know which way
            it is better.
        callbacks: Called with `Evaluated` after every evaluated round.
        out: The run folder; made where it does not exist. None keeps nothing on the disk.
        checkpoint_every: Rounds between checkpoints: the most that a resume computes again.
        initial_global_params: Where training starts; by default the model's own start.
        plan: How cohorts are cut into blocks; by default chosen for the clients, or the run folder's.
        progress: Who is told of every round; by default nobody.

    Returns:
        The parameters, the evaluations and every number by round.

    Warns:
        RuntimeWarning: The run diverged, see `Result.divergence`; examples of evaluated clients were left
            out, of ids unknown to the training clients; updates were not finite and were dropped, or most had
            no query example; all metrics of a set of clients are NaN or infinite; or clients are both trained
            and tested on.

    Raises:
        Interrupted: Ctrl-C ended it, after its last complete round was saved. It is a `KeyboardInterrupt`.
        TypeError: An argument is of another kind.
        ValueError: A number is out of its range.
        RunError: The run folder cannot be written, or belongs to another run.
        CheckpointError: Its last checkpoint is cut short.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedrecon import Clients, Mean, Model, Solver, fedrecon, optimizer
        >>> def loss(g, local, batch, key=None):
        ...     return Mean.of((g + local - batch["y"]) ** 2)
        >>> model = Model(
        ...     init_global=lambda key: jnp.zeros(()),
        ...     init_local=lambda g, key: jnp.zeros(()),
        ...     loss=loss,
        ...     metrics=lambda g, local, batch: {"mse": loss(g, local, batch)},
        ... )
        >>> sgd = Solver(optimizer("sgd", learning_rate=0.1), batch_size=5)
        >>> algorithm = fedrecon(model, sgd, sgd, optimizer("sgd", learning_rate=1.0))
        >>> clients = Clients.from_arrays({i: {"y": [3.0] * 10} for i in range(8)})
        >>> result = train(algorithm, clients.take(range(6)), rounds=40, evaluate=clients.take([6, 7]))
        >>> result
        Result(40 of 40 rounds, validation rmse=0.00...)
        >>> round(float(result.global_params), 2)
        3.0
    """
    if sampling is not None and clients_per_round is not None:
        raise ValueError("either sampling or clients_per_round must be given, got both")
    of_kind(Clients, clients=clients)
    if sampling is None:
        sampling = Uniform(max(1, min(100, len(clients))) if clients_per_round is None else clients_per_round)
    if isinstance(evaluate, Clients):
        evaluate = {"validation": evaluate}
    spec = RunSpec(
        algorithm=algorithm,
        clients=clients,
        rounds=rounds,
        sampling=sampling,
        seed=seed,
        validation=evaluate or {},
        test=test,
        held_out=held_out or {},
        split=evaluation_split,
        evaluate_every=evaluate_every,
        select=select,
        checkpoint_every=checkpoint_every,
        initial_global_params=initial_global_params,
    )
    for text in spec.warnings():
        warnings.warn(text, RuntimeWarning, stacklevel=2)
    result = run(spec, out=out, callbacks=callbacks, plan=plan, progress=progress)
    for text in all_warnings(replace(result, warnings=()), many=0.5):
        warnings.warn(text, RuntimeWarning, stacklevel=2)
    if result.interrupted:
        raise Interrupted(result)
    return result


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
) -> Result:
    """Does a job; see `train`.

    Args:
        spec: What to do.
        out: The run folder.
        callbacks: Called with `Evaluated`.
        plan: How cohorts are cut into blocks.
        progress: Who is told of every round.
        listener: Who is told of every number that is recorded.
        started: When the run began, by `time.monotonic`.
        title: Of the summary and the figures.
        notes: What else the summary says.
    """
    spec.criterion  # noqa: B018 - is refused before there is a run folder, where it is not known
    with ExitStack() as stack:
        processes = ProcessGroup.present()
        stack.enter_context(processes.together())
        if processes.count > 1:
            processes.agree(_agreed(spec))
        if not processes.first:
            out, progress, listener = None, None, None
        folder = None
        if out is not None:
            folder = RunFolder(Path(out), spec.configuration(), spec.fingerprint())
            stack.callback(folder.close)
            require_files(folder)
        stopwatch = Stopwatch(started)
        stack.callback(stopwatch.close)
        shown = stack.enter_context(progress or Progress())
        free = plan is None and spec.clients_per_block is None
        ledger = RunLedger.of(spec, folder)
        simulation = Simulation(
            spec.algorithm,
            spec.clients,
            spec.sampling,
            seed=spec.seed,
            plan=saved_plan(folder, processes) or plan,
            client_states_folder=None if folder is None else folder.path / folders.CLIENT_STATES,
            clients_per_block=spec.clients_per_block,
            secret=None if ledger is None else ledger.secret,
        )
        if folder is not None:
            _describe(folder, simulation.plan, spec)
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
        )
        if folder is not None:
            loading = Thread(target=_load_ahead, args=[loop.begun])
            loading.start()
            stack.callback(loading.join)
            stack.callback(loop.begun.set)  # before that, if no round came so far
        loop.restore()
        if loop.resumed_from is not None or loop.recomputed:
            shown.note(loop.resumption())
        loop.run()
        selected_round, state, client_states = loop.selected()
        try:
            evaluations = _final_evaluations(loop, selected_round, state, client_states)
        except KeyboardInterrupt:  # all rounds are done and saved: the next call evaluates
            loop.interrupted, evaluations = True, {}
            loop.records.forget_test()
        result = Result(
            algorithm=spec.algorithm,
            state=TrainedState.of(loop.state, spec.clients.vocabularies),
            global_params=state.global_params,
            evaluations=evaluations,
            records=loop.records,
            rounds=loop.done,
            asked=spec.rounds,
            selected_round=selected_round,
            selected_by=f"best:{loop.criterion}" if loop.criterion is not None else "final",
            interrupted=loop.interrupted,
            seconds={
                "total": stopwatch.seconds(),
                "compilation": stopwatch.compilation(),
                "to_first_round": stopwatch.first_round,
            },
            peak_memory=peak_memory(),
            device_memory=device_memory(),
            compilations=simulation.compilations,
            resumed_from=loop.resumed_from,
            recomputed=loop.recomputed,
            out=None if folder is None else folder.path,
            notes=notes or {},
            raw_data=raw_bytes(spec.clients) if spec.algorithm.exchanges == "examples" else None,
            client_states=client_states,
            privacy=None if ledger is None else ledger.ledger(loop.done),
            warnings=tuple(spec.warnings()),
            divergence=_divergence(loop, evaluations),
        )
        if ledger is not None and loop.done == loop.last:
            ledger.finish()
        if folder is not None:
            write_report(folder, result, title, over=loop.resumed_from == loop.last)
    return result


def _agreed(spec: RunSpec) -> dict[str, Any]:
    """What must be equal in all processes of a run, which may have the data at places of their own."""
    settings = {n: x for n, x in flat(spec.configuration()).items() if not folders.is_place(n)}
    return flat({"settings": settings, **spec.fingerprint()})


def _final_evaluations(
    loop: TrainingLoop, selected_round: int, state: ServerState, client_states: ClientStateStore | None
) -> dict[str, Evaluation]:
    if loop.interrupted:
        return dict(loop.evaluations)
    evaluations = dict(loop.evaluate())
    for name in loop.spec.at_the_end():
        evaluations[name] = loop.evaluated(state, client_states, name)
        loop.records.append(rows(selected_round, *place(name), evaluations[name].summary()))
    loop.records.commit()
    return evaluations


def _divergence(loop: TrainingLoop, evaluations: Mapping[str, Evaluation]) -> str | None:
    if loop.interrupted:
        return None
    spec = loop.spec
    before = (loop.last - 1) // spec.evaluate_every * spec.evaluate_every
    last = last_evaluations(evaluations, spec.while_training())
    return divergence(loop.state.global_params, last, loop.records, before)


def _load_ahead(begun: Event) -> None:
    """Loads what writes checkpoints and figures, which takes a second, beside the rounds."""
    begun.wait()
    for name in ("orbax.checkpoint", "pyarrow.parquet", "fedrecon.experiment.reporting.plots"):
        import_module(name)


def _describe(folder: RunFolder, plan: Plan, spec: RunSpec) -> None:
    if folder.read(folders.ENVIRONMENT) is None:
        folder.write_json(folders.ENVIRONMENT, environment(spec.seed))
    if folder.read(folders.EXAMPLES) is None:
        folder.write_json(folders.EXAMPLES, spec.examples())
    if folder.read(folders.PLAN) is None:
        folder.write_json(folders.PLAN, {"slots": json.loads(plan.to_json())})
    vocabularies = {name: np.asarray(ids).tolist() for name, ids in spec.clients.vocabularies.items()}
    if vocabularies and folder.read(folders.VOCABULARIES) is None:
        folder.write(folders.VOCABULARIES, json.dumps(vocabularies) + "\n")
