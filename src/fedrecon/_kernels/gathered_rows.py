"""A client's rows, remembered as rows of the table that they come from.

A client gets the rows that its examples name. A solver that reads them step by step, each row once, can
gather each step's rows from the whole table, so that nobody writes all of the client's rows down: on a CPU
this saves a sixth of a round's time for matrix factorisation. A compiler does not find this, since the rows
are read in several places. Whoever gathers them therefore notes where they come from, for whatever runs
within `remembering`.
"""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from fedrecon.core._types import Number


class Gathered(NamedTuple):
    """Rows that were gathered.

    Attributes:
        rows: The gathered rows, `[row, ...]`.
        table: The table from which the rows were gathered, `[id, ...]`.
        ids: The numbers of the rows in the table, `[row]`. A number past the table's end may give any finite
            row.
    """

    rows: Array
    table: Array
    ids: Int[Array, "row"]


_known: contextvars.ContextVar[dict[int, Gathered] | None] = contextvars.ContextVar("_known", default=None)


@contextlib.contextmanager
def remembering() -> Iterator[None]:
    """Remembers what is gathered within, for as long as that lasts."""
    before = _known.set({})
    try:
        yield
    finally:
        _known.reset(before)


def gather(table: Array, ids: Int[Array, "row"]) -> Array:
    """Rows of a table, `[row, ...]`; ids past its end, which only padding has, give anything finite."""
    rows = table.at[ids].get(mode="clip")
    known = _known.get()
    if known is not None:
        # By identity: the very same array has the very same rows. It is kept, so that no other takes its id.
        known[id(rows)] = Gathered(rows, table, ids)
    return rows


def origin(rows: Array) -> Gathered | None:
    """What is remembered of an array; None where it was not gathered, or was passed on as another array."""
    return (_known.get() or {}).get(id(rows))


class StepGathers(NamedTuple):
    """The rows of every step, gathered when they are asked for: numbers that lie side by side, `stride` from
    one step to the next. Like `rows.Slices`, without the table in between.
    """

    table: Array
    ids: Int[Array, "row"]
    start: int
    stride: int
    width: int

    def at(self, step: Number) -> Array:
        """The rows of one step, `[id, ...]`."""
        ids = jax.lax.dynamic_slice_in_dim(self.ids, self.start + step * self.stride, self.width)
        return self.table.at[ids].get(mode="clip")

    def all(self, steps: int) -> Array:
        """The rows of the first steps, `[step, id, ...]`."""
        stop = self.start + steps * self.stride
        ids = self.ids[self.start : stop].reshape(steps, self.stride)[:, : self.width]
        return self.table.at[ids].get(mode="clip")


def step_gathers(gathered: Gathered, start: int, stride: int, width: int, steps: int) -> StepGathers:
    """The rows of the first steps of what was gathered; past its end padding reads row 0."""
    short = max(start + steps * stride - len(gathered.ids), 0)
    return StepGathers(gathered.table, jnp.pad(gathered.ids, (0, short)), start, stride, width)
