"""A server's state with the vocabularies of the clients on which it was trained."""

import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from fedrecon._safe_text import counted
from fedrecon.algorithms._base import ServerState
from fedrecon.data._clients import Clients
from fedrecon.data._from_arrays import vocabulary
from fedrecon.data._vocabulary_mapper import in_vocabularies
from fedrecon.errors import DataError, UncheckedWarning


class TrainedState(ServerState):
    """A `ServerState` with the vocabularies of the training clients, as `train` and `Simulation` return it.

    Clients made from a data frame number their items in the order of the frame, so that row 5 of a table is
    another item for clients of another frame. Compiled programs and checkpoints hold the arrays only.

    Attributes:
        vocabularies: The original ids in the order of their numbers, for each field of the training clients
            that holds such numbers; None, the default, where they are not known, as after `jax.tree.map`,
            which keeps the arrays alone.
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
        vocabularies = None if self.vocabularies is None else dict(self.vocabularies)
        return TrainedState.of, (ServerState(*self), vocabularies)


def vocabularies_of(state: ServerState) -> Mapping[str, np.ndarray] | None:
    """The vocabularies that a state was trained with; None where it does not say."""
    return state.vocabularies if isinstance(state, TrainedState) else None


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
    vocabularies = vocabularies_of(state)
    return clients if vocabularies is None else mapped(clients, vocabularies, "the clients")


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
    """Clients in other vocabularies; warns as `as_trained` does.

    Args:
        clients: The clients, in vocabularies of their own.
        vocabularies: The original ids in the order of their new numbers, by field.
        name: The name of the clients in the warning.
    """
    renumbered, unknown = in_vocabularies(clients, vocabularies)
    if unknown:
        were = f"{counted(unknown, 'example')} of {name} {'was' if unknown == 1 else 'were'}"
        text = f"{were} left out, of ids unknown to the training clients"
        warnings.warn(text, RuntimeWarning, stacklevel=4)
    return renumbered


def in_run_vocabularies(clients: Clients, vocabularies: Mapping[str, Any] | None) -> Clients:
    """Clients of a deployment, numbered as its run numbers them.

    Args:
        clients: The clients of the deployment, with original ids or without.
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
