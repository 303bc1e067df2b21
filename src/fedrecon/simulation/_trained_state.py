"""A server's state that knows by which vocabularies its parameters were trained."""

import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from fedrecon.algorithms._base import ServerState
from fedrecon.data._clients import Clients
from fedrecon.data._vocabulary_mapper import in_vocabularies


class TrainedState(ServerState):
    """What `train` returns as state: `ServerState`, and what the numbers in the clients' fields stood for.

    Frames number items in the order in which they come, so that row 5 of a table is another item to clients
    of another frame. Compiled programs and checkpoints hold the arrays alone.

    Attributes:
        vocabularies: For fields of the training clients that hold dense ids, the original id of each.
    """

    vocabularies: Mapping[str, np.ndarray] = MappingProxyType({})

    @staticmethod
    def of(state: ServerState, vocabularies: Mapping[str, np.ndarray]) -> "TrainedState":
        """The state with the vocabularies of the clients that it was trained on."""
        trained = TrainedState(*state)
        trained.vocabularies = MappingProxyType(dict(vocabularies))
        return trained

    def _replace(self, **fields: Any) -> "TrainedState":
        return TrainedState.of(super()._replace(**fields), self.vocabularies)

    def __reduce__(self) -> tuple[Any, ...]:
        return TrainedState.of, (ServerState(*self), dict(self.vocabularies))


def as_trained(clients: Clients, state: ServerState) -> Clients:
    """Clients with their fields numbered as those were that a state was trained on, where it knows that.

    Warns:
        RuntimeWarning: Examples were left out, of original ids that the training clients did not have.

    Raises:
        DataError: As `in_vocabularies`.
    """
    if not isinstance(state, TrainedState):
        return clients
    return mapped(clients, state.vocabularies, "the clients")


def mapped(clients: Clients, vocabularies: Mapping[str, np.ndarray], name: str) -> Clients:
    """Clients in the vocabularies of others, see `as_trained`; `name` is what the warning calls them."""
    found, unknown = in_vocabularies(clients, vocabularies)
    if unknown:
        text = f"{unknown:,} examples of {name} were left out, of ids unknown to the training clients"
        warnings.warn(text, RuntimeWarning, stacklevel=4)
    return found
