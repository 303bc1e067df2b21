"""MovieLens and other files of ratings: a client is a user."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from fedrecon.experiment.settings.sections import Section, setting
from fedrecon.experiment.settings.solvers import Limit
from fedrecon.experiment.settings.splits import ByTimeSettings
from fedrecon.experiment.tasks._rating_files import RatingFileSettings
from fedrecon.experiment.tasks._ratings import (
    Fractions,
    HeldOutShares,
    MatrixFactorizationSettings,
    matrix_factorization_task,
    shares_of,
    without_data,
)
from fedrecon.experiment.tasks._spec import TaskConfig, TaskSpec

if TYPE_CHECKING:
    from fedrecon.data._clients import Clients
    from fedrecon.experiment.tasks._task import Task


class MovieLensData(RatingFileSettings):
    """The ratings: which file, and which of them are used."""

    cap: Limit = setting(300, 'ratings of a user that are kept, the first in their order, or "none"')
    order: Literal["shuffled", "time", "file"] = setting("shuffled", "order of a user's ratings")
    duplicates: Literal["error", "last", "all"] = setting(
        "error", "what to do when a user rated an item twice"
    )
    scale: list[float] = setting(
        [], "lowest and highest rating; [] for what the file holds", min_length=0, max_length=2
    )
    fractions: Fractions = Fractions()
    held_out: HeldOutShares = HeldOutShares()


# Names of MovieLens' archives and folders, and of the rating files in them.
_MOVIELENS_NAME = re.compile(r"ml-\w+|ratings\.(csv|dat)\b|u\.data$")


class MovieLens(TaskSpec):
    """Explicit ratings, predicted by matrix factorisation."""

    Data = MovieLensData
    Model: ClassVar[type[Section]] = MatrixFactorizationSettings

    def build(self, config: TaskConfig) -> "Task":
        """Reads the ratings, or downloads them, and builds the model.

        Raises:
            DataError: The ratings cannot be read.
        """
        task = matrix_factorization_task(config, self.load_sets(config), config.data.notes())
        return replace(task, public_sources={"item": "movies.dat"}) if config.privacy.on else task

    def public_ranges(self, config: TaskConfig) -> "Mapping[str, tuple[float, float]]":
        """The scale of the ratings: that of the settings, or that to which MovieLens' own files are held.

        That is 1 to 5 for MovieLens 1M where it is downloaded, and 0.5 to 5 for files of MovieLens' names and
        for private runs, which need its list of items. Other files, such as client files, may have any scale
        unless the settings name it.
        """
        data = config.data
        if data.scale:
            low, high = data.scale
        elif data.columns.client:
            return {}
        elif not data.path:
            low, high = 1.0, 5.0
        elif config.privacy.on or _MOVIELENS_NAME.match(Path(data.path).name):
            low, high = 0.5, 5.0
        else:
            return {}
        return {"rating": (float(low), float(high))}

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
        return without_data(config, vocabularies)

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

    def describe_source(self, config: TaskConfig) -> str:
        """The format of the rating file, and its columns.

        Raises:
            DataError: The ratings cannot be read.
        """
        return str(config.data.describe_source())

    def narrow_fields(self, config: TaskConfig, clients: "Clients") -> "Clients":
        """The clients, with ranks instead of times of 64 bits if a split is by time."""
        return _with_ranked_times(config, clients)


TASK = MovieLens()


def _load(config: TaskConfig, fractions: dict[str, float]) -> "dict[str, Clients]":
    from fedrecon.datasets.ratings._catalogue import Catalogue
    from fedrecon.datasets.ratings._dataset import load

    data = config.data
    sets = load(
        data.path or None,
        seed=config.seed,
        cap=None if data.cap == "none" else data.cap,
        order=data.order,
        fractions=fractions,
        duplicates=data.duplicates,
        scale=data.scale or None,
        **data.reading(),
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
