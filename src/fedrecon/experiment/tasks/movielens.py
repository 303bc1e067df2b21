"""MovieLens and other files of ratings: a client is a user."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from fedrecon.experiment.settings.sections import Section, SettingError, setting
from fedrecon.experiment.settings.solvers import Limit
from fedrecon.experiment.settings.splits import ByTimeSettings
from fedrecon.experiment.tasks._ratings import (
    Fractions,
    HeldOutShares,
    MatrixFactorizationSettings,
    matrix_factorization_task,
    nobody,
    shares_of,
)
from fedrecon.experiment.tasks._spec import TaskConfig, TaskSpec

if TYPE_CHECKING:
    from fedrecon.data._clients import Clients
    from fedrecon.experiment.tasks._task import Task


class ColumnSettings(Section):
    """Column names of a CSV or Parquet file that is not MovieLens' own: the first three are set, or none."""

    client: str = setting("", 'column of the user; "" if the file is MovieLens\' own')
    item: str = setting("", 'column of the item; "" if the file is MovieLens\' own')
    rating: str = setting("", 'column of the rating; "" if the file is MovieLens\' own')
    time: str = setting("", 'column of the time; "" for none')


class MovieLensData(Section):
    """The ratings: which file, and which of them are used."""

    path: str = setting(
        "", 'a rating file, or the folder or archive it is in; "" downloads MovieLens 1M once'
    )
    cap: Limit = setting(300, 'ratings of a user that are kept, the first in their order, or "none"')
    order: Literal["shuffled", "time", "file"] = setting("shuffled", "order of a user's ratings")
    duplicates: Literal["error", "last", "all"] = setting(
        "error", "what to do when a user rated an item twice"
    )
    scale: list[float] = setting(
        [], "lowest and highest rating; [] for what the file holds", min_length=0, max_length=2
    )
    unpacked_gib: float = setting(
        2.0, "GiB that a packed file (.zip, Parquet) may unpack to", gt=0, allow_inf_nan=False
    )
    columns: ColumnSettings = ColumnSettings()
    fractions: Fractions = Fractions()
    held_out: HeldOutShares = HeldOutShares()


class MovieLens(TaskSpec):
    """Explicit ratings, predicted by matrix factorisation."""

    Data = MovieLensData
    Model: ClassVar[type[Section]] = MatrixFactorizationSettings

    def build(self, config: TaskConfig) -> "Task":
        """Reads the ratings, or downloads them, and builds the model.

        Raises:
            DataError: The ratings cannot be read.
        """
        task = matrix_factorization_task(config, self.load_sets(config), {})
        return replace(task, public_sources={"item": "movies.dat"}) if config.privacy.on else task

    def load_sets(self, config: TaskConfig) -> "dict[str, Clients]":
        """The clients of each set, split by user.

        Raises:
            DataError: The ratings cannot be read.
        """
        return _load(config, shares_of(config.data.fractions))

    def build_without_data(self, config: TaskConfig, vocabularies: "Mapping[str, Sequence[Any]]") -> "Task":
        """The model of a number of items; its clients are one without a rating.

        Raises:
            SettingError: `model.global_bias` would be read from data.
        """
        if config.model.global_bias == "mean":
            raise SettingError('model.global_bias must be a number or "none" in a deployment, got "mean"')
        return matrix_factorization_task(config, {"train": nobody(vocabularies)}, {})

    def build_to_serve(
        self, config: TaskConfig, vocabularies: "Mapping[str, Sequence[Any]]"
    ) -> "Task | None":
        """The model of a run; None where its bias is a mean that its checkpoints do not tell."""
        if config.model.global_bias == "mean":
            return None
        return self.build_without_data(config, vocabularies)

    def load_all_clients(self, config: TaskConfig) -> "Clients":
        """All clients of the data, ordered and capped as for training.

        Raises:
            DataError: The ratings cannot be read.
        """
        return _load(config, {"all": 1.0})["all"]

    def narrow_fields(self, config: TaskConfig, clients: "Clients") -> "Clients":
        """The clients, with ranks instead of times of 64 bits if a split is by time."""
        return _with_ranked_times(config, clients)


TASK = MovieLens()


def _load(config: TaskConfig, fractions: dict[str, float]) -> "dict[str, Clients]":
    from fedrecon.datasets.ratings._catalogue import Catalogue
    from fedrecon.datasets.ratings._dataset import load

    data = config.data
    columns = {name: column for name, column in data.columns.model_dump().items() if column}
    sets = load(
        data.path or None,
        seed=config.seed,
        cap=None if data.cap == "none" else data.cap,
        order=data.order,
        fractions=fractions,
        columns=columns or None,
        scale=data.scale or None,
        duplicates=data.duplicates,
        unpacked_gib=data.unpacked_gib,
    )
    if config.privacy.on:
        # Which items were rated tells of the clients; which there are does not.
        catalogue = Catalogue.read(data.path or Path())
        sets = {name: catalogue.rows_of(clients) for name, clients in sets.items()}
    return {name: _with_ranked_times(config, clients) for name, clients in sets.items()}


def _with_ranked_times(config: TaskConfig, clients: "Clients") -> "Clients":
    """The clients, with ranks instead of times of 64 bits if a split is by time.

    A split needs only the order of the times, and JAX's numbers have 32 bits.
    """
    splits = (getattr(config.algorithm, "split", None), config.evaluation.split)
    by_time = any(isinstance(split, ByTimeSettings) for split in splits)
    if not by_time or "time" not in clients.fields or clients.blank("time").dtype.itemsize <= 4:
        return clients
    return clients.with_columns(time=np.unique(clients.column("time"), return_inverse=True)[1])
