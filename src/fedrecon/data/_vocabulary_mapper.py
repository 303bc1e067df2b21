"""Other clients under the vocabularies of a run: the same items have the same numbers."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fedrecon.data._clients import Clients
from fedrecon.data._table_ids import alike
from fedrecon.errors import DataError


def in_vocabularies(clients: Clients, trained: Mapping[str, np.ndarray]) -> tuple[Clients, int]:
    """Clients with their fields numbered by the vocabularies of the clients that were trained on.

    Args:
        clients: Any.
        trained: For the fields of the training clients that hold dense ids, the original id of each.

    Returns:
        The clients, themselves where their vocabularies are the same, and how many examples were left out,
        of ids that are none of the training clients'.

    Raises:
        DataError: Only one side names the original ids of a field, they have none in common, or an example
            holds several numbers of a field whose vocabulary is another.
    """
    theirs = {name: ids for name, ids in clients.vocabularies.items() if name in clients.fields}
    known = {name: ids for name, ids in trained.items() if name in clients.fields}
    for name in theirs:
        if name not in known:
            raise DataError(
                f"field {name!r} of the clients has original ids, that of the training clients had none, so "
                f"that nobody can tell whether they are numbered alike: train on clients that name them, or "
                f"make these from the same numbers"
            )
    if all(name in theirs and same_ids(theirs[name], ids) for name, ids in known.items()):
        return clients, 0
    return VocabularyMapper(theirs, known)(clients)


def same_ids(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two vocabularies are the same ids of the same type in the same order."""
    return one is other or (one.dtype == other.dtype and np.array_equal(one, other))


class VocabularyMapper:
    """Renumbers clients' fields as a run knows them, and leaves out examples of what it does not know.

    Args:
        theirs: For each field the original ids in the order in which the clients number them.
        known: For each field the original ids in the order in which the run numbers them.
        is_part: Whether these are some of many clients, who may have no id that the run knows; False by
            default, which refuses that.

    Raises:
        DataError: The clients lack a vocabulary that the run has, or have nothing in common with one.
    """

    def __init__(self, theirs: Mapping[str, Any], known: Mapping[str, Any], *, is_part: bool = False):
        self._known = {name: np.asarray(ids) for name, ids in known.items()}
        self._places: dict[str, np.ndarray] = {}  # of those that are numbered otherwise
        for name, ids in known.items():
            if name not in theirs:
                raise DataError(
                    f"the clients must name the original ids of the field {name!r}, as those of the run do"
                )
            here, there = alike(theirs[name], ids)
            if here == there:  # compared as a whole, for in a text's an entry may come twice
                continue
            place = {identity: i for i, identity in enumerate(there)}
            if not is_part and here and there and place.keys().isdisjoint(here):
                raise DataError(
                    f"none of the ids of the field {name!r} is known to the run: "
                    f"theirs are like {here[0]!r}, the run's like {there[0]!r}"
                )
            # One more, so that there is a number where nobody has an item.
            self._places[name] = np.array([*(place.get(identity, -1) for identity in here), -1], np.int32)

    def __call__(self, clients: Clients) -> tuple[Clients, int]:
        """Some of the clients, renumbered, and how many of their examples were left out.

        Raises:
            DataError: An example has several numbers of a field whose vocabulary is another.
        """
        if not self._places:
            return clients, 0
        for name in self._places:
            if clients.blank(name, 0).ndim > 1:
                raise DataError(
                    f"the clients must be in the run's vocabulary of the field {name!r}, which holds several "
                    "numbers in an example: make them from their source with that vocabulary"
                )
        keep = np.ones(int(clients.offsets[-1]), bool)
        for name, places in self._places.items():
            keep &= places[clients.column(name)] >= 0
        kept = clients.filter_examples(keep)
        columns = {name: kept.column(name) for name in kept.fields}
        columns |= {name: places[columns[name]] for name, places in self._places.items()}
        renumbered = Clients.from_columns(
            kept.ids, kept.offsets, columns, self._known, kept.keys, may_be_nan=kept.fields
        )
        return renumbered, int((~keep).sum())
