"""Updates that are counted in a later round than the one they were made for."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int64, PyTree

from fedrecon._kernels.rows import add_rows
from fedrecon.algorithms._base import Algorithm, ServerState, Update
from fedrecon.core._mean import Mean
from fedrecon.core._types import Params
from fedrecon.data._devices.staleness import discounts
from fedrecon.data._sampling import AbstractSampling, Sampling
from fedrecon.errors import DataError


def stages_of(sampling: Sampling) -> int:
    """The number of rounds in which the updates of one cohort may be counted: 1 where none is late."""
    return 1 + sampling.max_staleness if isinstance(sampling, AbstractSampling) else 1


def checked_delays(
    sampling: AbstractSampling, round: int, num_examples: Int[np.ndarray, "client"], seed: int, count: int
) -> Int64[np.ndarray, "row"]:
    """How many rounds later the updates of a round's cohort are counted; a sampling may be the caller's own.

    Args:
        sampling: The sampling that makes clients late.
        round: The number of rounds done before this one.
        num_examples: The number of examples of every client, `[client]`.
        seed: The seed of the experiment.
        count: The number of clients of the cohort.

    Raises:
        DataError: A client has no delay, or one that is not from 0 to `max_staleness`.
    """
    delays = np.asarray(sampling.delays(round, num_examples, seed))
    most = sampling.max_staleness
    fits = delays.shape == (count,) and delays.dtype.kind in "iu"
    if not fits or np.any((delays < 0) | (delays > most)):
        raise DataError(
            f"the delays that {type(sampling).__name__} gives for round {round + 1} must be a whole number "
            f"from 0 to {most} for each of its {count} clients, got {delays.dtype} {list(delays.shape)}"
        )
    return delays.astype(np.int64)


def nothing_waits(global_params: Params, stages: int) -> Mean:
    """The sums of the updates that wait for later rounds, before the first round.

    Args:
        global_params: The global parameters, or their shapes.
        stages: The number of rounds in which the updates of one cohort may be counted, at least 2.

    Returns:
        Zeros `[stage, ...]`: at stage i those that are counted i rounds after the next one.
    """

    def zeros(x: Any) -> Array:
        # Sums are in float32 at least, as those of a cohort.
        return jnp.zeros((stages - 1, *x.shape), jnp.promote_types(x.dtype, jnp.float32))

    return Mean(jax.tree.map(zeros, global_params), jnp.zeros(stages - 1))


def counting_late(sampling: Sampling, algorithm: Algorithm) -> Callable[[ServerState, Update], ServerState]:
    """The server's step where `ServerState.late` holds updates that wait for their round.

    Args:
        sampling: The sampling that makes clients late.
        algorithm: The algorithm that is simulated.

    Returns:
        A step whose update holds the sums of a cohort by stage, `[stage, ...]`: those counted at once, and
        those counted i rounds later. The algorithm's own step where the sampling makes no client late.

    Raises:
        ValueError: The sampling makes clients late, and the algorithm needs more of them than the sum of
            their deltas.
    """
    server_update, stages = algorithm.server_update, stages_of(sampling)
    if stages == 1 or not isinstance(sampling, AbstractSampling):
        return server_update
    if algorithm.takes_each or algorithm.row_counts or algorithm.privacy is not None:
        needs = "each delta" if algorithm.takes_each else "counts of each row's clients"
        needs = needs if algorithm.privacy is None else "noise that is accounted for"
        raise ValueError(
            f"max_staleness must be 0 for an algorithm that needs more than the sum of its clients' deltas, "
            f"here {needs}, got {stages - 1}"
        )
    factors = discounts(stages - 1, sampling.staleness_exponent)

    def step(state: ServerState, update: Update) -> ServerState:
        waiting, sums = state.late, update.delta

        def after(old: Float[Array, "stage ..."], new: Float[Array, "stage_and_now ..."]) -> Array:
            by_stage = factors[1:].reshape(-1, *[1] * (new.ndim - 1))
            return jnp.concatenate([old[1:], jnp.zeros_like(old[:1])]) + by_stage * new[1:]

        now = jax.tree.map(lambda old, new: old[0] + new[0], waiting, sums)
        after_round = server_update(state._replace(late=()), update._replace(delta=now))
        return after_round._replace(late=jax.tree.map(after, waiting, sums))

    return step


def add_by_stage(
    total: Array,
    part: Float[Array, "client ..."],
    stage: Int[Array, "client"],
    rows: Int[Array, "client ..."] | None = None,
    heavy: bool = False,
) -> Array:
    """Adds the deltas of a block's clients to the sums of their stages.

    Args:
        total: The sums so far, `[stage, ...]`.
        part: The clients' deltas.
        stage: The stage of each client.
        rows: The rows of a table that each client's delta changes; None, the default, for whole parameters.
            Rows past the table's end are padding.
        heavy: Whether the program is compiled as heavy; False by default.
    """
    if rows is None:
        return total + jax.ops.segment_sum(part.astype(total.dtype), stage, len(total))
    stages, size = total.shape[:2]
    # The tables of all stages follow one another in one long table, in which each client has rows of its own.
    offsets = (stage * size).reshape(-1, *[1] * (rows.ndim - 1))
    at = jnp.where(rows < size, rows + offsets, stages * size)
    table, count = total.reshape(stages * size, *total.shape[2:]), len(rows)
    added = add_rows(table, at.reshape(count, -1), part.reshape(count, -1, *table.shape[1:]), heavy)
    return added.reshape(total.shape)


def in_stages(tree: PyTree, stages: int) -> Any:
    """Zeros for sums by stage, `[stage, ...]`, of the shapes and types of `tree`; for one stage `tree`."""
    if stages == 1:
        return tree
    return jax.tree.map(lambda x: jnp.zeros((stages, *x.shape), x.dtype), tree)


def checked_late(state: ServerState, stages: int) -> ServerState:
    """A state from which a simulation can go on, with the sums of updates that wait.

    Args:
        state: The server's state; one without such sums gets zeros.
        stages: The number of rounds in which the updates of one cohort may be counted.

    Raises:
        ValueError: The state's sums are those of another number of rounds.
    """
    leaves = jax.tree.leaves(state.late)
    there = len(leaves[0]) if leaves else 0
    if there not in (0, stages - 1):
        raise ValueError(
            f"state must come from a sampling with max_staleness {stages - 1}, but its late updates are of "
            f"one with {there}"
        )
    if leaves or stages == 1:
        return state
    zeros = jax.jit(functools.partial(nothing_waits, stages=stages))
    return state._replace(late=zeros(state.global_params))
