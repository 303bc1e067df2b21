"""Builds the specification of a run from a configuration: data, model, algorithm and sampling."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np

from fedrecon._safe_text import counted
from fedrecon.algorithms._base import Algorithm
from fedrecon.core._model import Model
from fedrecon.data._sampling import Everyone, Passes, Poisson, Sampling, Uniform, Weighted
from fedrecon.errors import RunError
from fedrecon.experiment.config import Config
from fedrecon.experiment.settings.privacy import PrivacySettings
from fedrecon.experiment.settings.sections import SettingError
from fedrecon.experiment.storage.checkpoint import Checkpoints
from fedrecon.experiment.storage.digests import read_json
from fedrecon.experiment.storage.metrics_log import SEEN
from fedrecon.experiment.storage.noise_keys import RELEASES
from fedrecon.experiment.storage.run_folder import (
    CHECKPOINTS,
    RESULT,
    VOCABULARIES,
    saved_digests,
)
from fedrecon.experiment.tasks._spec import task_spec
from fedrecon.experiment.tasks._task import Task
from fedrecon.experiment.training.npz import read_npz
from fedrecon.experiment.training.run_spec import START, RunSpec, digest
from fedrecon.experiment.training.vocabularies import vocabularies_of
from fedrecon.privacy._ledger import Ledger

# The file of the ledger of a private deployment, beside the parameters that it leaves.
LEDGER = "privacy.json"
SAMPLINGS: dict[str, Callable[[int], Sampling]] = {
    "uniform": Uniform,
    "poisson": Poisson,
    "weighted": Weighted,
    "passes": Passes,
    "fixed_passes": functools.partial(Passes, order="fixed"),
}
_GLOBAL_BIAS = "model.global_bias"
# Settings of privacy that private runs of earlier versions did not have, with their defaults.
_LATER_PRIVACY = {
    "noise_bands": "auto",
    "clip_quantile": "none",
    "row_selection": "none",
    "row_threshold": 3.0,
    "min_contributors": "none",
}
# The same of the simulated devices.
_LATER_DEVICES: dict[str, float] = {"max_staleness": 0, "staleness_exponent": 0.5}


def task_of(config: Config) -> Task:
    """Reads or generates the data, and builds the model for them.

    Raises:
        DataError: The data cannot be read.
        SettingError: The data lack what the settings ask for.
    """
    return cast(Task, config.algorithm.prepare(built_task(config), config.seed))


def built_task(config: Config) -> Task:
    """The task as its specification builds it, before the algorithm prepares it for its training.

    Raises:
        DataError: The data cannot be read.
        SettingError: The data lack what the settings ask for.
    """
    return task_spec(config.task).build(config)


def sampling_of(config: Config, num_clients: int) -> Sampling:
    """The sampling of cohorts that a configuration sets.

    Args:
        config: The configuration of the experiment.
        num_clients: The number of training clients.

    Raises:
        SettingError: There are fewer clients than a cohort asks for.
    """
    training = config.training
    if training.sampling == "everyone":
        return Everyone()
    if training.sampling == "up_to":
        return Uniform(min(training.clients_per_round, num_clients))
    sampling: Sampling
    if training.sampling == "availability":
        try:
            sampling = config.devices.build(training.clients_per_round)
        except ValueError as error:
            raise SettingError(f"devices: {error}") from None
    else:
        sampling = SAMPLINGS[training.sampling](training.clients_per_round)
    if isinstance(sampling, Poisson) and config.privacy.on:
        # Under a ledger the probability is a public number, which the clients at hand do not change.
        sampling = Poisson(probability=min(1.0, training.clients_per_round / num_clients))
    try:
        sampling.check(num_clients)
    except ValueError as error:
        raise SettingError(f"training.clients_per_round: {error}") from None
    return sampling


def served_algorithm_of(config: Config, task: Task) -> Algorithm:
    """The algorithm as it serves clients, whose `personalize` is that of the trained one.

    Compression, noise and rules of aggregation concern what clients send: nothing of them is read when a
    client is served. What compression makes clients keep is therefore not needed, either.
    """
    return config.algorithm.build_for(task)


def algorithm_of(config: Config, task: Task) -> Algorithm:
    """The algorithm as clients run it, without what the server adds: noise, and rules of aggregation.

    The states that it has of clients are those that the run keeps.

    Raises:
        SettingError: The compression does not fit the algorithm.
    """
    return config.compression.apply(served_algorithm_of(config, task))


def spec_of(config: Config, task: Task) -> RunSpec:
    """The training run that a configuration describes.

    Raises:
        SettingError: A setting does not fit the data or the others.
    """
    training, evaluation = config.training, config.evaluation
    if evaluation.select != "final" and task.validation is None and "validation" not in task.held_out:
        raise SettingError(
            f'evaluation.select must be "final" without validation clients, got "{evaluation.select}"'
        )
    _check_sets(config, task)
    algorithm = algorithm_of(config, task)
    initial = None
    if training.initial_global_params:
        start = Path(training.initial_global_params)
        _check_vocabularies(start, task)
        # The algorithm's view of the model may have more global parameters than the model itself.
        initial = global_params_at(start, algorithm.model)
    sampling = sampling_of(config, len(task.train))
    if config.privacy.on:
        inputs = _public_inputs(config, task)
        earlier = earlier_ledger(Path(training.initial_global_params), task) if initial is not None else None
        if earlier is not None:
            inputs[START] = f"{training.initial_global_params}, whose ledger is taken over"
        algorithm = config.privacy.protect(
            algorithm, training.rounds, sampling, len(task.train), inputs, earlier
        )
    else:
        algorithm = config.privacy.without_noise(algorithm)
    algorithm = config.aggregation.apply(algorithm)
    measured = task.measured_sets()
    if algorithm.exchanges == "examples":
        # The training set is mini-batches, which do not tell whose examples they are.
        del measured["train"]
    return RunSpec(
        algorithm=algorithm,
        clients=task.train,
        rounds=training.rounds,
        sampling=sampling,
        seed=config.seed,
        validation={} if task.validation is None else {"validation": task.validation},
        test=task.test,
        held_out=task.held_out,
        scoring=task.scoring,
        split=evaluation.split.build(),
        evaluate_every=evaluation.every,
        select=evaluation.select,
        checkpoint_every=training.checkpoint_every,
        initial_global_params=initial,
        clients_per_block=None if training.clients_per_block == "auto" else training.clients_per_block,
        measured=measured,
        baselines=task.baselines,
        settings_from_data=task.settings_from_data,
        settings=_settings(config),
    )


def _check_sets(config: Config, task: Task) -> None:
    """Refuses a set without a client, which fractions of few clients leave.

    Raises:
        SettingError: A set that was asked for is empty; the message names the setting of the fractions.
    """
    sets = {name: len(clients) for name, clients in task.sets().items() if not name.startswith(SEEN)}
    empty = [name for name, count in sets.items() if not count]
    if not empty:
        return
    total = counted(sum(sets.values()), "client")
    for name, section in (("data", config.data), ("data.protocol", getattr(config.data, "protocol", None))):
        if hasattr(section, "fractions"):
            raise SettingError(
                f"{name}.fractions must leave a client in each set, but of the {total} of the data none is "
                f"in {empty[0]!r}: give it a larger share, or 0 to go without"
            )
    raise SettingError(f"task {config.task!r} must have a client in each set, but none is in {empty[0]!r}")


def _settings(config: Config) -> dict[str, Any]:
    """The settings to write in the run folder; without those that earlier versions lacked, at their defaults.

    Folders of these versions can then go on.
    """
    settings = config.model_dump()
    if config.privacy == PrivacySettings():
        del settings["privacy"]
    else:
        _leave_out(settings["privacy"], _LATER_PRIVACY)
    for name in ("compression", "aggregation"):  # which runs of earlier versions did not have
        if getattr(config, name) == type(getattr(config, name))():
            del settings[name]
    if config.training.sampling != "availability":
        del settings["devices"]
    else:
        _leave_out(settings["devices"], _LATER_DEVICES)
    if getattr(config.model, "accuracy_within", None) == "stars":
        del settings["model"]["accuracy_within"]
    if getattr(config.model, "own_words", None) == 0:
        del settings["model"]["own_words"]
    return settings


def _leave_out(section: dict[str, Any], defaults: Mapping[str, Any]) -> None:
    for name, default in defaults.items():
        if section[name] == default:
            del section[name]


def _public_inputs(config: Config, task: Task) -> dict[str, str]:
    """The inputs of a private run beside its clients' deltas, each with its public source.

    Raises:
        SettingError: An input comes from the clients' examples, which are not public.
    """
    if getattr(config.model, "global_bias", None) == "mean":
        raise SettingError(
            f"{_GLOBAL_BIAS} must be a public number for a private run, such as the middle of the scale, got "
            f"'mean': that of the training ratings"
        )
    inputs = {"clients": "their number", "hyperparameters": "the experiment's settings"}
    if config.training.initial_global_params:
        inputs["initial_global_params"] = config.training.initial_global_params
    for field in task.train.vocabularies:
        if field not in task.public_sources:
            raise SettingError(
                f"privacy: the vocabulary of {field!r} must come from a public list, but the task "
                f"{config.task} takes it from the clients' examples"
            )
        inputs[f"vocabulary of {field!r}"] = task.public_sources[field]
    return inputs


def earlier_ledger(start: Path, task: Task) -> Ledger | None:
    """The ledger of the run that a private run starts from; None for a run on other clients.

    A file has that of the deployment which wrote it, if one lies beside it, and else none.

    Clients are the same by the digest of the whole training set: another split of the same people is not
    noticed, nor where the parameters of a file come from.

    Args:
        start: The run folder, or an `.npz` file.
        task: The task of the private run.

    Raises:
        RunError: The run to start from was private and is not finished, so that no ledger tells all that it
            released.
        SettingError: The run to start from was trained on the same clients without privacy.
    """
    if not start.is_dir():
        beside = start.with_name(LEDGER)
        return Ledger.from_values(read_json(beside)) if beside.is_file() else None
    if (start / RELEASES).is_file():
        result = read_json(start / RESULT) if (start / RESULT).is_file() else None
        # The result of an interrupted run is behind what the run released after it was resumed.
        latest = Checkpoints(start / CHECKPOINTS).latest() or 0
        if result is None or not result["finished"] or latest > result["rounds"]:
            raise RunError(
                f"{start}: a private run that another starts from must have a {RESULT} of all its rounds: "
                f"resume it"
            )
        return Ledger.from_values(result["privacy"])
    there = saved_digests(start).get("train")
    if there is not None and there == digest(task.train, there):
        raise SettingError(
            f"training.initial_global_params must not come from a run without privacy on the same clients, "
            f"got {start}: its parameters hold what noise is to hide"
        )
    return None


def _check_vocabularies(start: Path, task: Task) -> None:
    """Refuses another run's parameters if rows of its tables stand for other ids than they do here."""
    vocabularies = vocabularies_of(start)
    for field, ids in task.train.vocabularies.items():
        here, there = np.asarray(ids).tolist(), vocabularies.get(field)
        if there is None or here == there:
            continue
        rows = (i for i, pair in enumerate(zip(there, here, strict=False)) if pair[0] != pair[1])
        i = next(rows, min(len(here), len(there)))
        shown = [repr(names[i]) if i < len(names) else "nothing" for names in (there, here)]
        raise RunError(
            f"{start / VOCABULARIES}: training.initial_global_params must be of a run with the same "
            f"vocabulary of {field!r}, but its entry {i} is {shown[0]} and here it is {shown[1]}"
        )


def global_params_at(path: Path, model: Model) -> Any:
    """The model's global parameters from a run folder or an `.npz` file with an array for each leaf.

    Args:
        path: A run folder, whose last checkpoint is used (its best parameters, if the run selects those); or
            a file whose arrays are named by the paths of the leaves, such as `item/factors`.
        model: The model that the parameters belong to.

    Raises:
        RunError: There is no such file, or it lacks a leaf or has it in another shape or type.
    """
    what = "training.initial_global_params"
    like = jax.eval_shape(model.init_global, jax.random.key(0))
    paths = [path for path, _ in jax.tree.leaves_with_path(like)]
    if path.is_dir():
        checkpoints = Checkpoints(path / CHECKPOINTS)
        latest = checkpoints.latest()
        if latest is None:
            raise RunError(f"{path}: {what} must name a run with a checkpoint, this has none")
        arrays = checkpoints.arrays(latest)
        best = any(name.startswith("['best']") for name in arrays)
        prefix = "['best']" if best else "['state'].global_params"
        names = [prefix + jax.tree_util.keystr(p) for p in paths]
        there = sorted(arrays)
    else:
        names = [jax.tree_util.keystr(p, simple=True, separator="/") for p in paths]
        arrays, there = read_npz(path, dict(zip(names, jax.tree.leaves(like), strict=True)), what)
    leaves = []
    for name, wanted in zip(names, jax.tree.leaves(like), strict=True):
        if name not in arrays:
            raise RunError(f"{path}: {what} must hold the array {name!r}, it has {there}")
        if arrays[name].shape != wanted.shape:
            raise RunError(f"{path}: {name} must be of shape {wanted.shape}, got {arrays[name].shape}")
        if arrays[name].dtype == np.dtype(f"V{wanted.dtype.itemsize}"):
            # NumPy's files keep the bytes of types that it does not know, such as bfloat16, but no name.
            arrays[name] = arrays[name].view(wanted.dtype)
        if jax.dtypes.canonicalize_dtype(arrays[name].dtype) != wanted.dtype:
            raise RunError(f"{path}: {name} must be of type {wanted.dtype}, got {arrays[name].dtype}")
        leaves.append(arrays[name].astype(wanted.dtype))
    return jax.tree.unflatten(jax.tree.structure(like), leaves)
