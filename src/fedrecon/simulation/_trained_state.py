"""A server's state with the vocabularies of the clients on which it was trained."""

import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from fedrecon.algorithms._base import ServerState
from fedrecon.data._clients import Clients
from fedrecon.data._vocabulary_mapper import in_vocabularies


class TrainedState(ServerState):
    """The state that `train` returns: a `ServerState` with the vocabularies of the training clients.

    Clients made from a data frame number their items in the order of the frame, so that row 5 of a table is
    another item for clients of another frame. Compiled programs and checkpoints hold the arrays only.

    Attributes:
        vocabularies: The original ids in the order of their numbers, for each field of the training clients
            that holds such numbers; none by default.
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
    """Clients in the vocabularies of a trained state; unchanged for a state without vocabularies.

    Args:
        clients: The clients, in vocabularies of their own.
        state: The server's state.

    Warns:
        RuntimeWarning: Examples were left out whose original ids the training clients did not have.

    Raises:
        DataError: The vocabularies of a field have no id in common, only one side has a vocabulary, or an
            example holds several numbers of a field whose vocabulary is another.
    """
    if not isinstance(state, TrainedState):
        return clients
    return mapped(clients, state.vocabularies, "the clients")


def mapped(clients: Clients, vocabularies: Mapping[str, np.ndarray], name: str) -> Clients:
    """Clients in other vocabularies; warns as `as_trained` does.

    Args:
        clients: The clients, in vocabularies of their own.
        vocabularies: The original ids in the order of their new numbers, by field.
        name: What the warning calls the clients.
    """
    found, unknown = in_vocabularies(clients, vocabularies)
    if unknown:
        text = f"{unknown:,} examples of {name} were left out, of ids unknown to the training clients"
        warnings.warn(text, RuntimeWarning, stacklevel=4)
    return found
