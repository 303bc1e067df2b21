"""A run as it serves clients, made of the run folder alone where the task and the algorithm allow it."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedrecon.algorithms._base import Algorithm, ServerState
from fedrecon.core._splits import Split
from fedrecon.evaluation._evaluate import Scoring
from fedrecon.experiment.config import Config, override
from fedrecon.experiment.serving.new_clients import served_fields
from fedrecon.experiment.storage.checkpoint import Checkpoints
from fedrecon.experiment.storage.run_folder import CHECKPOINTS
from fedrecon.experiment.tasks._spec import task_spec
from fedrecon.experiment.tasks._task import Task
from fedrecon.experiment.training.build import global_params_at, served_algorithm_of
from fedrecon.experiment.training.vocabularies import settings_from_data_of, vocabularies_of
from fedrecon.simulation._client_state_store import ClientStateStore
from fedrecon.simulation._trained_state import TrainedState


class ServedRun(NamedTuple):
    """A run as it serves clients.

    Attributes:
        algorithm: The algorithm whose `personalize` serves them.
        state: A server state with the run's parameters: the last ones, or the best ones if it selects these.
        round: The round of the parameters.
        fields: The fields that the run serves clients by.
        split: The split into support and query set in the evaluation of unseen clients.
        scoring: The function that measures evaluated clients.
        seed: The seed of the clients' draws.
        client_states: The states of the training clients; None, the default, for a stateless algorithm.
    """

    algorithm: Algorithm
    state: ServerState
    round: int
    fields: tuple[str, ...]
    split: Split
    scoring: Scoring
    seed: int
    client_states: ClientStateStore | None = None


def from_folder(run: Path, config: Config) -> ServedRun | None:
    """A run as it serves clients, without a look at its training data.

    Args:
        run: The run folder.
        config: The configuration of the run.

    Returns:
        None where the folder is not enough: it has no checkpoint, or one of a version that did not note what
        the model took from the data; the task needs its data; or the algorithm keeps states of the training
        clients or rows of their parameters.

    Raises:
        RunError: A file of the folder is damaged, or its parameters are not of the model.
    """
    checkpoints = Checkpoints(run / CHECKPOINTS)
    latest = checkpoints.latest()
    if latest is None:
        return None
    task = task_from_folder(run, config)
    if task is None:
        return None
    algorithm = served_algorithm_of(config, task)
    key = jax.random.key(0)
    kept = jax.eval_shape(lambda k: algorithm.init_client_state(algorithm.model.init_global(k), k), key)
    if jax.tree.leaves(kept) or algorithm.exchanges == "examples":
        return None
    params = jax.tree.map(jnp.asarray, global_params_at(run, algorithm.model))
    best = checkpoints.describe_info(latest)["best"]
    round = latest if best is None else best["round"]
    state = algorithm.init(key, params)._replace(round=jnp.asarray(latest, jnp.int32))
    ids = vocabularies_of(run) or task.train.vocabularies
    return ServedRun(
        algorithm,
        TrainedState.of(state, ids),
        round,
        served_fields(task),
        config.evaluation.split.build(),
        task.scoring,
        config.seed,
    )


def task_from_folder(run: Path, config: Config) -> Task | None:
    """The task of a run without its data: its model, and a client without examples.

    Args:
        run: The run folder, whose vocabularies and settings that came from the data are read.
        config: The configuration of the run.

    Returns:
        None where the task needs its data, or a checkpoint of an earlier version lacks a setting.
    """
    from_data = settings_from_data_of(run)
    settled = override(config, {"model": from_data}) if from_data else config
    return task_spec(config.task).build_to_serve(settled, vocabularies_of(run))
