"""One client of a deployment: its examples, the rows that it requests, and its updates."""

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from fedrecon._kernels.rows import groups
from fedrecon.algorithms._base import Algorithm, Broadcast, Update
from fedrecon.core._mean import Mean
from fedrecon.core._model import leaves_of, with_leaves
from fedrecon.core._types import Params
from fedrecon.data._clients import Clients
from fedrecon.data._hashing import Purpose, round_keys
from fedrecon.deployment._refusals import Refusal, RefusedError
from fedrecon.errors import DataError, of_kind
from fedrecon.simulation._batches import Batch, Layout
from fedrecon.simulation._block_plan import Slot
from fedrecon.simulation._client_state_store import StoredClientState
from fedrecon.simulation._client_step import View, client_step
from fedrecon.simulation._compilation import engine_options, heavy
from fedrecon.simulation._programs import program_of
from fedrecon.simulation._trained_state import in_run_vocabularies

_STEP = 10  # clients are padded to multiples of this many examples, so that several share a compiled program


class Client:
    """A client that computes its updates where its examples are.

    It runs the algorithm's `client_update`, with the random draws that the simulator gives the client of that
    name. From each table of the model it needs the rows that its examples name, and it changes no others.

    Attributes:
        algorithm: The algorithm that is trained.
        name: The client's name, from which its random draws follow.
        state: The client state between rounds; None before the client's first round, and for a stateless
            algorithm.

    Args:
        algorithm: The algorithm that is trained.
        examples: The client's examples: an array `[example, ...]` for each field, or `Clients` with this
            client alone.
        name: The client's name, an integer or a string.
        seed: The run's seed of the clients' random draws; noise for privacy never follows from it; 0 by
            default.
        state: The client state after an earlier round; None, the default, for a client without one.
        vocabularies: For each field that the run numbers, the original id of each number; needed where
            `examples` are `Clients` with original ids, whose fields are renumbered by them. None by default.
        length: The least number of examples to which the client is padded, so that the clients of one process
            share a compiled program; by default the next multiple of 10.

    Raises:
        DataError: The fields do not fit together, or do not index the model's tables; or they have original
            ids and `vocabularies` is None, or these are not theirs.
        TypeError: `algorithm` is not an `Algorithm`.

    Example:
        >>> from fedrecon import fedavg, optimizer, solvers
        >>> from fedrecon.models import matrix_factorization
        >>> sgd = optimizer("sgd", learning_rate=0.1)
        >>> algorithm = fedavg(matrix_factorization(30, 2), solvers.Solver(sgd, 5), sgd)
        >>> ann = Client(algorithm, {"item": [3, 1], "rating": [4.0, 5.0]}, "ann")
        >>> ann.rows["0/item/factors"].tolist()
        [1, 3]
    """

    def __init__(
        self,
        algorithm: Algorithm,
        examples: Mapping[str, Any] | Clients,
        name: Any,
        seed: int = 0,
        *,
        state: Any = None,
        vocabularies: Mapping[str, Any] | None = None,
        length: int = 0,
    ):
        of_kind(Algorithm, algorithm=algorithm)
        clients = examples if isinstance(examples, Clients) else Clients.from_arrays({name: examples})
        if len(clients) != 1 or clients.ids[0] != name:
            raise DataError(f"examples must be those of the client {name!r} alone, got {clients!r}")
        clients = in_run_vocabularies(clients, vocabularies)
        self.algorithm, self.name, self.state = algorithm, name, state
        self._seed, self._key = seed, clients.keys
        count = int(clients.num_examples[0])
        length = max(-(-count // _STEP) * _STEP, length, 1)
        tables, self._shapes = groups(algorithm.model.tables), _shapes_of(algorithm)
        self._options = engine_options(heavy(self._shapes, algorithm.model.tables))
        layout = Layout(algorithm.model, clients, self._shapes)
        cut = {group.name: group for group in tables}
        fields = (group.fields for group in tables)
        positional = tuple(f for names in fields for f in names if f in layout.positional)
        self._view = View(length, tables, positional)
        slot = Slot(1, 1, length)
        batch = layout.batch(slot, np.zeros(1, np.int64), np.zeros((1, 2), np.uint32), cut=tables)
        self._batch: Batch = jax.tree.map(lambda x: x[0, 0], batch)
        # The place of each requested row among the rows that the compiled program numbers. The request is in
        # ascending order, since the order of the examples would tell in which order the client made them.
        self._places, by_group = {}, {}
        for group, requested in self._batch.rows.items():
            used = np.flatnonzero(requested < layout.sizes[group])
            self._places[group] = used[np.argsort(requested[used])]
            by_group[group] = requested[self._places[group]]
        self._group_of = {leaf: name for name, group in cut.items() for leaf in group.leaves}
        self._sizes = {leaf: layout.sizes[name] for leaf, name in self._group_of.items()}
        self.rows: dict[str, Int[np.ndarray, "row"]] = {
            leaf: by_group[name] for leaf, name in self._group_of.items()
        }
        """The rows of each table that the client needs, ascending and without repetition, int32."""

    def update(self, broadcast: Broadcast) -> Update:
        """Computes the client's update of a round, and replaces `state`.

        Args:
            broadcast: The round's broadcast, with whole tables or with the rows of `rows`, in that order.

        Returns:
            The update as NumPy arrays. It has all rows of `rows`, changed or not, so that it does not show
            which of them occur in the client's query set.

        Raises:
            RefusedError: A leaf is missing, or has neither the model's shape nor that of the requested rows.
        """
        params = self._cut(broadcast.global_params)
        round = int(broadcast.round)
        key = round_keys(self._seed, Purpose.TRAINING, round, self._key)[0]
        batch = self._batch._replace(key=key, client_state=self._stored(params))
        run = program_of(client_step, self.algorithm, self._view, options=self._options)
        broadcast = Broadcast(params, jnp.int32(round), broadcast.extra)
        update, state = jax.device_get(run(broadcast, batch))
        self.state = state if jax.tree.leaves(state) else None
        return self._on_rows(update)

    def _stored(self, params: Params) -> Any:
        like = client_state_like(self.algorithm, params)
        if not jax.tree.leaves(like):
            return ()
        if self.state is None:
            return StoredClientState(
                np.bool_(False), jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)
            )
        return StoredClientState(np.bool_(True), self.state)

    def _cut(self, params: Params) -> Params:
        """The global parameters, each table reduced to the rows in the compiled program's order."""
        given, wanted = leaves_of(params), leaves_of(self._shapes)
        if given.keys() != wanted.keys():
            raise RefusedError(
                Refusal.WRONG_LEAF, f"a broadcast must have the leaves {sorted(wanted)}, got {sorted(given)}"
            )
        small = {}
        for leaf, x in given.items():
            shape = wanted[leaf].shape
            if leaf not in self.rows:
                _check_shape(leaf, x, shape)
                continue
            ids = self.rows[leaf]
            whole = np.shape(x) == shape
            if not whole:
                _check_shape(leaf, x, (len(ids), *shape[1:]))
            group = self._group_of[leaf]
            table = np.zeros((len(self._batch.rows[group]), *shape[1:]), wanted[leaf].dtype)
            table[self._places[group]] = np.asarray(x)[ids] if whole else np.asarray(x)
            small[leaf] = table
        return with_leaves(params, small)

    def _on_rows(self, update: Update) -> Update:
        """The update with each table's delta summed by row, in the order of `rows`."""
        sent = {}
        for leaf, delta in leaves_of(update.delta.total).items():
            if leaf not in self.rows:
                continue
            places = self._places[self._group_of[leaf]]
            if leaf in update.rows:
                delta = _by_row(delta, update.rows[leaf], len(self._batch.rows[self._group_of[leaf]]))
            sent[leaf] = delta[places]
        total = with_leaves(update.delta.total, sent)
        return update._replace(delta=Mean(total, update.delta.weight), rows=dict(self.rows))


def client_state_like(algorithm: Algorithm, global_params: Params | None = None) -> Any:
    """Shapes and types of the client state; a pytree without leaves for a stateless algorithm.

    Args:
        algorithm: The algorithm whose clients keep the state.
        global_params: The global parameters that reach the client; None, the default, for those with whole
            tables.
    """
    if global_params is None:
        global_params = _shapes_of(algorithm)
    return jax.eval_shape(algorithm.init_client_state, global_params, jax.random.key(0))


def _by_row(delta: Any, ids: Int[np.ndarray, "*id"], size: int) -> np.ndarray:
    """The sum of a table's delta, `[*id, ...]`, for each of its `size` rows; higher ids are padding."""
    rows = np.zeros((size + 1, *delta.shape[ids.ndim :]), delta.dtype)
    np.add.at(rows, np.minimum(ids.reshape(-1), size), delta.reshape(-1, *rows.shape[1:]))
    return rows[:size]


def _check_shape(leaf: str, x: Any, wanted: tuple[int, ...]) -> None:
    if np.shape(x) != wanted:
        raise RefusedError(
            Refusal.WRONG_SHAPE, f"the broadcast's leaf {leaf!r} must be of shape {wanted}, got {np.shape(x)}"
        )


_SHAPES: WeakKeyDictionary[Algorithm, Params] = WeakKeyDictionary()


def _shapes_of(algorithm: Algorithm) -> Params:
    """Shapes and types of the algorithm's global parameters, which all of its clients share."""
    if algorithm not in _SHAPES:
        _SHAPES[algorithm] = jax.eval_shape(algorithm.model.init_global, jax.random.key(0))
    return _SHAPES[algorithm]
