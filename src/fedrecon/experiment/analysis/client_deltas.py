"""What the training clients of a run would send in its next round, and the truth about them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from fedrecon.algorithms._base import Algorithm, ServerState
from fedrecon.algorithms._building_blocks import subkeys
from fedrecon.core._examples import Examples
from fedrecon.core._model import Table, leaves_of, origin_of
from fedrecon.core._splits import NoSplit
from fedrecon.core._types import Params
from fedrecon.data._clients import Clients
from fedrecon.data._hashing import Purpose, round_keys
from fedrecon.errors import RunError
from fedrecon.experiment.training.run_spec import RunSpec
from fedrecon.privacy import attacks
from fedrecon.privacy._clipping import dense
from fedrecon.privacy._guarantee import KEY_WORDS, UserLevelDP
from fedrecon.simulation._batches import key_of
from fedrecon.simulation._client_state_store import ClientStateStore, current_client_state
from fedrecon.solvers._gradient import Solver
from fedrecon.solvers._optimizers import NamedOptimizer

ITEM, RATING = "item", "rating"
USER_VECTOR = "user/factors"


@dataclass(frozen=True, eq=False)
class ItemTables:
    """The item tables of a model.

    Attributes:
        factors: The path of the table of vectors.
        bias: The path of the table of biases; None if there is none.
    """

    factors: str
    bias: str | None

    @staticmethod
    def of(algorithm: Algorithm, params: Params) -> "ItemTables":
        """The tables that items index.

        Raises:
            RunError: The model has no table of vectors of items.
        """
        leaves = leaves_of(params)
        # Error feedback works on whole tables, which its view of the model no longer declares.
        views = (algorithm.model, origin_of(algorithm.model))
        names = [table.leaf for view in views for table in view.tables if table.fields == (ITEM,)]
        paths = [*dict.fromkeys(x for name in names for x in (name, f"0/{name}") if x in leaves)]
        factors = [path for path in paths if np.ndim(leaves[path]) == 2]
        biases = [path for path in paths if np.ndim(leaves[path]) == 1]
        if not factors:
            raise RunError(
                f"an audit of updates and sums must have a model with a table of vectors of the field "
                f"{ITEM!r}, this one has the tables {[table.leaf for table in algorithm.model.tables]}"
            )
        return ItemTables(factors[0], biases[0] if biases else None)

    def delta(self, tree: Params) -> attacks.ItemDelta:
        """The item tables among parameters, or among a dense delta; without biases, zeros."""
        leaves = leaves_of(tree)
        factors = np.asarray(leaves[self.factors])
        bias = np.zeros(len(factors), factors.dtype) if self.bias is None else np.asarray(leaves[self.bias])
        return attacks.ItemDelta(factors, bias)


@dataclass(frozen=True, eq=False)
class ClientDeltas:
    """The deltas of some training clients, and the truth about them.

    Attributes:
        tables: The item tables of the model.
        params: The item tables that the clients got.
        total: The sum of all deltas, whole parameters.
        deltas: Each client's delta of the item tables; empty where only their sum was asked for.
        items: The rows of the items in each client's query set, none twice.
        ratings: The ratings of these items; None for examples without ratings.
        vectors: Each client's true vector; None for a model without one.
        step: The change of an item's bias for a residual of 1; None where the update phase is not a single
            gradient step, or there are no biases.
        per_example: Whether that change is divided by the number of a client's query examples.
        global_bias: The number that the model adds to all predictions.
        scale: The lowest and the highest rating.
        unit: The distance between neighbouring ratings.
        seed: The seed of the run.
        releases: The number of noised sums of a private run so far; 0 for others.
        clip_factor: The clipping bounds of a private run's next round over those of its first; 1 for bounds
            that stay, and for other runs.
        counts: The sums of the clients' contributions to rows, by which a private run selects them; empty,
            the default, for other runs.
        declared: The tables that the model declares; none by default.
    """

    tables: ItemTables
    params: attacks.ItemDelta
    total: Params
    deltas: Sequence[attacks.ItemDelta]
    items: Sequence[Int[np.ndarray, "rated"]]
    ratings: Sequence[Float[np.ndarray, "rated"]] | None
    vectors: Sequence[Float[np.ndarray, "factor"]] | None
    step: float | None
    per_example: bool
    global_bias: float
    scale: tuple[float, float]
    unit: float
    seed: int
    releases: int
    clip_factor: float
    counts: Mapping[str, Any] = field(default_factory=dict)
    declared: tuple[Table, ...] = ()

    @staticmethod
    def of(
        spec: RunSpec,
        state: ServerState,
        client_states: ClientStateStore | None,
        positions: Int[np.ndarray, "client"],
        *,
        summed: bool,
    ) -> "ClientDeltas":
        """Computes what some clients would send in the next round.

        Args:
            spec: The specification of the run.
            state: The server's state before that round.
            client_states: The states of the clients; None for a stateless algorithm.
            positions: The positions of the clients among the training clients.
            summed: Whether only the sum of the deltas is kept, which takes far less memory.

        Raises:
            RunError: The model has no item tables.
        """
        algorithm, clients, params = spec.algorithm, spec.clients, state.global_params
        tables = ItemTables.of(algorithm, params)
        sent = _program(algorithm, state)
        length = int(clients.num_examples.max())
        keys = round_keys(spec.seed, Purpose.TRAINING, int(state.round), clients.keys[positions])
        total = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32)), params)
        selects = algorithm.privacy is not None and algorithm.privacy.selection is not None
        deltas, items, ratings, vectors = [], [], [], []
        counts: Any = {}
        for position, key in zip(positions, keys, strict=True):
            stored: Any = ()
            if client_states is not None:
                stored = jax.tree.map(lambda x: x[0], client_states.get(clients.keys[[position]], 1))
            given = _padded(clients, int(position), length)
            delta, query, vector, contributions = sent(given, stored, key_of(key))
            total = jax.tree.map(jnp.add, total, delta)
            if selects:
                counts = jax.tree.map(jnp.add, counts, contributions) if counts else contributions
            if not summed:
                deltas.append(tables.delta(jax.device_get(delta)))
            mask = np.asarray(query.mask)
            rows, first = np.unique(np.asarray(query.data[ITEM])[mask], return_index=True)
            items.append(rows)
            if RATING in query.data:
                ratings.append(np.asarray(query.data[RATING])[mask][first])
            if vector is not None:
                vectors.append(np.asarray(vector, np.float64))
        step, per_example = _gradient_step(algorithm)
        adaptive = algorithm.privacy is not None and algorithm.privacy.adaptive is not None
        scale, unit = _rating_scale(clients)
        return ClientDeltas(
            tables=tables,
            params=tables.delta(jax.device_get(params)),
            total=total,
            deltas=deltas,
            items=items,
            ratings=ratings or None,
            vectors=vectors or None,
            step=None if tables.bias is None else step,
            per_example=per_example,
            global_bias=_global_bias(algorithm, params, clients),
            scale=scale,
            unit=unit,
            seed=spec.seed,
            releases=0 if algorithm.privacy is None else int(state.privacy.releases),
            clip_factor=float(state.privacy.clip_factor) if adaptive else 1.0,
            counts=counts,
            declared=algorithm.model.tables,
        )

    @property
    def attackable_ratings(self) -> Sequence[Float[np.ndarray, "rated"]] | None:
        """The ratings where the attack applies; None where it does not."""
        return None if self.step is None else self.ratings

    @property
    def attackable_vectors(self) -> Sequence[Float[np.ndarray, "factor"]] | None:
        """The vectors where the attack applies; None where it does not."""
        return None if self.tables.bias is None else self.vectors

    def recover(self, delta: attacks.ItemDelta) -> attacks.RecoveredUser:
        """What a delta gives away, as far as attacks apply to the algorithm."""
        items, vector = attacks.touched_items(delta), attacks.user_vector(delta)
        if self.step is None or self.ratings is None:
            return attacks.RecoveredUser(items, vector, np.full(len(items), np.nan))
        return attacks.recover_user(
            delta,
            self.params,
            step=self.step / len(items) if self.per_example and len(items) else self.step,
            global_bias=self.global_bias,
            scale=self.scale,
            unit=self.unit,
        )

    def noised_sum(self, privacy: UserLevelDP | None) -> attacks.ItemDelta:
        """The item tables of the sum of all deltas, with the run's noise if it adds any.

        Rows that a private run does not select are 0. The noise is drawn with a key of its own, which is not
        secret.
        """
        total = self.total
        if privacy is not None:
            keys = np.random.default_rng(self.seed).integers(
                1, 2**32, (privacy.noise_bands, KEY_WORDS), np.uint32
            )
            # Before the first rounds there were fewer than the bands go back.
            keys[self.releases + 1 :] = 0
            key = keys[0] if privacy.noise_bands == 1 else keys
            total = privacy.noised(total, jnp.asarray(key), self.clip_factor)
            if privacy.selection is not None:
                total = privacy.cut_to_selected(total, self.counts, jnp.asarray(key), self.declared)
        return self.tables.delta(jax.device_get(total))


def _program(algorithm: Algorithm, state: ServerState) -> Any:
    """The compiled computation of a client: its dense delta, query set, vector or None, and statistics."""
    split = algorithm.hyperparameters.get("split", NoSplit())

    @jax.jit
    def sent(given: Examples, stored: Any, key: Any) -> tuple[Params, Examples, Any, Any]:
        broadcast = algorithm.broadcast(state)
        client_state = current_client_state(algorithm, state.global_params, stored, key)
        update = algorithm.client_update(broadcast, client_state, given, key)[0]
        # The weight of a private update divides nothing: where bounds follow the norms it is a count.
        mean = update.delta
        value = mean.value() if algorithm.privacy is None else mean.total
        delta = dense(value, update.rows, state.global_params)
        # As algorithms with a split draw it; that of the others has all examples in both parts.
        support, query = split(given, subkeys(key, 1)[0])
        local = algorithm.personalize(broadcast, client_state, support, key)
        return delta, query, leaves_of(local).get(USER_VECTOR), update.statistics

    return sent


def _padded(clients: Clients, position: int, length: int) -> Examples:
    data = clients[clients.ids[position]]
    count = int(clients.num_examples[position])
    blank = {name: clients.blank(name, length - count) for name in data}
    return Examples(
        {name: np.concatenate([values, blank[name]]) for name, values in data.items()},
        np.arange(length) < count,
    )


def _gradient_step(algorithm: Algorithm) -> tuple[float | None, bool]:
    """What the update phase moves a bias by for a residual of 1, and whether that is over the examples.

    None for an update phase that is not one gradient step on all query examples: what its residuals were is
    then not known.
    """
    update = algorithm.hyperparameters.get("update")
    if not isinstance(update, Solver) or update.batch_size is not None or update.epochs != 1:
        return None, False
    if not isinstance(update.optimizer, NamedOptimizer) or not update.optimizer.plain or update.schedule:
        return None, False
    rate = float(update.optimizer.hyperparameters["learning_rate"])
    return 2 * rate, update.reduction == "mean"  # 2, of the derivative of a square


def _global_bias(algorithm: Algorithm, params: Params, clients: Clients) -> float:
    """What the model predicts where all its parameters are 0."""
    predict = algorithm.model.predict
    if predict is None:
        return 0.0
    key = jax.random.key(0)
    local = jax.eval_shape(algorithm.model.init_local, params, key)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (params, local))
    one = {name: clients.blank(name, 1) for name in clients.fields}
    return float(np.ravel(predict(zeros[0], zeros[1], one))[0])


def _rating_scale(clients: Clients) -> tuple[tuple[float, float], float]:
    """The lowest and highest rating, and the distance between neighbouring ones: everybody knows them."""
    if RATING not in clients.fields:
        return (0.0, 1.0), 1.0
    values = np.unique(np.concatenate([np.unique(x.column(RATING)) for x in clients.pieces()]))
    unit = float(np.min(np.diff(values))) if len(values) > 1 else 1.0
    return (float(values[0]), float(values[-1])), unit
