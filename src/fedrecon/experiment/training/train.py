"""Training from Python: `train`, which the package exports."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any, Literal

from fedrecon.algorithms._base import Algorithm
from fedrecon.core._splits import Split
from fedrecon.data._clients import Clients
from fedrecon.data._sampling import Sampling, Uniform
from fedrecon.errors import of_kind
from fedrecon.evaluation._evaluate import evaluation_split_of
from fedrecon.experiment.console.notebook import automatic_progress
from fedrecon.experiment.console.progress import Progress
from fedrecon.experiment.reporting.result import Interrupted, Result
from fedrecon.experiment.reporting.training_warnings import all_warnings
from fedrecon.experiment.training.evaluation_rows import Evaluated
from fedrecon.experiment.training.run import run
from fedrecon.experiment.training.run_spec import RunSpec
from fedrecon.simulation._block_plan import Plan


def train(
    algorithm: Algorithm,
    clients: Clients,
    rounds: int,
    *,
    sampling: Sampling | None = None,
    clients_per_round: int | None = None,
    seed: int = 0,
    evaluate: Mapping[str, Clients] | Clients | None = None,
    evaluation_split: Split | None = None,
    evaluate_every: int = 50,
    test: Clients | None = None,
    held_out: Mapping[str, Clients] | None = None,
    select: str = "final",
    callbacks: Sequence[Callable[[Evaluated], Any]] = (),
    out: str | PathLike[str] | None = None,
    checkpoint_every: int = 50,
    initial_global_params: Any = None,
    plan: Plan | None = None,
    progress: Progress | Literal["auto"] | None = None,
) -> Result:
    """Trains an algorithm, evaluates it on unseen clients, and records all numbers.

    Under JAX's distributed runtime every process calls it with the same arguments; only the first one writes
    the run folder and shows the progress.

    With `out`, a run that was killed goes on from its last checkpoint when it is started again with the
    same arguments, and ends with the same bits as if it had not been killed. Ctrl-C saves the last complete
    round, and raises `Interrupted`, which has the result so far.

    Args:
        algorithm: The algorithm that is trained.
        clients: The training clients.
        rounds: The number of rounds, at least 1.
        sampling: The sampling that draws the cohorts; by default `Uniform(clients_per_round)`.
        clients_per_round: The number of clients in a cohort; by default 100, or all clients if there are
            fewer. It cannot be given together with `sampling`.
        seed: The seed of all draws; 0 by default.
        evaluate: Unseen clients to evaluate while training, by the name of their set; clients without a name
            are called `"validation"`. None, the default, evaluates none.
        evaluation_split: The split of unseen clients' examples into support and query set in evaluation; by
            default that of the algorithm, or alternate batches of 5 where it has none that leaves examples
            for the query set alone.
        evaluate_every: Rounds between evaluations, 50 by default; the last round is always evaluated.
        test: Unseen clients to evaluate once, at the end; None, the default, for none.
        held_out: Training clients with marked examples that are not trained on, as `hold_out` makes them:
            `"validation"` to evaluate while training, `"test"` at the end. None, the default, for none.
        select: Whether the test clients are evaluated with the `"final"` parameters (the default), or with
            those of the `"best"` evaluation of the first clients in `evaluate`. The best is decided by the
            metric that is read first: RMSE, accuracy, perplexity, else the first that the model measures.
            `"best:METRIC"` names another one, and `"best:METRIC:max"` or `"best:METRIC:min"` one of which
            the library does not know which way it is better.
        callbacks: Functions that are called with `Evaluated` after every evaluated round; none by default.
        out: The run folder, which is made where it does not exist. None, the default, keeps nothing on the
            disk.
        checkpoint_every: Rounds between checkpoints, 50 by default: the most that a resume computes again.
        initial_global_params: The global parameters before the first round; None, the default, for those that
            the model initialises.
        plan: The plan by which cohorts are cut into blocks; None, the default, takes that of the run folder,
            or chooses one for the clients.
        progress: Receives every round and evaluation, to show them; `"auto"` for a live line in Jupyter, a
            bar on a terminal, and nothing elsewhere. None, the default, shows nothing.

    Returns:
        The parameters, the evaluations and every recorded number by round.

    Warns:
        RuntimeWarning: The run diverged, see `Result.divergence`; examples of evaluated clients were left
            out, of ids unknown to the training clients; updates were not finite and were dropped, or most had
            no query example; all metrics of a set of clients are NaN or infinite; or clients are both trained
            and tested on.

    Raises:
        TypeError: An argument is of another type.
        ValueError: A number is out of its range, or two arguments exclude each other.
        RunError: The run folder cannot be written, or belongs to another run.
        CheckpointError: The last checkpoint of the run folder is cut short.

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
    of_kind(Algorithm, algorithm=algorithm)
    if not (progress is None or progress == "auto" or isinstance(progress, Progress)):
        raise TypeError(f"progress must be 'auto', None or of the class Progress, got {progress!r}")
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
        split=evaluation_split_of(algorithm) if evaluation_split is None else evaluation_split,
        evaluate_every=evaluate_every,
        select=select,
        checkpoint_every=checkpoint_every,
        initial_global_params=initial_global_params,
    )
    for text in spec.warnings():
        warnings.warn(text, RuntimeWarning, stacklevel=2)
    shown = automatic_progress() if progress == "auto" else progress
    result = run(spec, out=out, callbacks=callbacks, plan=plan, progress=shown)
    for text in all_warnings(replace(result, warnings=()), many=0.5):
        warnings.warn(text, RuntimeWarning, stacklevel=2)
    if result.interrupted:
        raise Interrupted(result)
    return result
