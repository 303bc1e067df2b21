"""The items that a public list names, with what it tells of them: MovieLens' `movies.dat`."""

import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, Int64

from fedrecon.data._clients import Clients
from fedrecon.errors import DataError

MOVIES = "movies.dat"
_YEAR = re.compile(r"\((\d{4})\)")
_FIRST_YEARS = (0, 1960, 1980, 1990, 1996)  # of the periods, up to the next one's


class Catalogue(NamedTuple):
    """A public list of items, which says nothing of who rated them.

    Attributes:
        ids: The items' original ids, `[item]`.
        features: The public features of each item, `[item, feature]`: its genres, each over the root of how
            many it has, and the period of its year.
        names: The names of the features.
    """

    ids: Int64[np.ndarray, "item"]
    features: Float32[np.ndarray, "item feature"]
    names: tuple[str, ...]

    @staticmethod
    def read(path: str | os.PathLike[str]) -> "Catalogue":
        """Reads `movies.dat`, or the one in the folder of a path or beside it.

        Raises:
            DataError: There is none, or a line is not `id::title (year)::genre|genre`.
        """
        given = Path(path)
        file = given if given.name == MOVIES else (given if given.is_dir() else given.parent) / MOVIES
        try:
            lines = file.read_text(encoding="latin-1").splitlines()
        except OSError as error:
            raise DataError(
                f"{file}: the public list of items, which a private run needs beside the ratings, cannot be "
                f"read: {error.strerror}"
            ) from None
        ids, years, genres = [], [], []
        for number, line in enumerate(lines, start=1):
            parts = line.split("::")
            year = _YEAR.findall(parts[1]) if len(parts) == 3 else []
            if not year or not parts[0].isdecimal():
                raise DataError(f"{file}:{number}: a line must be id::title (year)::genres, got {line!r}")
            ids.append(int(parts[0]))
            years.append(int(year[-1]))
            genres.append(parts[2].split("|"))
        names = sorted({name for each in genres for name in each})
        has = np.array([[name in each for name in names] for each in genres], np.float32)
        period = np.searchsorted(_FIRST_YEARS, years, side="right") - 1
        periods = np.eye(len(_FIRST_YEARS), dtype=np.float32)[period]
        features = np.concatenate([has / np.sqrt(has.sum(1, keepdims=True)), periods], 1)
        return Catalogue(np.array(ids, np.int64), features, (*names, *(f"from {y}" for y in _FIRST_YEARS)))

    def rows_of(self, clients: Clients, field: str = "item") -> Clients:
        """Clients whose field holds rows of this list instead of numbers of the items that somebody rated.

        Args:
            clients: The clients, with a vocabulary of the field's ids.
            field: The name of the field that holds the items; `"item"` by default.

        Raises:
            DataError: The list lacks an item.
        """
        known = {int(i): row for row, i in enumerate(self.ids)}
        vocabulary = np.asarray(clients.vocabularies[field])
        missing = [i for i in vocabulary.tolist() if int(i) not in known]
        if missing:
            raise DataError(f"the public list of items must have all that are rated, it lacks {missing[0]!r}")
        rows: Int32[np.ndarray, "item"] = np.array([known[int(i)] for i in vocabulary], np.int32)
        columns = {name: clients.column(name) for name in clients.fields}
        columns[field] = rows[columns[field]]
        ids = {**clients.vocabularies, field: self.ids}
        return Clients.from_columns(
            clients.ids, clients.offsets, columns, ids, clients.keys, may_be_nan=clients.fields
        )
