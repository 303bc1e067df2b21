"""A memory of the table from which a client's rows were gathered, and of rows of which none comes twice.

A client gets the rows that its examples name. A solver that reads them step by step, each row once, can
gather each step's rows from the global table instead, so that the client's table is never written: on a CPU
this saves a sixth of a round's time for matrix factorisation. XLA does not find this by itself, since the
rows are read in several places. So `gather` notes where rows come from, while `remembering` is active.
"""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from fedrecon.core._types import Number


class Gathered(NamedTuple):
    """Rows that were gathered from a table.

    Attributes:
        rows: The gathered rows, `[row, ...]`.
        table: The table from which the rows were gathered, `[id, ...]`.
        ids: The numbers of the rows in the table, `[row]`. A number past the table's end, which only padding
            has, may give any finite row.
    """

    rows: Array
    table: Array
    ids: Int[Array, "row"]


_known: contextvars.ContextVar[dict[int, Gathered] | None] = contextvars.ContextVar("_known", default=None)
_distinct: contextvars.ContextVar[dict[int, Any] | None] = contextvars.ContextVar("_distinct", default=None)


@contextlib.contextmanager
def remembering() -> Iterator[None]:
    """Makes `gather` remember the origin of rows, and `note_distinct` its rows, until the block ends."""
    before, before_distinct = _known.set({}), _distinct.set({})
    try:
        yield
    finally:
        _known.reset(before)
        _distinct.reset(before_distinct)


def note_distinct(ids: Int[Any, "*id"]) -> None:
    """Remembers, while `remembering`, that no number of a row comes twice in an array, but for padding's."""
    noted = _distinct.get()
    if noted is not None:
        noted[id(ids)] = ids  # kept alive, as in `gather`


def are_distinct(ids: Int[Any, "*id"]) -> bool:
    """Whether this very array was noted as one in which no number of a row comes twice."""
    return id(ids) in (_distinct.get() or {})


def gather(table: Array, ids: Int[Array, "row"]) -> Array:
    """Rows of a table, `[row, ...]`; ids past its end, which only padding has, give any finite row."""
    rows = table.at[ids].get(mode="clip")
    known = _known.get()
    if known is not None:
        # By identity and not by value, since the values of a traced array are unknown: the same object has
        # the same rows. Whatever derives from it is another object, of which nothing is remembered, so that
        # it is read as usual. The entry keeps the array alive, since Python may give the id of a freed object
        # to another one.
        known[id(rows)] = Gathered(rows, table, ids)
    return rows


def origin(rows: Array) -> Gathered | None:
    """The origin of an array's rows; None if it was not gathered, or derives from an array that was."""
    return (_known.get() or {}).get(id(rows))


class StepGathers(NamedTuple):
    """The rows of each step, gathered from the global table when the step reads them.

    It has the methods of `rows.Slices`, which slices the same rows out of the client's table.

    Attributes:
        table: The global table, `[row, ...]`.
        ids: The numbers of the client's rows in the global table, `[row]`.
        start: The first of the client's rows that the first step reads.
        stride: The number of rows from one step's first row to the next step's.
        width: The number of rows of a step.
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
    """Rows of steps out of gathered rows; steps past their end, which are padding, read row 0.

    Args:
        gathered: The client's rows and their origin.
        start: The first of the client's rows that the first step reads.
        stride: The number of rows from one step's first row to the next step's.
        width: The number of rows of a step.
        steps: The number of steps.
    """
    short = max(start + steps * stride - len(gathered.ids), 0)
    return StepGathers(gathered.table, jnp.pad(gathered.ids, (0, short)), start, stride, width)
