"""Evaluating the parameters of a run again, on its own data or on others."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from fedrecon.evaluation import Evaluation, evaluate
from fedrecon.experiment import report
from fedrecon.experiment.assemble import job_of, task_of
from fedrecon.experiment.checkpoint import Checkpoints
from fedrecon.experiment.config import Config, override, task_module
from fedrecon.experiment.files import RunError
from fedrecon.experiment.folder import CHECKPOINTS, FINGERPRINT, KEPT, PLAN, VOCABULARIES
from fedrecon.experiment.job import Job, digest
from fedrecon.experiment.result import by_protocol
from fedrecon.experiment.running import rich_table
from fedrecon.experiment.settings import SettingError
from fedrecon.federation.blocks import Plan
from fedrecon.federation.clients import Clients
from fedrecon.federation.kept import Kept
from fedrecon.simulation import Simulation


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
        other = _everyone(moved)
        task = task_of(config)
    job = job_of(config, task)
    round, state, kept = _restored(run, job)
    screen.print(f"{config.name}: parameters after round {round}")
    if other is None:
        sets = {name: x for name, x in task.sets().items() if name != "train"}
    else:
        known = json.loads((run / VOCABULARIES).read_text(encoding="utf-8"))
        other, unknown = matched(other, known)
        other = config.algorithm.prepare_unseen(other)
        sets = {"other": other.select(*task.train.fields)}
        left = f"{unknown:,} examples left out, of items unknown to the run"
        screen.print(f"other data: {len(other):,} clients; {left}")
    evaluations = {
        name: evaluate(job.algorithm, state, clients, split=job.split_of(name), seed=job.seed, kept=kept)
        for name, clients in sets.items()
    }
    values = by_protocol({name: x.summary() for name, x in evaluations.items()})
    screen.print(rich_table(report.table(values)))
    for name, evaluation in evaluations.items():
        path = run / report.clients_file(name)
        report.write_clients(path, evaluation)
        screen.print(f"Clients: {path}")
    return evaluations


def matched(clients: Clients, known: Mapping[str, list[Any]]) -> tuple[Clients, int]:
    """Clients with the dense ids of other vocabularies, and the number of examples that have none."""
    columns = {name: np.asarray(clients.column(name)) for name in clients.fields}
    keep = np.ones(int(clients.num_examples.sum()), bool)
    for name, ids in known.items():
        place = {identity: i for i, identity in enumerate(ids)}
        dense = np.array([place.get(x, -1) for x in np.asarray(clients.vocabularies[name]).tolist()] or [-1])
        columns[name] = dense[columns[name]]
        keep &= columns[name] >= 0
    owner = np.repeat(np.arange(len(clients)), clients.num_examples)[keep]
    counts = np.bincount(owner, minlength=len(clients))
    made = Clients.from_columns(
        clients.ids,
        np.concatenate([[0], np.cumsum(counts)]),
        {name: column[keep] for name, column in columns.items()},
        {name: np.asarray(ids) for name, ids in known.items()},
    )
    return made, int((~keep).sum())


def _everyone(config: Config) -> Clients:
    module = task_module(config.task)
    if not hasattr(module, "everyone"):
        raise SettingError(f"--data: task {config.task} can be evaluated on its own data only")
    clients: Clients = module.everyone(config)
    return clients


def _restored(run: Path, job: Job) -> tuple[int, Any, Kept | None]:
    """The round and the state of the parameters that a run ends with, so far, and what clients keep."""
    checkpoints = Checkpoints(run / CHECKPOINTS)
    latest = checkpoints.latest()
    if latest is None:
        raise RunError(f"{run}: a run must have a checkpoint to be evaluated, this one has none")
    plan = Plan.from_json((run / PLAN).read_text(encoding="utf-8"))
    simulation = Simulation(
        job.algorithm, job.clients, job.sampling, seed=job.seed, plan=plan, kept_in=run / KEPT
    )
    like = simulation.init(job.initial_global_params)
    best = {"best": like.global_params} if job.select == "best" else {}
    saved = checkpoints.restore(latest, {"state": like, **best})
    tree = jax.tree.map(jnp.asarray, saved.tree)
    found, kept = saved.info["best"], simulation.kept
    if kept is not None:
        kept.restore(saved.info["kept"] if found is None else found["kept"])
    if found is None:
        return latest, tree["state"], kept
    return found["round"], tree["state"]._replace(global_params=tree["best"]), kept
