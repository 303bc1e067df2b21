"""Other clients under the vocabularies of a run: the same items have the same numbers."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fedrecon.errors import DataError
from fedrecon.federation.clients import Clients


class Matching:
    """Renumbers clients' fields as a run knows them, and leaves out examples of what it does not know.

    Args:
        theirs: For each field the original ids, as the clients number them.
        known: The same as the run numbers them.

    Raises:
        DataError: The clients lack a vocabulary that the run has.
    """

    def __init__(self, theirs: Mapping[str, Any], known: Mapping[str, Any]):
        self._known = {name: np.asarray(ids) for name, ids in known.items()}
        self._places = {}
        for name, ids in known.items():
            if name not in theirs:
                raise DataError(
                    f"the clients must name the original ids of the field {name!r}, as those of the run do"
                )
            place = {identity: i for i, identity in enumerate(np.asarray(ids).tolist())}
            # One more, so that there is a number where nobody has an item.
            found = [place.get(identity, -1) for identity in np.asarray(theirs[name]).tolist()]
            self._places[name] = np.array([*found, -1], np.int32)
        self._same = all(
            len(places) == len(self._known[name]) + 1
            and np.array_equal(places[:-1], np.arange(len(places) - 1))
            for name, places in self._places.items()
        )

    def __call__(self, clients: Clients) -> tuple[Clients, int]:
        """Some of the clients, renumbered, and how many of their examples were left out."""
        if self._same:
            return clients, 0
        columns = {name: np.asarray(clients.column(name)) for name in clients.fields}
        keep = np.ones(int(clients.num_examples.sum()), bool)
        for name, places in self._places.items():
            columns[name] = places[columns[name]]
            keep &= columns[name] >= 0
        owner = np.repeat(np.arange(len(clients)), clients.num_examples)[keep]
        counts = np.bincount(owner, minlength=len(clients))
        made = Clients.from_columns(
            clients.ids,
            np.concatenate([[0], np.cumsum(counts)]),
            {name: column[keep] for name, column in columns.items()},
            self._known,
        )
        return made, int((~keep).sum())
