"""Evaluates the parameters of a run again, on its own data or on other data."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from rich.console import Console

from fedrecon._safe_text import counted
from fedrecon.core._splits import HeldOut, Split
from fedrecon.core._types import Params
from fedrecon.data._clients import Clients
from fedrecon.data._holdout import HELD_OUT
from fedrecon.errors import RunError
from fedrecon.evaluation._evaluate import measure
from fedrecon.evaluation._evaluation import Evaluation
from fedrecon.experiment.config import Config, override, with_overrides
from fedrecon.experiment.console.screen import rich_table
from fedrecon.experiment.distributed.processes import ProcessGroup
from fedrecon.experiment.reporting import summary
from fedrecon.experiment.reporting.client_files import evaluated_file
from fedrecon.experiment.reporting.result import by_protocol
from fedrecon.experiment.serving.new_clients import prepare_new_clients, served_fields
from fedrecon.experiment.serving.served_run import ServedRun, from_folder
from fedrecon.experiment.storage.checkpoint import Checkpoints
from fedrecon.experiment.storage.differing_sets import describe_differing_sets, size_of
from fedrecon.experiment.storage.digests import read_json
from fedrecon.experiment.storage.run_folder import (
    CHECKPOINTS,
    CLIENT_STATES,
    RESULT,
    read_fingerprint,
    saved_counts,
)
from fedrecon.experiment.tasks._task import Task
from fedrecon.experiment.training.build import spec_of, task_of
from fedrecon.experiment.training.divergence import not_finite
from fedrecon.experiment.training.run_spec import RunSpec, counts_of, digest
from fedrecon.experiment.training.vocabularies import vocabularies_of
from fedrecon.simulation._client_state_store import ClientStateStore
from fedrecon.simulation._trained_state import TrainedState


class _Evaluated(NamedTuple):
    """The clients to evaluate, and the run that serves them.

    Attributes:
        served: The run that serves the clients.
        sets: The clients by the name of their set.
        splits: The split of each set into support and query set.
        checked: The values that the processes of an evaluation must agree on: digests of the clients by their
            set.
        remark: A remark for the user on other data, for instance on examples that were left out; `""`, the
            default, where the run's own clients are evaluated.
    """

    served: ServedRun
    sets: Mapping[str, Clients]
    splits: Mapping[str, Split]
    checked: Mapping[str, str]
    remark: str = ""


def evaluate_run(
    run: Path, config: Config, data: str | None, screen: Console, reading: Sequence[str] = ()
) -> dict[str, Evaluation]:
    """Evaluates the last parameters of a run, or its best ones if it selects these, and prints the table.

    Args:
        run: The run folder; the clients' metrics are written there, beside those of the run itself.
        config: The configuration of the run.
        data: The path of the data now, or of other data; None for the path at which the run found them.
        screen: The console that shows the table.
        reading: Settings such as `"data.columns.client=person"` by which other data are read where they
            differ from the run's; none by default.

    Returns:
        The evaluations by the name of the set of clients; `"other"` for clients of other data.

    Raises:
        ValueError: The run has no checkpoint, or the data cannot be used.
    """
    served, sets, splits, checked, remark = _load(run, config, data, reading)
    processes = ProcessGroup.present()
    processes.agree({"round": served.round, **checked} if processes.count > 1 else {})
    screen.print(f"{config.name}: parameters after round {served.round}")
    if remark:
        screen.print(remark)
    evaluations = {
        name: measure(
            served.algorithm,
            served.state,
            clients,
            split=splits[name],
            seed=served.seed,
            client_states=served.client_states,
            scoring=served.scoring,
        )
        for name, clients in sets.items()
    }
    values = by_protocol({name: x.summary() for name, x in evaluations.items()})
    screen.print(rich_table(summary.table(values)))
    for text in (text for name, x in evaluations.items() for text in x.problems(name)):
        screen.print(f"Note: {text}.", markup=False)
    for name, evaluation in evaluations.items() if processes.first else ():
        path = run / evaluated_file(name)
        summary.write_clients(path, evaluation)
        screen.print(f"Clients: {path}")
    return evaluations


def _load(run: Path, config: Config, data: str | None, reading: Sequence[str]) -> _Evaluated:
    """Reads the data to evaluate, and finds out whether they are the run's own."""
    read = with_overrides(config, reading)
    moved = config if data is None else override(read, {"data": {"path": data}})
    task: Task | None
    try:
        task = task_of(moved)
    except ValueError:
        if data is None:
            raise
        # Data that the run could not train on may still hold clients to evaluate.
        task = None
    if task is not None and data is None:
        hold_to_data(run, task, "give data with --data PATH")
    if task is not None and (data is None or same_data(run, task)):
        spec = spec_of(config, task)
        evaluated = {name: clients for name, clients in task.sets().items() if name != "train"}
        splits = {name: spec.split_of(name) for name in evaluated}
        checked = {name: digest(clients) for name, clients in task.sets().items()}
        return _Evaluated(_served(run, spec, task), evaluated, splits, checked)
    assert data is not None
    served = serve(run, config)
    new = prepare_new_clients(read, data, vocabularies_of(run), served.fields, "evaluation")
    other, left_out = new.prepare()[1:]
    remark = new.remark or f"{counted(left_out, 'example')} left out, of items unknown to the run"
    split = HeldOut() if HELD_OUT in other.fields else served.split
    here, there = counts_of({"": other})[""], saved_counts(run).get("train")
    text = f"other data: {size_of(here)}"
    if there is not None:
        text += f", and the run was trained on {size_of(there)}"
    remark = f"{text}; {remark}"
    return _Evaluated(served, {"other": other}, {"other": split}, {"other": digest(other)}, remark)


def serve(run: Path, config: Config) -> ServedRun:
    """A run as it serves clients: from its folder alone, or where that is not enough with its data.

    Args:
        run: The run folder.
        config: The configuration of the run.

    Raises:
        RunError: The run has no checkpoint, or a broken one; or the run's data are needed and have changed.
        DataError: The run's data are needed and cannot be read.
    """
    alone = from_folder(run, config)
    if alone is not None:
        return alone
    task = task_of(config)
    hold_to_data(run, task, "its model is made for them: put them back where it found them")
    return _served(run, spec_of(config, task), task)


def _served(run: Path, spec: RunSpec, task: Task) -> ServedRun:
    """A run as it serves clients, with its data."""
    round, state, client_states = restore_parameters(run, spec)
    fields = served_fields(task)
    return ServedRun(spec.algorithm, state, round, fields, spec.split, spec.scoring, spec.seed, client_states)


def same_data(run: Path, task: Task) -> bool:
    """Whether a task's clients are those of a run, by their digests."""
    return not _differing_sets(run, task)


def _differing_sets(run: Path, task: Task) -> list[str]:
    """The names of the sets of clients that a run and a task do not have in common."""
    there: dict[str, str] = read_fingerprint(run)["clients"]
    here = {name: digest(clients, there.get(name)) for name, clients in task.sets().items()}
    return [name for name in dict.fromkeys([*there, *here]) if there.get(name) != here.get(name)]


def hold_to_data(run: Path, task: Task, advice: str) -> None:
    """Checks that a task's clients are those of a run.

    Args:
        run: The run folder, which holds the digests of the run's clients.
        task: The task, built again from the settings of the run.
        advice: The end of the message, which says what the user can do.

    Raises:
        RunError: The task's clients are not those of the run.
    """
    differing = _differing_sets(run, task)
    if differing:
        text = describe_differing_sets(differing, saved_counts(run), counts_of(task.sets()))
        raise RunError(f"{run}: its data are no longer what they were; {advice} ({text})")


def hold_to_use(run: Path, global_params: Params) -> str:
    """Checks that a run's parameters can be used, which those of a diverged run cannot.

    Args:
        run: The run folder, whose `result.json` says whether the run diverged.
        global_params: The run's parameters, the last or the selected ones, which must be finite.

    Returns:
        A sentence for the user where the run diverged after the round that it selected, whose parameters can
        be used all the same; `""` otherwise.

    Raises:
        RunError: The run diverged and has no good round before that, or a parameter is not finite.
    """
    result = run / RESULT
    saved = read_json(result) if result.is_file() else {}
    leaf = not_finite(global_params)
    if leaf is None and not saved.get("diverged"):
        return ""
    good = _good_round(run)
    if leaf is None and good is not None:
        return f"the run diverged after round {good}, its best one, which is used"
    reason = f"{RESULT} says so" if leaf is None else f"its global parameter {leaf!r} is not finite"
    raise RunError(f"{run}: a run must not have diverged to be served, this one has: {reason}")


def _good_round(run: Path) -> int | None:
    """The round that a run selected as its best; None if that is the last one, or its metric not finite."""
    checkpoints = Checkpoints(run / CHECKPOINTS)
    latest = checkpoints.latest()
    best = None if latest is None else checkpoints.info(latest).get("best")
    if latest is None or best is None or best["round"] >= latest or not math.isfinite(best["value"]):
        return None
    return int(best["round"])


def restore_parameters(run: Path, spec: RunSpec) -> tuple[int, Any, ClientStateStore | None]:
    """The parameters of a run's last checkpoint, or the best ones if it selects these.

    Args:
        run: The run folder, whose last checkpoint is read.
        spec: The specification of the run.

    Returns:
        The round of the parameters; a server state that holds them and knows the vocabularies of the run; the
        client states after that round, None for a stateless algorithm.

    Raises:
        RunError: The run has no checkpoint, or a damaged one.
    """
    checkpoints = Checkpoints(run / CHECKPOINTS)
    latest = checkpoints.latest()
    if latest is None:
        raise RunError(f"{run}: a run must have a checkpoint to be evaluated, this one has none")
    like = jax.jit(spec.algorithm.init)(jax.random.key(0))
    best = {"best": like.global_params} if spec.selects_best else {}
    saved = checkpoints.restore(latest, {"state": like, **best})
    tree = jax.tree.map(jnp.asarray, saved.tree)
    state = TrainedState.of(tree["state"], vocabularies_of(run) or spec.clients.vocabularies)
    best_info = saved.info["best"]
    client_states = ClientStateStore.of(spec.algorithm, spec.clients, run / CLIENT_STATES)
    if client_states is not None:
        client_states.restore(saved.info["kept"] if best_info is None else best_info["kept"])
    if best_info is None:
        return latest, state, client_states
    return best_info["round"], state._replace(global_params=tree["best"]), client_states
