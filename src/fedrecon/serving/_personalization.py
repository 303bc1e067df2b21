"""Personalises any number of clients: computes their local parameters or recommends items to them."""

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from fedrecon._kernels.top_k import best
from fedrecon.algorithms._base import Algorithm, Broadcast, ServerState
from fedrecon.core._model import Model, leaf_at, leaves_of
from fedrecon.core._types import Number, Params
from fedrecon.data._clients import Clients
from fedrecon.data._hashing import Purpose, round_keys
from fedrecon.errors import did_you_mean, of_kind, plain, store_whole_numbers, whole_number
from fedrecon.simulation._batches import Batch, Layout, examples_of, key_of
from fedrecon.simulation._block_plan import FAR, Slot, clients_in_block
from fedrecon.simulation._client_state_store import ClientStateStore, current_client_state
from fedrecon.simulation._compilation import engine_options, heavy
from fedrecon.simulation._devices import Devices
from fedrecon.simulation._programs import program_of
from fedrecon.simulation._trained_state import as_trained, warn_unchecked

# Pairs of a number of clients and the number of shapes of blocks that pay their compilation from there on.
_SHAPES = ((0, 1), (5_000, 2), (50_000, 4))
# The largest number of examples, with padding, of a block on a device: on a CPU (True) or elsewhere.
_PLACES = {True: 2**18, False: 2**20}


@dataclass(frozen=True)
class TopK:
    """A recommendation of the items with the highest scores under each client's local parameters.

    Attributes:
        count: The number of items to recommend, at least 1.
        field: Name of the field that holds items; the model's `predict` gets all items at once in this field.
        items: The number of items; the numbers in the field are below it.
        seen: Whether items that a client already has may be recommended; False by default.
    """

    count: int
    field: str
    items: int
    seen: bool = False

    def __post_init__(self) -> None:
        store_whole_numbers(self, 1, "count", "items")
        if self.count > self.items:
            raise ValueError(f"count must be at most the {self.items:,} items, got {self.count}")


class Personalization:
    """Personalises clients with all of their examples as support set.

    The clients are laid out in blocks of a few lengths; a program for each is compiled at its first use. A
    client's results do not depend on its block, up to rounding, and are the same to the bit if the same
    clients are passed together. Several threads may call it.

    Attributes:
        lengths: The numbers of examples to which clients are padded, ascending.

    Args:
        algorithm: The algorithm whose `personalize` is called.
        state: The server's state, whose round decides schedules and adaptive epochs. If `train` or
            `Simulation` returned it, fields of clients that have original ids are renumbered as those of the
            training clients, and examples of other ids are left out with a warning.
        num_examples: The numbers of examples of all clients that will be personalised, or of many like them,
            `[client]`, by which the lengths are chosen.
        seed: The seed of the clients' draws; 0 by default.
        top: The recommendation to make; None, the default, returns the local parameters themselves.
        client_states: The states of seen clients; a client without an entry starts as in its first round.
            None, the default, lets all clients start so.
        clients_per_block: The number of clients that a device vectorises over; by default 64 on a CPU and
            1,024 elsewhere. Blocks of very long clients have fewer in any case.
        devices: The number of devices of this process that share the clients of a block; None, the default,
            for all.
        lengths: The numbers of examples to which clients are padded, ascending; None, the default, for those
            that leave the fewest places empty among `num_examples`. With given lengths a client's results
            are the same to the bit whatever other clients are passed with it.

    Raises:
        TypeError: An argument is of another type.
        ValueError: Items are to be recommended, but the model has no `predict` or fewer items; or a number is
            not a whole number, or is out of its range.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        state: ServerState,
        num_examples: Int[np.ndarray, "client"],
        *,
        seed: int = 0,
        top: TopK | None = None,
        client_states: ClientStateStore | None = None,
        clients_per_block: int | None = None,
        devices: int | None = None,
        lengths: Sequence[int] | None = None,
    ):
        of_kind(Algorithm, algorithm=algorithm)
        of_kind(ServerState, state=state)
        seed = whole_number("seed", seed)
        if clients_per_block is not None:
            clients_per_block = whole_number("clients_per_block", clients_per_block, 1)
        if top is not None:
            _check_items(top, algorithm.personal_model, state)
        self._devices = Devices.here(devices)
        self._algorithm, self._seed, self._top, self._client_states = algorithm, seed, top, client_states
        self._trained = state
        self._state = self._devices.everywhere(state)
        self._options = engine_options(heavy(state.global_params, algorithm.model.tables))
        self.lengths = block_lengths(num_examples) if lengths is None else check_lengths(lengths)
        most = clients_per_block or default_clients_per_block()
        self._widths = {
            length: clients_in_block(length, most, _PLACES[jax.default_backend() == "cpu"])
            * len(self._devices)
            for length in self.lengths
        }
        self._compiling = {length: Lock() for length in self.lengths}
        self._compiled: set[int] = set()
        self._reading = Lock()

    def __call__(self, clients: Clients, have: Clients | None = None) -> dict[str, np.ndarray]:
        """Computes the local parameters of some clients, or recommends items to them.

        Args:
            clients: The clients to personalise, whose examples and results must fit in memory several times.
            have: The same clients with all items that they have, if these are more than those by which they
                are personalised; None, the default, for the items of `clients`.

        Returns:
            Without `top` each leaf of the local parameters by its path, `[client, ...]`. With `top` the
            numbers of the items, best first, under `top.field`, and their scores under `"score"`, both
            `[client, count]`; a score of -inf marks a place without an item.

        Warns:
            RuntimeWarning: Examples were left out, of ids unknown to the training clients.
            UncheckedWarning: The clients have original ids, and the state does not say by which it was
                trained.

        Raises:
            DataError: The clients cannot be numbered as the training clients were.
            ValueError: A client has more examples than any of `num_examples`, a field does not fit the
                model, or `have` are other clients.
        """
        have = clients if have is None else have
        if not np.array_equal(have.keys, clients.keys):
            raise ValueError("have must be the same clients in the same order, it has others")
        warn_unchecked(clients, self._trained)
        same, clients = have is clients, as_trained(clients, self._trained)
        have = clients if same else as_trained(have, self._trained)
        layout = Layout(self._algorithm.personal_model, clients, self._state.global_params)
        # The keys of an evaluation, so that a client is served with the parameters with which it is
        # evaluated.
        keys = round_keys(self._seed, Purpose.EVALUATION, 0, clients.keys)
        results = []
        for length, positions in self._blocks(np.maximum(clients.num_examples, have.num_examples)):
            slot = Slot(1, self._widths[length], length)
            batch = layout.batch(slot, positions, keys[positions], cut=())
            if self._client_states is not None:
                with self._reading:
                    stored = self._client_states.get(clients.keys[positions], slot.clients)
                batch = batch._replace(client_state=jax.tree.map(lambda x: x[None], stored))
            own = () if self._top is None or self._top.seen else self._own(self._top, have, positions, length)
            results.append((positions, self._run(length, (batch, own))))
        return _in_order(results, len(clients))

    def _blocks(self, lengths: Int[np.ndarray, "client"]) -> Any:
        """Cuts clients into blocks, and yields the length and the clients' positions of each block."""
        if lengths.max(initial=0) > self.lengths[-1]:
            raise ValueError(
                f"blocks are laid out for at most {self.lengths[-1]} examples per client, got {lengths.max()}"
            )
        order = np.argsort(lengths, kind="stable")
        ends = np.searchsorted(lengths[order], self.lengths, side="right")
        for length, start, end in zip(self.lengths, [0, *ends[:-1]], ends, strict=True):
            width = self._widths[length]
            for first in range(start, end, width):
                yield length, order[first : min(first + width, end)]

    def _own(
        self, top: TopK, have: Clients, positions: Int[np.ndarray, "row"], length: int
    ) -> Int[np.ndarray, "1 client item"]:
        """The items that some clients have, padded with the number of items, which is no item."""
        if top.field not in have.fields:
            raise ValueError(
                f"clients must have the field {top.field!r}, of which theirs are not recommended, they have "
                f"{list(have.fields)}"
            )
        ids = have.padded(top.field, positions, length).astype(np.int32)  # so that the padding fits
        there = np.arange(length) < have.num_examples[positions][:, None]
        ids = np.where(there.reshape(*there.shape, *[1] * (ids.ndim - 2)), ids, top.items)
        own = np.full((1, self._widths[length], ids[0].size), top.items, np.int32)
        own[0, : len(positions)] = ids.reshape(len(positions), -1)
        return own

    def _run(self, length: int, batch: tuple[Batch, Any]) -> Any:
        slot = Slot(1, self._widths[length], length)
        run = program_of(
            _personalize_block, self._algorithm, self._top, slot, self._devices, options=self._options
        )
        args = (self._state.global_params, self._state.round, batch)
        if length in self._compiled:
            return run(*args)
        with self._compiling[length]:  # so that two threads do not compile the same program
            result = run(*args)
            self._compiled.add(length)
        return result


def _check_items(top: TopK, model: Model, state: ServerState) -> None:
    if model.predict is None:
        raise ValueError("items can be recommended where a model has `predict`, this model has None")
    for table in model.tables:
        rows = leaf_at(state.global_params, table.leaf).shape[0]
        if top.field in table.fields and top.items > rows:
            raise ValueError(f"items must be at most the {rows:,} rows of {table.leaf!r}, got {top.items:,}")


def default_clients_per_block() -> int:
    """The default number of clients of a block on a device: 64 on a CPU, 1,024 elsewhere."""
    return 64 if jax.default_backend() == "cpu" else 1024


def block_lengths(num_examples: Int[np.ndarray, "client"]) -> list[int]:
    """The lengths to which clients are padded, ascending, chosen for the least padding.

    Args:
        num_examples: The numbers of examples of the clients, `[client]`.
    """
    longest = _rounded(num_examples.max(initial=1))
    if not len(num_examples):
        return [longest]
    most = max(shapes for clients, shapes in _SHAPES if len(num_examples) >= clients)
    shares = [*(np.arange(1, 20) / 20), 0.98, 0.99]
    if longest > FAR * np.quantile(num_examples, 0.95):
        most = max(most, 2)
    known = sorted({_rounded(x) for x in np.quantile(num_examples, shares)} - {longest})
    # At index i, the number of clients with at most 10 i examples.
    below = np.cumsum(np.bincount(-(-np.maximum(num_examples, 1) // 10)))

    def places(lengths: tuple[int, ...]) -> int:
        upto = [0, *(int(below[length // 10]) for length in lengths)]
        return sum(length * (b - a) for length, a, b in zip(lengths, upto[:-1], upto[1:], strict=True))

    cuts = itertools.combinations(known, min(most - 1, len(known)))
    choices: list[tuple[int, ...]] = [(*lengths, longest) for lengths in cuts]
    shortest: tuple[int, ...] = min(choices, key=places)
    return list(shortest)


def check_lengths(lengths: Sequence[int]) -> list[int]:
    """The lengths of blocks, which must be whole numbers of at least 1 that ascend.

    Raises:
        ValueError: They are not.
    """
    numbers = [whole_number("lengths", length, 1) for length in lengths]
    if not numbers or any(a >= b for a, b in itertools.pairwise(numbers)):
        raise ValueError(f"lengths must ascend, and be one at least, got {plain(list(lengths))}")
    return numbers


def _rounded(length: Number) -> int:
    return -(-max(int(np.ceil(length)), 1) // 10) * 10


def _personalize_block(
    algorithm: Algorithm,
    top: TopK | None,
    slot: Slot,
    devices: Devices,
    global_params: Params,
    round: Int[Array, ""],
    block: tuple[Batch, Any],
) -> dict[str, Any]:
    def client(global_params: Params, round: Int[Array, ""], given: tuple[Batch, Any]) -> dict[str, Any]:
        batch, own = given
        examples = examples_of(batch.data, batch.count, slot.length)
        key = key_of(batch.key)
        client_state = current_client_state(algorithm, global_params, batch.client_state, key)
        local = algorithm.personalize(Broadcast(global_params, round), client_state, examples, key)
        if top is None:
            return leaves_of(local)
        scores = _scores(algorithm, top, global_params, local)
        if not top.seen:
            scores = scores.at[own].set(-jnp.inf, mode="drop")
        values, items = best(scores, top.count)
        return {top.field: items, "score": values}

    def clients(global_params: Params, round: Int[Array, ""], block: tuple[Batch, Any]) -> dict[str, Any]:
        one = functools.partial(client, global_params, round)
        return jax.vmap(one)(jax.tree.map(lambda x: jnp.asarray(x)[0], block))

    return devices.each(clients)(global_params, round, block)


def _scores(algorithm: Algorithm, top: TopK, global_params: Params, local: Params) -> Any:
    features = {top.field: jnp.arange(top.items)}
    predict: Any = algorithm.personal_model.predict
    try:
        scores = predict(global_params, local, features)
    except KeyError as error:
        missing = error.args[0]
        raise ValueError(
            f"items are scored by the field {top.field!r} alone, but the model's predict looks up {missing!r}"
            f"{did_you_mean(str(missing), features)}"
        ) from error
    if jnp.shape(scores) != (top.items,):
        raise ValueError(
            f"predict must return a score for each of the {top.items:,} items, "
            f"got the shape {jnp.shape(scores)}"
        )
    return scores


def _in_order(results: list[tuple[Any, Any]], num_clients: int) -> dict[str, np.ndarray]:
    joined: dict[str, np.ndarray] = {}
    for positions, values in results:
        for name, x in values.items():
            x = np.asarray(x)
            if name not in joined:
                joined[name] = np.zeros((num_clients, *x.shape[1:]), x.dtype)
            joined[name][positions] = x[: len(positions)]
    return joined
