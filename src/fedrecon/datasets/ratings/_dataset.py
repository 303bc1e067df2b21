"""The MovieLens task's data: users, each with their ratings in a fixed order, in disjoint sets."""

import os
from collections.abc import Mapping, Sequence

from fedrecon.data._client_file.file import is_client_file
from fedrecon.data._clients import Clients
from fedrecon.data._unpacking import UNPACKED_GIB
from fedrecon.datasets.ratings._movielens import MOVIELENS_1M, download
from fedrecon.datasets.ratings._prepare import prepare
from fedrecon.datasets.ratings._reader_options import Column
from fedrecon.errors import DataError

ORDERS = ("shuffled", "time", "file")
FRACTIONS: Mapping[str, float | int] = {"train": 0.8, "validation": 0.1, "test": 0.1}


class NoRatingsError(DataError):
    """Interactions without ratings, where ratings are needed."""


def load(
    path: str | os.PathLike[str] | None = None,
    *,
    seed: int,
    cap: int | None = 300,
    order: str = "shuffled",
    fractions: Mapping[str, float | int] = FRACTIONS,
    columns: Mapping[str, Column] | None = None,
    scale: Sequence[float | int] | None = None,
    duplicates: str = "error",
    separator: str = "",
    encoding: str = "utf-8",
    unrated: float | int | None = None,
    unpacked_gib: float | int = UNPACKED_GIB,
    cache: str | os.PathLike[str] | None = None,
) -> dict[str, Clients]:
    """The clients of each set, split by user.

    Args:
        path: The source of the ratings, as for `read_ratings`, or a client file with the fields of `prepare`;
            by default MovieLens 1M, which is downloaded once.
        seed: Decides the order of a user's ratings, and which users are in which set, both by the users' ids
            alone.
        cap: The number of ratings of a user that are kept, the first in their order. 300, the default, is the
            paper's; None keeps all.
        order: A user's ratings are "shuffled" once, as in the paper; sorted by "time", the order of the file
            deciding between equal times; or in the order of the "file". They keep this order in every round.
            The default is `"shuffled"`.
        fractions: The name of each set and its share of the users, in (0, 1], together at most 1; by default
            0.8 for training, 0.1 for validation and 0.1 for testing.
        columns: The names of the columns, as for `read_ratings`; None, the default, for those of a format
            with known columns. Not used for a client file.
        scale: The lowest and highest rating, as for `read_ratings`; None, the default, for those of the
            format. Not used for a client file.
        duplicates: The treatment of items that a client rates twice, one of the values of `read_ratings`;
            "error" by default. Not used for a client file.
        separator: The separator between the fields of a text, as for `read_ratings`; by default the first
            line tells. Not used for a client file.
        encoding: The encoding of a text, as for `read_ratings`; UTF-8 by default. Not used for a client file.
        unrated: The rating that stands for none, as for `read_ratings`; None, the default, for no such
            rating. Not used for a client file.
        unpacked_gib: The number of GiB that a packed file may unpack to, as for `read_ratings`; 2 by default.
        cache: The folder of the client files and downloads; by default `cache_folder()`.

    Returns:
        For each set its clients, with the fields of `prepare`. Dense item ids are those of the whole file.

    Raises:
        DataError: The source cannot be read or downloaded, see `read_ratings` and `download`; the order is by
            time and the file has no times; a fraction is out of its range; the cap is below 1.
        ValueError: `order` is unknown, or an argument of `read_ratings` is out of its range.
    """
    if order not in ORDERS:
        raise ValueError(f"order must be one of {', '.join(ORDERS)}, got {order!r}")
    if path is None:
        path = download(MOVIELENS_1M, cache)
        scale = (1, 5) if scale is None else scale
    if is_client_file(path):
        clients = Clients.open(path, unpacked_gib=unpacked_gib)
        for field in ("item", "rating"):
            if field not in clients.fields:
                raise DataError(f"{path}: a client file of ratings must have the field {field!r}")
        return arrange(clients, seed=seed, cap=cap, order=order, fractions=fractions)
    clients = prepare(
        path,
        columns=columns,
        scale=scale,
        duplicates=duplicates,
        separator=separator,
        encoding=encoding,
        unrated=unrated,
        unpacked_gib=unpacked_gib,
        cache=cache,
    )
    if "rating" not in clients.fields:
        raise NoRatingsError(
            f"{path}: ratings must have a column of the rating, named by columns, the setting "
            "data.columns.rating; items without ratings are for the task ranking (--set task=ranking)"
        )
    return arrange(clients, seed=seed, cap=cap, order=order, fractions=fractions)


def arrange(
    clients: Clients,
    *,
    seed: int,
    cap: int | None = 300,
    order: str = "shuffled",
    fractions: Mapping[str, float | int] = FRACTIONS,
) -> dict[str, Clients]:
    """Orders, caps and splits clients; see `load`."""
    if order == "shuffled":
        clients = clients.shuffled(seed)
    elif order == "time":
        if "time" not in clients.fields:
            fields = ", ".join(clients.fields)
            raise DataError(
                f"order 'time' must have a field time to sort by, the ratings have {fields}; a column of "
                "your own is named by columns, the setting data.columns.time, which also says why a column "
                "cannot be read as times"
            )
        clients = clients.sorted_by("time")
    if cap is not None:
        clients = clients.cap(cap)
    return clients.split(fractions, seed)
