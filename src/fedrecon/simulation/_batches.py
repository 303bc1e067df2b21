"""A cohort's examples as the arrays that a compiled round takes."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int, UInt32

from fedrecon._kernels.rows import Group, groups, num_rows
from fedrecon.core._examples import Examples
from fedrecon.core._model import Model
from fedrecon.core._splits import ByTime, Split
from fedrecon.core._types import Number, Params
from fedrecon.data._clients import Clients
from fedrecon.data._padding import PaddedGather
from fedrecon.errors import DataError, did_you_mean, plain
from fedrecon.simulation._block_plan import Slot


class Batch(NamedTuple):
    """Clients in blocks of one shape; every leaf starts with the axes `[block, client]`.

    Attributes:
        data: The fields of the examples, arrays `[block, client, example, ...]`.
        count: The number of valid examples of each client, `[block, client]`.
        real: Whether a place holds a client, `[block, client]`; False where it is left free.
        key: Data of the client's random key for this round, `[block, client, 2]`.
        rows: For each group of tables the numbers of the rows that a client touches, `[block, client, row]`,
            padded with the number of rows of the table.
        client_state: The clients' states between rounds; `()`, the default, for stateless clients.
        delay: How many rounds later each client's update is counted, `[block, client]`; `()`, the default,
            where all are counted at once.
    """

    data: dict[str, Any]
    count: Any
    real: Any
    key: Any
    rows: dict[str, Any]
    client_state: Any = ()
    delay: Any = ()


class Layout:
    """Lays out clients as a `Batch`, with table fields renumbered to the rows that each client touches.

    Attributes:
        positional: Fields in which no client has a number twice. Renumbered, they hold the examples' own
            positions, so that they need no search and are not laid out.
        sizes: The number of rows of each group's tables, by the group's name.

    Args:
        model: The model whose tables and fields are laid out.
        clients: The clients that are laid out.
        global_params: The model's global parameters, or their shapes.
        splits: The splits by which programs cut the examples; the times that they read must fit in 32 bits;
            none by default.

    Raises:
        DataError: A field does not fit the model's tables, or JAX's 32 bits.
    """

    def __init__(
        self, model: Model, clients: Clients, global_params: Params, splits: Sequence[Split | None] = ()
    ):
        self.clients = clients
        self.groups = groups(model.tables)
        self.sizes = {g.name: num_rows(global_params, g) for g in self.groups}
        self._check_fields(splits)
        self._ids = {f for t in (*model.tables, *model.local_tables) for f in t.fields}
        for group in self.groups:
            self._check_rows(group, self.sizes[group.name])
        # The number of ids that an example has of each group.
        self._widths = {g.name: sum(clients.blank(f).size for f in g.fields) for g in self.groups}
        if model.local_tables:  # a client's copies are whole tables, so that only the ids must be checked
            local = jax.eval_shape(model.init_local, global_params, jax.random.key(0))
            for group in groups(model.local_tables):
                self._check_rows(group, num_rows(local, group))

    @functools.cached_property
    def positional(self) -> tuple[str, ...]:
        """Fields in which no client has a number twice, among those that are alone in their group."""
        single = [g.fields[0] for g in self.groups if len(g.fields) == 1]
        return tuple(f for f in single if self.clients.distinct(f))

    def batch(
        self,
        slot: Slot,
        positions: Int[np.ndarray, "row"],
        keys: UInt32[np.ndarray, "row 2"],
        cut: Sequence[Group] | None = None,
        delays: Int[np.ndarray, "client"] | None = None,
    ) -> Batch:
        """The batch of the clients at `positions`, which may be at most the slot's capacity.

        Args:
            slot: The slot, which is the shape of the batch.
            positions: The positions of the batch's clients among the clients of the layout.
            keys: The data of these clients' random keys, uint32 `[client, 2]`.
            cut: The groups whose fields are renumbered, none where whole tables are used, as in evaluation;
                by default those of which a client of the slot touches fewer rows than the tables have.
            delays: How many rounds later each client's update is counted; None, the default, where all are
                counted at once.
        """
        clients, shape = self.clients, (slot.blocks, slot.clients)
        free = slot.capacity - len(positions)

        def shaped(x: np.ndarray) -> np.ndarray:
            full = np.concatenate([x, np.zeros((free, *x.shape[1:]), x.dtype)]) if free else x
            return full.reshape(*shape, *x.shape[1:])

        places = clients.places(positions, slot.length)
        cut = [g for g in self.groups if self.by_rows(g, slot)] if cut is None else cut
        counted = {g.fields[0] for g in cut} & set(self.positional)
        data = {f: self._laid_out(places, f) for f in clients.fields if f not in counted}
        count = clients.num_examples[positions].astype(np.int32)
        rows = {}
        for group in cut:
            field, size = group.fields[0], self.sizes[group.name]
            if field in counted:
                touched_rows = places.field(field, np.int32, fill=size)
            else:
                touched_rows = self._renumber(group, data, count)
            fill = np.full((free, touched_rows.shape[1]), size, np.int32)
            rows[group.name] = np.concatenate([touched_rows, fill]).reshape(*shape, -1)
        return Batch(
            {f: shaped(x) for f, x in data.items()},
            shaped(count),
            shaped(np.ones(len(positions), bool)),
            shaped(keys),
            rows,
            delay=() if delays is None else shaped(delays.astype(np.int32)),
        )

    def by_rows(self, group: Group, slot: Slot) -> bool:
        """Whether a client of this slot touches fewer rows than the tables have."""
        return slot.length * self._widths[group.name] < self.sizes[group.name]

    def touched(self, positions: Int[np.ndarray, "row"]) -> dict[str, Int[np.ndarray, "row"]]:
        """The number of different rows of each group that every client touches, and so has to be sent.

        Args:
            positions: The positions of the clients among the clients of the layout.

        Returns:
            Counts `[client]` by the group's name.
        """
        counts = self.clients.num_examples[positions]
        counts_by_group = {}
        for group in self.groups:
            if group.fields[0] in self.positional:
                counts_by_group[group.name] = counts
                continue
            places = self.clients.places(positions, int(counts.max(initial=1)))
            data = {f: self._laid_out(places, f) for f in group.fields}
            rows = self._renumber(group, data, counts)
            counts_by_group[group.name] = np.count_nonzero(rows < self.sizes[group.name], axis=1)
        return counts_by_group

    def _laid_out(self, places: PaddedGather, field: str) -> np.ndarray:
        """A field of some clients in 32 bits, padded; ids as int32.

        Ids must be int32 since padding holds the number of rows, which a smaller type may be unable to hold.
        """
        double = self.clients.blank(field, 0).dtype == np.float64
        return places.field(field, np.int32 if field in self._ids else np.float32 if double else None)

    def _renumber(self, group: Group, data: dict[str, Any], count: np.ndarray) -> np.ndarray:
        """Renumbers `data` in place and returns the rows that each client touches, `[client, row]`.

        All clients are renumbered at once: their ids are sorted, equal neighbours get one number, and the
        numbers are put back in the order of the examples. Padding has the id `size`, which sorts last.
        """
        size, none = self.sizes[group.name], np.int32(self.sizes[group.name])
        parts = []
        for f in group.fields:
            valid = np.arange(data[f].shape[1]) < count[:, None]
            valid = valid.reshape(*valid.shape, *[1] * (data[f].ndim - 2))
            width = int(np.prod(data[f].shape[1:]))  # a reshape to -1 fails where there is no client
            parts.append(np.where(valid, data[f], size).reshape(len(count), width))
        flat = np.concatenate(parts, axis=1).astype(np.int32)
        order = np.argsort(flat, axis=1, kind="stable")
        ranked = np.take_along_axis(flat, order, axis=1)
        new = np.ones_like(ranked, bool)
        new[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
        number = np.cumsum(new, axis=1, dtype=np.int32) - 1
        rows = np.full_like(flat, none)
        np.put_along_axis(rows, number, ranked, axis=1)
        local = np.empty_like(flat)
        np.put_along_axis(local, order, number, axis=1)
        start = 0
        for f in group.fields:
            width = int(np.prod(data[f].shape[1:]))
            data[f] = local[:, start : start + width].reshape(data[f].shape)
            start += width
        return rows

    def _check_fields(self, splits: Sequence[Split | None]) -> None:
        clients = self.clients
        ordered = {split.field for split in splits if isinstance(split, ByTime)}
        for field in clients.fields:
            kind = clients.blank(field).dtype
            # JAX rounds float64 to float32, which may make different times equal. Fields that are not used as
            # times may be rounded: the order of examples was decided before, by all 64 bits.
            if kind == np.float64:
                if field in ordered:
                    raise DataError(
                        f"field {field!r} holds times of 64 bits, of which 32 bits, as JAX needs them, make "
                        f"different ones equal, and ByTime splits by it; sort the clients by it before, with "
                        f"clients.sorted_by({field!r}), and split by Fraction"
                    )
            elif kind.itemsize > 4:
                raise DataError(
                    f"field {field!r} holds 64-bit numbers that do not fit 32 bits, as JAX needs them; leave "
                    f"it out with clients.select(...) or make its numbers smaller"
                )

    def _check_rows(self, group: Group, size: int) -> None:
        """Checks that the fields of a group hold numbers of rows of tables with `size` rows."""
        clients = self.clients
        for field in group.fields:
            if field not in clients.fields:
                raise DataError(
                    f"tables {group.leaves} are indexed by the field {field!r}, but the clients have "
                    f"{list(clients.fields)}{did_you_mean(field, clients.fields)}"
                )
            kind = clients.blank(field).dtype
            if kind.kind not in "iu":
                raise DataError(f"field {field!r} indexes a table, so it must hold whole numbers, got {kind}")
            field_stats = clients.field_stats(field)
            # The range is that of the field in the whole file, of which these may be some clients only: the
            # examples are searched only where the range is too wide.
            if field_stats.least < 0 or field_stats.most >= size:
                for piece in clients.pieces():
                    column = piece.column(field)
                    if np.any((column < 0) | (column >= size)):
                        raise DataError(_out_of_range(piece, group, field, size))


def _out_of_range(clients: Clients, group: Group, field: str, size: int) -> str:
    column = clients.column(field).reshape(int(clients.num_examples.sum()), -1)
    bad = np.nonzero(((column < 0) | (column >= size)).any(axis=1))[0][0]
    owner = int(np.searchsorted(clients.offsets, bad, side="right")) - 1
    place = int(bad - clients.offsets[owner])
    return (
        f"field {field!r} must hold numbers from 0 to {size - 1}, the rows of {group.leaves[0]!r}; "
        f"client {plain(clients.ids[owner])} has {column[bad].tolist()} at example {place}"
    )


def key_of(data: UInt32[Any, "*keys 2"]) -> Any:
    """The random key with the given data, always of the kind threefry2x32.

    The kind is fixed, since a user's JAX configuration would otherwise change the numbers of a run.
    """
    return jax.random.wrap_key_data(data, impl="threefry2x32")


def examples_of(data: dict[str, Any], count: Number, size: int, positional: tuple[str, ...] = ()) -> Examples:
    """One client's fields as `Examples`, the positional fields added.

    Args:
        data: The fields that were laid out, arrays `[example, ...]`.
        count: The number of valid examples, which come first.
        size: The number of examples, padding included.
        positional: The fields that hold each example's own position; none by default.
    """
    own = {f: np.arange(size, dtype=np.int32) for f in positional}
    return Examples({**data, **own}, np.arange(size) < count, positional)
