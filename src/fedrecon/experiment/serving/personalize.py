"""Personalises all clients of a file of data, and writes their local parameters or recommendations."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from fedrecon._safe_text import counted
from fedrecon.errors import RunError
from fedrecon.experiment.config import Config, with_overrides
from fedrecon.experiment.console.progress_bar import show_progress
from fedrecon.experiment.reporting.tables import size
from fedrecon.experiment.serving.evaluate import hold_to_use, serve
from fedrecon.experiment.serving.new_clients import prepare_new_clients
from fedrecon.experiment.serving.parquet_parts import ResumableParquetWriter
from fedrecon.experiment.serving.shares import WHOLE, Share
from fedrecon.experiment.serving.wanted import Wanted, local_bytes, table_of, top_of
from fedrecon.experiment.storage.resource_usage import peak_memory
from fedrecon.experiment.storage.run_folder import read_fingerprint
from fedrecon.experiment.training.run_spec import digest, ids_digest
from fedrecon.experiment.training.vocabularies import vocabularies_of
from fedrecon.serving._personalization import Personalization, default_clients_per_block

# The largest number of clients in a part. A kill loses one part for each thread, and each thread has one in
# memory.
PER_PART = 8192
# The largest number of bytes of local parameters in a part, which is in memory about four times until it is
# written.
PART_BYTES = 64_000_000
MOST_THREADS = 8


def personalize_run(
    run: Path,
    config: Config,
    data: str,
    out: Path,
    screen: Console,
    wanted: Wanted,
    reading: Sequence[str] = (),
    share: Share | None = WHOLE,
    at_a_time: int | None = None,
) -> bool:
    """Personalises all clients of some data with the last parameters of a run, or its best ones.

    A call that was killed can be repeated: it makes only the parts that are missing, and ends with the same
    file. Several processes may each make a share of the parts; the last to finish joins them.

    Args:
        run: The run folder, from which the parameters are read.
        config: The configuration of the run.
        data: The path of the clients: a client file, or data that the task reads.
        out: The file, Parquet with a row for each client in the order of the data, or CSV.
        screen: The console that shows the progress.
        wanted: The options, which decide what is written of each client.
        reading: Settings such as `"data.columns.client=person"` by which the data are read where they differ
            from the run's; none by default.
        share: The share of the parts to make; all of them by default. None makes none, and joins those that
            are there.
        at_a_time: The number of parts that are made at a time; None, the default, for one for each core.

    Returns:
        Whether `out` is there. It is not before all shares are made.

    Raises:
        ValueError: The run has no checkpoint, or diverged without a good round before, or its own data have
            changed; the data cannot be used; `out` holds something else; another process makes the share; or
            parts are to be joined of which some are missing.
    """
    begun = time.monotonic()
    served = serve(run, config)
    algorithm, state = served.algorithm, served.state
    remark = hold_to_use(run, state.global_params)
    vocabularies = vocabularies_of(run)
    read = with_overrides(config, reading)
    new = prepare_new_clients(read, data, vocabularies, served.fields, "personalization")
    clients, top = new.loaded, top_of(wanted, vocabularies)
    per_part = _per_part(12 * top.count if top is not None else local_bytes(algorithm, state))
    # A block has no more clients than a part, since the rest of it would be padding.
    width = min(-(-per_part // jax.local_device_count()), default_clients_per_block())
    personalization = Personalization(
        algorithm,
        state,
        clients.num_examples,
        seed=served.seed,
        top=top,
        client_states=served.client_states,
        clients_per_block=width,
    )
    screen.print(f"{config.name}: parameters after round {served.round}; {counted(len(clients), 'client')}")
    if remark:
        screen.print(f"Note: {remark}.")
    request: dict[str, Any] = {
        "run": read_fingerprint(run),
        "round": served.round,
        "data": digest(clients),
        "vocabularies": {"data": ids_digest(clients.vocabularies), "run": ids_digest(vocabularies)},
        "wanted": {name: value for name, value in wanted._asdict().items() if value is not None},
        "clients_per_part": per_part,
    }
    if reading:
        request["reading"] = list(reading)
    # Threads append to this list, which is safe; they could not add to a number without a lock.
    unknown = [0]
    total = len(clients)

    def part(number: int) -> Any:
        indices = np.arange(number * per_part, min((number + 1) * per_part, total))
        mapped, some, left_out = new.prepare(indices)
        unknown.append(left_out)
        # `mapped` also has the items that a user rated too low to be served by; they are not recommended.
        return table_of(some.ids, personalization(some, mapped), top, vocabularies)

    with ResumableParquetWriter(out, request, -(-total // per_part), share) as parts:
        if share is None:
            _join(parts, screen)
            return True
        own, missing = share.parts(parts.count), parts.missing()
        if len(missing) < len(own):
            screen.print(f"{len(own) - len(missing)} of {len(own)} parts are there already")
        wanted_here, left, started = (*(_size(x, per_part, total) for x in (own, missing)), time.monotonic())
        with show_progress(screen, "clients", wanted_here, wanted_here - left) as advance:
            for number in parts.make(part, at_a_time or threads()):
                advance(_size([number], per_part, total))
        seconds = time.monotonic() - started
    if sum(unknown):
        # A count and a plural, also of one: scripts look for these words.
        screen.print(f"{sum(unknown):,} examples left out, of items unknown to the run")
    if left:
        speed = f"{counted(left, 'client')} in {seconds:.1f} s, {left / seconds:,.0f} per second"
        start, peak = f"{started - begun:.1f} s to start", size(peak_memory() or 0)
        screen.print(f"{speed}, compilation included; {start}; peak memory {peak}")
    if not parts.complete:
        screen.print(f"Share {share} is made. {parts.describe_unfinished()}.")
        return False
    screen.print(f"Clients: {out}")
    return True


def _join(parts: ResumableParquetWriter, screen: Console) -> None:
    """Joins the parts that other processes made.

    Raises:
        RunError: Some are missing; the message names the shares.
    """
    if not parts.join():
        raise RunError(f"{parts.out}: all shares must be made to be joined. {parts.describe_unfinished()}")
    screen.print(f"Clients: {parts.out}")


def _per_part(size: int) -> int:
    """The number of clients in a part, by the bytes of a client's result."""
    return min(max(PART_BYTES // max(size, 1), 1), PER_PART)


def threads() -> int:
    """The number of threads that prepare clients and wait for the device: on a CPU each keeps a core busy."""
    if jax.default_backend() != "cpu":
        return 2
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(cores or 1, MOST_THREADS)


def _size(numbers: Sequence[int], per_part: int, total: int) -> int:
    """The number of clients in some parts; the last part may be smaller."""
    return sum(min(per_part, total - number * per_part) for number in numbers)
