"""The record of pure functions that every algorithm is, cut where the network is."""

import functools
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import optax
from jaxtyping import Array, Int, PyTree

from fedrecon.core._examples import Examples
from fedrecon.core._mean import Mean
from fedrecon.core._model import Model
from fedrecon.core._types import AggregatorState, ClientState, Number, Params, PRNGKey
from fedrecon.solvers._optimizers import describe


class ServerState(NamedTuple):
    """All that the server holds between rounds.

    Attributes:
        global_params: The global parameters after `round` rounds.
        opt_state: The state of the server's Optax optimiser.
        aggregator_state: The state of the aggregator; `()` for an aggregator without one.
        round: The number of rounds done, int32.
        privacy: The state of the ledger of `fedrecon.privacy`; `()`, the default, without one.
        late: In a simulation with late updates, their sums by the round that will count them; `()`, the
            default, without them.
    """

    global_params: Params
    opt_state: Any
    aggregator_state: Any
    round: Int[Array, ""]
    privacy: Any = ()
    late: Any = ()


class Broadcast(NamedTuple):
    """All that reaches a client.

    Attributes:
        global_params: The global parameters, in which a table may have only the rows that the client
            requested.
        round: The number of rounds done before this one, which schedules and adaptive epochs need, int32.
        extra: Further values that an algorithm announces to clients, such as a clipping norm; `()` by
            default.
    """

    global_params: Params
    round: Int[Array, ""]
    extra: PyTree[Any] = ()


class Update(NamedTuple):
    """All that leaves a client.

    Attributes:
        delta: The change of the global parameters, new minus old, times the client's weight, with that
            weight. A table that `rows` names has only the changes of these rows.
        rows: The row numbers of a table's delta by the table's path; their shape is the leading shape of the
            delta. Tables without an entry have a dense delta.
        metrics: Means over the client's examples by the metric's name, scalars.
        statistics: Further values for the server; `()` by default. Simulations sum those that `row_counts`
            of the algorithm names.
    """

    delta: Mean
    rows: dict[str, Any]
    metrics: dict[str, Mean]
    statistics: PyTree[Any] = ()


@runtime_checkable
class InitFn(Protocol):
    """Makes the server's state before the first round."""

    def __call__(self, key: PRNGKey, global_params: Params | None = None, /) -> ServerState:
        """The state with `round` 0. Its structure and shapes must not depend on the key.

        Args:
            key: The random key from which the global parameters are drawn.
            global_params: Global parameters to start from instead; None, the default, to draw them. The
                states of optimiser and aggregator are made for them.
        """


@runtime_checkable
class InitClientStateFn(Protocol):
    """Makes a client's state before its first round."""

    def __call__(self, global_params: Params, key: PRNGKey, /) -> ClientState:
        """The state: a pytree of arrays of the structure, shapes and types that `ClientUpdateFn` returns.

        It is `()` for stateless clients.

        Args:
            global_params: The global parameters that reached the client in its first round.
            key: The client's random key in that round.
        """


@runtime_checkable
class ClientUpdateFn(Protocol):
    """Computes a client's update and its state after a round, on the client."""

    def __call__(
        self, broadcast: Broadcast, client_state: ClientState, examples: Examples, key: PRNGKey, /
    ) -> tuple[Update, ClientState]:
        """The update, which leaves the client, and the client's next state, which does not.

        The numbers must not depend on how much padding the examples have. A client without examples must send
        weight 0, and so must one whose delta is not finite: `update_of` does both.

        Args:
            broadcast: The server's broadcast of the round.
            client_state: The state that the client held after its last round, or in its first round the one
                that `InitClientStateFn` made; `()` for a stateless algorithm.
            examples: All examples of the client, valid ones first.
            key: The client's random key in this round, which follows from the seed, the round and the
                client's name.
        """


@runtime_checkable
class ServerUpdateFn(Protocol):
    """Computes the server's next state from the sum of a round's updates."""

    def __call__(self, state: ServerState, update: Update, /) -> ServerState:
        """The next state, its `round` one higher.

        It must be pure: where a cohort is summed in several parts, it may be computed for each part, and only
        the result for the whole cohort is used.

        Args:
            state: The server's state before the round.
            update: The sum of the cohort's updates; its delta has weight 0 where no client was counted.
        """


@runtime_checkable
class AnnounceFn(Protocol):
    """Tells clients what they need of the server's state beside the parameters and the round."""

    def __call__(self, state: ServerState, /) -> PyTree[Any]:
        """What becomes `Broadcast.extra` in the next round.

        Args:
            state: The server's state before the round.
        """


@runtime_checkable
class PersonalizeFn(Protocol):
    """Fits a client's parameters to its support set: for evaluation, serving and export."""

    def __call__(
        self, broadcast: Broadcast, client_state: ClientState, support: Examples, key: PRNGKey, /
    ) -> Params:
        """Local parameters, read under `Algorithm.personal_model`.

        Args:
            broadcast: The server's broadcast, with whole tables.
            client_state: The client's state as in `ClientUpdateFn`; nothing that is computed from it here is
                stored.
            support: The client's examples to fit the parameters to, valid ones first.
            key: The client's random key, the same whenever it is served under one seed.
        """


@runtime_checkable
class ClientWeightFn(Protocol):
    """Weighs a client in the mean of the cohort's deltas."""

    def __call__(self, loss: Mean, /) -> Number:
        """The weight, a scalar of at least 0; 0 where the client processed no example.

        Args:
            loss: The client's mean loss, scalars. Its weight is the number of examples (of tokens, for text)
                that the update phase processed.
        """


@runtime_checkable
class Aggregator(Protocol):
    """Turns the sum of a cohort's updates into the server optimiser's pseudo-gradient.

    It is pure, hashable, and a frozen dataclass, so that records and run folders can tell it from another.
    """

    def init(self, global_params: Params) -> AggregatorState:
        """The aggregator's state before the first round; `()` for an aggregator without one."""

    def __call__(self, state: AggregatorState, update: Update) -> tuple[Params, AggregatorState]:
        """The pseudo-gradient and the next state.

        Args:
            state: The state that the aggregator returned in the last round.
            update: The sum of the cohort's updates; `update.delta.value()` is the weighted mean of the
                deltas.
        """


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Algorithm:
    """A federated algorithm: a record of pure functions, each of which a `Protocol` describes.

    Attributes:
        model: The view of the model that is trained.
        personal_model: The view of the model whose local parameters `personalize` returns.
        init: Makes the server's state before the first round, see `InitFn`.
        init_client_state: Makes a client's state before its first round, see `InitClientStateFn`.
        client_update: Computes a client's update and next state, see `ClientUpdateFn`.
        server_update: Computes the server's next state, see `ServerUpdateFn`.
        personalize: Fits a client's parameters to its support set, see `PersonalizeFn`.
        name: The algorithm's name, by which run folders recognise a run; it must not change; `"algorithm"` by
            default.
        hyperparameters: The arguments of the algorithm by their names, by which run folders recognise a run;
            the names must not change. Classes and functions among the arguments are recognised by their tags,
            see `fedrecon.core.tagged`. By default there are none.
        exchanges: The things that rounds send over a network, for the count of bytes: `"parameters"`, the
            default, down and up; `"nothing"`; or `"examples"`, which left the clients once, before the first
            round.
        privacy: The protection of the clients that `fedrecon.privacy.user_level_dp` set; None, the default,
            for none.
        compression: The compression of what clients send, as `fedrecon.privacy.compressed` sets it; None, the
            default, for none.
        announce: Tells clients more than parameters and round, see `AnnounceFn`; None, the default, for
            nothing more.
        unprotected_update: For simulations alone: as `client_update`, with metrics that no client sends under
            the protection; None, the default, where they are not asked for, or `client_update` has them.
        row_counts: Paths of tables for whose rows updates have a number each, in `statistics` by the path and
            in the order of the delta's rows; simulations sum them. Empty by default.
        takes_each: Whether `server_update` takes the cohort's updates side by side, with dense deltas and
            weights `[client, ...]`, in place of their sum; False by default.
    """

    model: Model
    personal_model: Model
    init: InitFn
    init_client_state: InitClientStateFn
    client_update: ClientUpdateFn
    server_update: ServerUpdateFn
    personalize: PersonalizeFn
    name: str = "algorithm"
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    exchanges: Literal["parameters", "nothing", "examples"] = "parameters"
    privacy: Any = None
    compression: Any = None
    announce: AnnounceFn | None = None
    unprotected_update: ClientUpdateFn | None = None
    row_counts: tuple[str, ...] = ()
    takes_each: bool = False

    @functools.cached_property
    def programs(self) -> "OrderedDict[Any, Any]":
        """The programs that were compiled for the algorithm last; they are freed together with it."""
        return OrderedDict()

    def broadcast(self, state: ServerState) -> Broadcast:
        """What reaches the clients of the next round, with whole tables."""
        extra = () if self.announce is None else self.announce(state)
        return Broadcast(state.global_params, state.round, extra)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles the algorithm, with the help of cloudpickle, without its programs."""
        return _unpickled, (_pickled({f.name: getattr(self, f.name) for f in fields(self)}),)

    def __copy__(self) -> "Algorithm":
        return self  # it cannot be changed

    def __deepcopy__(self, memo: dict[int, Any]) -> "Algorithm":
        return self

    def __repr__(self) -> str:
        inside = ", ".join(f"{k}={_show(v)}" for k, v in self.hyperparameters.items())
        return f"{self.name}({inside})"


def _pickled(attributes: Mapping[str, Any]) -> bytes:
    """An algorithm's attributes as bytes that `pickle.loads` reads.

    Raises:
        TypeError: The attributes hold functions that were made inside other functions, which the standard
            library cannot pickle, and cloudpickle is not installed.
    """
    try:
        import cloudpickle
    except ModuleNotFoundError:
        try:
            return pickle.dumps(dict(attributes))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise TypeError(
                "an algorithm holds functions that only the package cloudpickle can pickle; once it is "
                f"installed (pip install cloudpickle), the same call works: {error}"
            ) from None
    content: bytes = cloudpickle.dumps(dict(attributes))
    return content


def _unpickled(content: bytes) -> Algorithm:
    return Algorithm(**pickle.loads(content))


def _show(value: object) -> str:
    if isinstance(value, optax.GradientTransformation):
        return describe(value)
    return getattr(value, "__name__", None) or repr(value)
