"""Inference with the parameters of a run: every client's local parameters or recommendations, in a file."""

import json
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console

from fedrecon.algorithms._base import Algorithm, ServerState
from fedrecon.data._arrow_bridge import to_arrow, to_lists
from fedrecon.data._clients import Clients
from fedrecon.data._from_arrays import offsets_of
from fedrecon.experiment.config import Config
from fedrecon.experiment.console.progress_bar import counted
from fedrecon.experiment.reporting.summary import size
from fedrecon.experiment.serving.evaluate import hold_to_data, restored
from fedrecon.experiment.serving.new_clients import prepare_new_clients, served_fields
from fedrecon.experiment.serving.parquet_parts import ResumableParquetWriter
from fedrecon.experiment.settings.sections import SettingError
from fedrecon.experiment.storage.resource_usage import peak_memory
from fedrecon.experiment.storage.run_folder import FINGERPRINT
from fedrecon.experiment.training.build import spec_of, task_of
from fedrecon.experiment.training.run_spec import digest, ids_digest
from fedrecon.experiment.training.vocabularies import known_to
from fedrecon.serving._personalization import Personalization, TopK, default_clients_per_block

PER_PART = 8192  # clients at most: what a kill loses per thread, and what is in memory at a time
# Bytes of local parameters in a part at most; until they are written they are in memory about four times.
PART_BYTES = 64_000_000
MOST_THREADS = 8


class Wanted(NamedTuple):
    """What is written of each client.

    Attributes:
        top: So many recommended items; None for the local parameters.
        field: The field that names items; None for the only one that has original ids.
        seen: Whether a client's own items may be recommended.
    """

    top: int | None = None
    field: str | None = None
    seen: bool = False


def personalize_run(run: Path, config: Config, data: str, out: Path, screen: Console, wanted: Wanted) -> None:
    """Personalises all clients of some data with a run's last (or best) parameters, into a Parquet file.

    Killed and started again, it goes on where it was, and ends with the same file.

    Args:
        run: The run's folder.
        config: Its configuration.
        data: The clients: a client file, or what the task reads.
        out: The file: a row for each client, in the order of the data.
        screen: Where progress is shown.
        wanted: What is written.

    Raises:
        ValueError: The run has no checkpoint, or its own data are others now; the data cannot be used; or
            `out` holds something else.
    """
    begun = time.monotonic()
    task = task_of(config)
    hold_to_data(run, task, "its model is made for them: put them back where it found them")
    spec = spec_of(config, task)
    round, state, client_states = restored(run, spec)
    known = known_to(run)
    new = prepare_new_clients(config, data, known, served_fields(task), "personalization")
    clients, top = new.loaded, _top(wanted, known)
    per_part = _per_part(12 * top.count if top is not None else _local_bytes(spec.algorithm, state))
    # Blocks of more clients than a part has would be padding.
    width = min(-(-per_part // jax.local_device_count()), default_clients_per_block())
    personalization = Personalization(
        spec.algorithm,
        state,
        clients.num_examples,
        seed=spec.seed,
        top=top,
        client_states=client_states,
        clients_per_block=width,
    )
    screen.print(f"{config.name}: parameters after round {round}; {len(clients):,} clients")
    request = {
        "run": json.loads((run / FINGERPRINT).read_text(encoding="utf-8")),
        "round": round,
        "data": digest(clients),
        "vocabularies": {"data": ids_digest(clients.vocabularies), "run": ids_digest(known)},
        "wanted": {name: value for name, value in wanted._asdict().items() if value is not None},
        "clients_per_part": per_part,
    }
    unknown, total = [0], len(clients)  # threads append to it

    def part(number: int) -> Any:
        indices = np.arange(number * per_part, min((number + 1) * per_part, total))
        mapped, served, left_out = new.prepare(indices)
        unknown.append(left_out)
        # What is too low to be served by is rated all the same, and nothing to recommend.
        return _table(served, personalization(served, mapped), top, known)

    with ResumableParquetWriter(out, request, -(-total // per_part)) as parts:
        missing = parts.missing()
        if len(missing) < parts.count:
            screen.print(f"{parts.count - len(missing)} of {parts.count} parts are there already")
        left, started = _size(missing, per_part, total), time.monotonic()
        with counted(screen, "clients", total, total - left) as shown:
            for number in parts.make(part, threads()):
                shown(_size([number], per_part, total))
        seconds = time.monotonic() - started
    if sum(unknown):
        screen.print(f"{sum(unknown):,} examples left out, of items unknown to the run")
    if left:
        speed = f"{left:,} clients in {seconds:.1f} s, {left / seconds:,.0f} per second"
        start, peak = f"{started - begun:.1f} s to start", size(peak_memory() or 0)
        screen.print(f"{speed}, compilation included; {start}; peak memory {peak}")
    screen.print(f"Clients: {out}")


def _top(wanted: Wanted, known: dict[str, Any]) -> TopK | None:
    if wanted.top is None:
        return None
    field = wanted.field
    if field is None:
        if len(known) != 1:
            raise SettingError(
                f"--field must name the field of the items: the run knows original ids of {sorted(known)}"
            )
        (field,) = known
    if field not in known:
        raise SettingError(
            f"--field must be one of {sorted(known)}, of which the run knows ids, got {field!r}"
        )
    try:
        return TopK(wanted.top, field, len(known[field]), wanted.seen)
    except ValueError as error:
        rule = str(error).removeprefix("count ")
        raise SettingError(f"--top {rule}") from None


def _per_part(size: int) -> int:
    """Clients of a part, by the bytes of each one's result."""
    return min(max(PART_BYTES // max(size, 1), 1), PER_PART)


def _local_bytes(algorithm: Algorithm, state: ServerState) -> int:
    """Of a client's local parameters."""
    local = jax.eval_shape(algorithm.personal_model.init_local, state.global_params, jax.random.key(0))
    leaves = jax.tree.leaves(local)
    if not leaves:
        raise SettingError("the run's model has no local parameters to write; --top K writes recommendations")
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def _table(clients: Clients, found: dict[str, np.ndarray], top: TopK | None, known: dict[str, Any]) -> Any:
    import pyarrow as pa

    columns = {"client": to_arrow(clients.ids)}
    if top is None:
        return pa.table(columns | {name: to_arrow(values) for name, values in found.items()})
    there = found["score"] > -np.inf
    ids = np.asarray(known[top.field])
    ids = ids.astype(object) if ids.dtype.kind == "U" else ids
    offsets = offsets_of(there.sum(axis=1))
    columns[top.field] = to_lists(ids[found[top.field][there]], offsets)
    columns["score"] = to_lists(found["score"][there], offsets)
    return pa.table(columns)


def threads() -> int:
    """Threads that lay out clients and wait for the device: on a CPU each keeps a core busy."""
    if jax.default_backend() != "cpu":
        return 2
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(cores or 1, MOST_THREADS)


def _size(numbers: list[int], per_part: int, total: int) -> int:
    return sum(min(per_part, total - number * per_part) for number in numbers)
