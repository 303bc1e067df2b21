"""Evaluating the parameters of a run again, on its own data or on others."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console

from fedrecon.evaluation import Evaluation, evaluate
from fedrecon.experiment import report
from fedrecon.experiment.assemble import job_of, task_of
from fedrecon.experiment.checkpoint import Checkpoints
from fedrecon.experiment.config import Config, override, task_module
from fedrecon.experiment.files import RunError
from fedrecon.experiment.folder import CHECKPOINTS, FINGERPRINT, KEPT, VOCABULARIES
from fedrecon.experiment.job import Job, digest
from fedrecon.experiment.matching import Matching
from fedrecon.experiment.result import by_protocol
from fedrecon.experiment.running import rich_table
from fedrecon.experiment.settings import SettingError
from fedrecon.experiment.team import Team
from fedrecon.federation.clients import Clients
from fedrecon.federation.kept import Kept


def evaluate_run(run: Path, config: Config, data: str | None, screen: Console) -> dict[str, Evaluation]:
    """Evaluates a run's last (or best, where it selects that) parameters, and prints the table.

    Args:
        run: Its folder; the clients' metrics are written there.
        config: Its configuration.
        data: Where the data are now, or other data; None for where the run found them.
        screen: Where the table is shown.

    Raises:
        ValueError: The run has no checkpoint, or the data cannot be used.
    """
    moved = config if data is None else override(config, {"data": {"path": data}})
    saved = json.loads((run / FINGERPRINT).read_text(encoding="utf-8"))["clients"]
    other: Clients | None = None
    task = task_of(moved)
    if {name: digest(x) for name, x in task.sets().items()} != saved:
        if data is None:
            raise RunError(f"{run}: its data are no longer what they were; give data with --data PATH")
        task = task_of(config)
        other, left = _others(moved, json.loads((run / VOCABULARIES).read_text(encoding="utf-8")))
    job = job_of(config, task)
    round, state, kept = restored(run, job)
    team = Team.present()
    team.agree(
        {"round": round, **{name: digest(x) for name, x in task.sets().items()}} if team.count > 1 else {}
    )
    screen.print(f"{config.name}: parameters after round {round}")
    if other is None:
        sets = {name: x for name, x in task.sets().items() if name != "train"}
    else:
        other = config.algorithm.prepare_unseen(other)
        sets = {"other": other.select(*task.train.fields)}
        screen.print(f"other data: {len(other):,} clients; {left}")
    evaluations = {
        name: evaluate(
            job.algorithm,
            state,
            clients,
            split=job.split_of(name),
            seed=job.seed,
            kept=kept,
            scoring=job.scoring,
        )
        for name, clients in sets.items()
    }
    values = by_protocol({name: x.summary() for name, x in evaluations.items()})
    screen.print(rich_table(report.table(values)))
    for name, evaluation in evaluations.items() if team.first else ():
        path = run / report.clients_file(name)
        report.write_clients(path, evaluation)
        screen.print(f"Clients: {path}")
    return evaluations


def everyone(config: Config) -> Clients:
    """All clients of a task's data.

    Raises:
        SettingError: The task has no data but its own.
        DataError: They cannot be read.
    """
    module = task_module(config.task)
    if not hasattr(module, "everyone"):
        raise SettingError(f"--data: task {config.task} can be evaluated on its own data only")
    clients: Clients = module.everyone(config)
    return clients


def _others(config: Config, known: Mapping[str, list[Any]]) -> tuple[Clients, str]:
    """All clients of other data in a run's vocabularies, and what there is to say about them."""
    module = task_module(config.task)
    if hasattr(module, "matched"):
        return module.matched(config, known)
    found = everyone(config)
    clients, unknown = Matching(found.vocabularies, known)(found)
    return clients, f"{unknown:,} examples left out, of items unknown to the run"


def restored(run: Path, job: Job) -> tuple[int, Any, Kept | None]:
    """The round and the state of the parameters that a run ends with, so far, and what clients keep.

    Raises:
        RunError: The run has no checkpoint, or a broken one.
    """
    checkpoints = Checkpoints(run / CHECKPOINTS)
    latest = checkpoints.latest()
    if latest is None:
        raise RunError(f"{run}: a run must have a checkpoint to be evaluated, this one has none")
    like = jax.jit(job.algorithm.init)(jax.random.key(0))
    best = {"best": like.global_params} if job.select == "best" else {}
    saved = checkpoints.restore(latest, {"state": like, **best})
    tree = jax.tree.map(jnp.asarray, saved.tree)
    found, kept = saved.info["best"], Kept.of(job.algorithm, job.clients, run / KEPT)
    if kept is not None:
        kept.restore(saved.info["kept"] if found is None else found["kept"])
    if found is None:
        return latest, tree["state"], kept
    return found["round"], tree["state"]._replace(global_params=tree["best"]), kept
