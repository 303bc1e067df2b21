"""A server's state that knows by which vocabularies its parameters were trained."""

import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from fedrecon.algorithms._base import ServerState
from fedrecon.data._clients import Clients
from fedrecon.data._from_arrays import vocabulary
from fedrecon.data._vocabulary_mapper import in_vocabularies
from fedrecon.errors import DataError, UncheckedWarning


class TrainedState(ServerState):
    """A `ServerState` that tells what the numbers in the training clients' fields stood for.

    `train` and `Simulation` return such states.

    Frames number items in the order in which they come, so that row 5 of a table is another item to clients
    of another frame. Compiled programs and checkpoints hold the arrays alone.

    Attributes:
        vocabularies: For fields of the training clients that hold dense ids, the original id of each; None
            where it is not known, as after `jax.tree.map`, which keeps the arrays alone.
    """

    vocabularies: Mapping[str, np.ndarray] | None = None

    @staticmethod
    def of(state: ServerState, vocabularies: Mapping[str, Any] | None) -> "TrainedState":
        """The state with the vocabularies of the clients that it was trained on; None where nobody knows."""
        trained = TrainedState(*state)
        if vocabularies is not None:
            trained.vocabularies = MappingProxyType(_arrays(vocabularies))
        return trained

    def _replace(self, **fields: Any) -> "TrainedState":
        return TrainedState.of(super()._replace(**fields), self.vocabularies)

    def __reduce__(self) -> tuple[Any, ...]:
        known = None if self.vocabularies is None else dict(self.vocabularies)
        return TrainedState.of, (ServerState(*self), known)


def vocabularies_of(state: ServerState) -> Mapping[str, np.ndarray] | None:
    """The vocabularies that a state was trained with; None where it does not say."""
    return state.vocabularies if isinstance(state, TrainedState) else None


def as_trained(clients: Clients, state: ServerState) -> Clients:
    """Clients with their fields numbered as those were that a state was trained on, where it knows that.

    Warns:
        RuntimeWarning: Examples were left out, of original ids that the training clients did not have.

    Raises:
        DataError: As `in_vocabularies`.
    """
    known = vocabularies_of(state)
    return clients if known is None else mapped(clients, known, "the clients")


def warn_unchecked(clients: Clients, state: ServerState) -> None:
    """Warns of clients with original ids where the state does not know those of its training.

    Warns:
        UncheckedWarning: Naming a field.
    """
    fields = [name for name in clients.fields if name in clients.vocabularies]
    if fields and vocabularies_of(state) is None:
        warnings.warn(
            f"not checked: the clients number the field {fields[0]!r} by original ids, and the state does "
            "not say by which ids it was trained; `simulation.TrainedState.of(state, vocabularies)` does",
            UncheckedWarning,
            stacklevel=3,
        )


def plain_state(state: ServerState) -> ServerState:
    """The state without what it knows beside its arrays, as compiled programs take it."""
    return ServerState(*state)


def mapped(clients: Clients, vocabularies: Mapping[str, np.ndarray], name: str) -> Clients:
    """Clients in the vocabularies of others, see `as_trained`; `name` is what the warning calls them."""
    found, unknown = in_vocabularies(clients, vocabularies)
    if unknown:
        text = f"{unknown:,} examples of {name} were left out, of ids unknown to the training clients"
        warnings.warn(text, RuntimeWarning, stacklevel=4)
    return found


def in_run_vocabularies(clients: Clients, vocabularies: Mapping[str, Any] | None) -> Clients:
    """Clients of a deployment, numbered as its run numbers them.

    Args:
        clients: Any.
        vocabularies: For fields that the run numbers, the original id of each number; None if it is not told.

    Returns:
        The clients, without fields of texts that the run does not number.

    Warns:
        RuntimeWarning: Examples were left out, of original ids that the run does not number.

    Raises:
        DataError: The clients have original ids, and `vocabularies` is None; or as `in_vocabularies`.
    """
    if vocabularies is None:
        for name in clients.fields:
            if name in clients.vocabularies:
                raise DataError(
                    f"the field {name!r} of the clients has original ids, which other clients may number "
                    "otherwise: give the vocabularies of the run, by which all number them, in `vocabularies`"
                )
        return clients
    fields = [name for name in clients.fields if name not in clients.vocabularies or name in vocabularies]
    numbered = clients if len(fields) == len(clients.fields) else clients.select(*fields)
    return mapped(numbered, _arrays(vocabularies), "the clients")


def _arrays(vocabularies: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {
        name: ids if isinstance(ids, np.ndarray) else vocabulary(name, ids)
        for name, ids in vocabularies.items()
    }
