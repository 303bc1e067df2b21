"""What every algorithm is: pure functions in a record, cut where the network is."""

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
        privacy: The state of the ledger of `fedrecon.privacy`; `()` without one.
    """

    global_params: Params
    opt_state: Any
    aggregator_state: Any
    round: Int[Array, ""]
    privacy: Any = ()


class Broadcast(NamedTuple):
    """All that reaches a client.

    Attributes:
        global_params: The global parameters; of tables, the rows that the client asked for.
        round: Rounds done before this one: schedules and adaptive epochs need it.
        extra: Further values that an algorithm announces to clients, such as a clipping norm; `()` by
            default.
    """

    global_params: Params
    round: Int[Array, ""]
    extra: PyTree[Any] = ()


class Update(NamedTuple):
    """All that leaves a client.

    Attributes:
        delta: New minus old global parameters, weighted; of a table that `rows` names, of the touched rows.
        rows: By the path of a table, the row numbers of its delta; their shape is the leading shape of the
            table's delta. Tables that are not named here have a dense delta.
        metrics: Means over the client's examples by name, scalars.
        statistics: Further values that the algorithm's aggregator asks for; `()` by default.
    """

    delta: Mean
    rows: dict[str, Any]
    metrics: dict[str, Mean]
    statistics: PyTree[Any] = ()


@runtime_checkable
class InitFn(Protocol):
    """Makes the server's state before the first round."""

    def __call__(self, key: PRNGKey, global_params: Params | None = None, /) -> ServerState:
        """The state, its `round` 0. Its structure and shapes must not depend on the key.

        Args:
            key: Random key to draw the global parameters with.
            global_params: Given ones, for which the optimiser's and the aggregator's state are made.
        """


@runtime_checkable
class InitClientStateFn(Protocol):
    """Makes what a client holds before its first round."""

    def __call__(self, global_params: Params, key: PRNGKey, /) -> ClientState:
        """Any pytree of arrays, `()` for stateless clients; it must have the structure, shapes and types that
        `ClientUpdateFn` returns.

        Args:
            global_params: The global parameters that reached the client in its first round.
            key: The client's random key.
        """


@runtime_checkable
class ClientUpdateFn(Protocol):
    """Computes on a client what it sends in a round, and what it holds afterwards."""

    def __call__(
        self, broadcast: Broadcast, client_state: ClientState, examples: Examples, key: PRNGKey, /
    ) -> tuple[Update, ClientState]:
        """What leaves the client, and its next state, which does not.

        The numbers must not depend on how much padding the examples have. A client without an example sends
        weight 0, and what is not finite must have weight 0: `update_of` sees to both.

        Args:
            broadcast: The server's broadcast of the round.
            client_state: The state that the client held after its last round, or in its first round the one
                that `InitClientStateFn` made; `()` for a stateless algorithm.
            examples: All examples of the client, valid ones first.
            key: The client's in this round: from the seed, the round and the client's name.
        """


@runtime_checkable
class ServerUpdateFn(Protocol):
    """Makes the server's next state of a round's updates."""

    def __call__(self, state: ServerState, update: Update, /) -> ServerState:
        """The next state, its `round` one higher.

        It must be pure: where a cohort is summed in several parts, it may be computed for each, and all
        results but that of the whole are thrown away.

        Args:
            state: The server's state before the round.
            update: The sum over the cohort; its delta's weight is 0 where nobody sent anything.
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
            support: The client's examples that it may be personalised by, valid ones first.
            key: The client's, the same whenever it is served under one seed.
        """


@runtime_checkable
class ClientWeightFn(Protocol):
    """Weighs a client in the mean of the cohort's deltas."""

    def __call__(self, loss: Mean, /) -> Number:
        """The weight, a scalar of at least 0; 0 where the client processed no example.

        Args:
            loss: The client's mean loss, scalars; its weight is the number of examples (of text, of tokens)
                that the update phase processed.
        """


@runtime_checkable
class Aggregator(Protocol):
    """Turns the sum of a cohort's updates into the server optimiser's pseudo-gradient.

    It is pure, hashable, and a frozen dataclass, so that records and run folders can tell it from another.
    """

    def init(self, global_params: Params) -> AggregatorState:
        """The state that the aggregator keeps before the first round; `()` for none."""

    def __call__(self, state: AggregatorState, update: Update) -> tuple[Params, AggregatorState]:
        """The pseudo-gradient and the next state.

        Args:
            state: The state that the aggregator returned in the last round.
            update: The sum over the cohort; `update.delta.value()` is the weighted mean of the deltas.
        """


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Algorithm:
    """A federated algorithm: a record of pure functions, each with a `Protocol` that says what it promises.

    Attributes:
        model: The view of the model that is trained.
        personal_model: The view under which what `personalize` returns is read.
        init: Makes the server's state, see `InitFn`.
        init_client_state: Makes what a client holds before its first round, see `InitClientStateFn`.
        client_update: Computes what a client sends in a round, see `ClientUpdateFn`.
        server_update: Makes the server's next state, see `ServerUpdateFn`.
        personalize: Fits a client's parameters to its support set, see `PersonalizeFn`.
        name: The algorithm's name, by which records and run folders know a run again; it must not change.
        hyperparameters: The arguments that the algorithm was made of, by names that must not change: records
            and run folders know a run by them. Classes and functions among them are known by their tags, see
            `fedrecon.core.tagged`.
        exchanges: What the rounds move over a network, for the count of bytes: `"parameters"`, down and up;
            `"nothing"`; or `"examples"`, which left the clients once before the first round.
        privacy: The protection of the clients, as `fedrecon.privacy.user_level_dp` sets it; None for none.
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

    @functools.cached_property
    def programs(self) -> "OrderedDict[Any, Any]":
        """What was compiled for it last, see `simulation._programs`: kept here, programs go with it."""
        return OrderedDict()

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
        TypeError: They hold functions that were made inside other functions, which the standard library
            cannot pickle, and cloudpickle is not installed.
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
