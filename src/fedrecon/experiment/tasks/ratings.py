"""Ratings of any scale: matrix factorisation in units that one round of sums measures."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from fedrecon.experiment.settings.sections import Section, SettingError, setting
from fedrecon.experiment.tasks import movielens
from fedrecon.experiment.tasks._ratings import (
    ACCURACY_WITHIN,
    AccuracyWidth,
    nobody,
    ratings_task,
    resolve_accuracy_width,
)
from fedrecon.experiment.tasks._spec import TaskConfig, TaskSpec

if TYPE_CHECKING:
    from fedrecon.core._model import Model
    from fedrecon.data._clients import Clients
    from fedrecon.experiment.tasks._task import Task
    from fedrecon.models._rating_sums import RatingStatistics

Measured = Literal["measured"]
_MEASURED = ("mean", "deviation", "item_bias_penalty")


class RatingsModel(Section):
    """Matrix factorisation in units of the ratings' deviation; "measured" takes a round of clients' sums."""

    mean: float | Measured = setting(
        "measured", 'of the ratings, which is added to all predictions: a number, or "measured"'
    )
    deviation: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Measured = setting(
        "measured", 'of ratings around their user\'s mean, the unit of the rest: a number, or "measured"'
    )
    factors: int = setting(32, "length of a factor vector", ge=1)
    init_scale: float = setting(0.1, "deviation of the factors at the start", ge=0)
    user_penalty: float = setting(20.0, "times |u|², added to the sum of a user's squared errors", ge=0)
    user_bias_penalty: float = setting(4.0, "times the user's squared bias, likewise", ge=0)
    item_penalty: float = setting(
        2.0, "times |v|², added to the sum of an item's squared errors over all users", ge=0
    )
    accuracy_within: AccuracyWidth = ACCURACY_WITHIN
    item_bias_penalty: Annotated[float, Field(ge=0, allow_inf_nan=False)] | Measured = setting(
        "measured", "times the item's squared bias, likewise: a number, or \"measured\" by the items' spread"
    )


class Ratings(movielens.MovieLens):
    """Explicit ratings of any scale.

    Penalties and learning rates are in units of the ratings' deviation. Mean and deviation, the number of
    each item's ratings and its bias at the start come from one round in which every training client sends
    sums, see `fedrecon.models.rating_sums`.
    """

    Model = RatingsModel

    def build(self, config: TaskConfig) -> "Task":
        """Reads the ratings, or downloads them, measures them, and builds the model.

        Raises:
            DataError: The ratings cannot be read.
            SettingError: Clients are to be protected, which the sums are not; or the sums are not finite.
        """
        if config.privacy.on:
            raise SettingError(
                "privacy: the task ratings takes a round of sums that the ledger does not count; take the "
                "task movielens with a public number as model.global_bias, as movielens-private.toml does"
            )
        return ratings_task(
            config, self.load_sets(config), config.data.notes(), lambda train: _measured_model(config, train)
        )

    def build_without_data(self, config: TaskConfig, vocabularies: "Mapping[str, Sequence[Any]]") -> "Task":
        """The model in units that the settings say; the counts of its items are among its parameters.

        Raises:
            SettingError: Mean, deviation or penalty would be measured.
        """
        if measured := [name for name in _MEASURED if getattr(config.model, name) == "measured"]:
            raise SettingError(
                f'model.{measured[0]} must be a number in a deployment, got "measured": its nodes cannot '
                f"measure ratings"
            )
        return TaskSpec.build_without_data(self, config, vocabularies)

    def build_to_serve(
        self, config: TaskConfig, vocabularies: "Mapping[str, Sequence[Any]]"
    ) -> "Task | None":
        """The model of a run, whose checkpoint holds the counts of its items; None if it lacks a setting."""
        import numpy as np

        from fedrecon.models._rating_sums import RatingStatistics

        settings = config.model.model_dump()
        if any(settings[name] == "measured" for name in _MEASURED):
            return None
        num_items = len(vocabularies["item"])
        zeros = np.zeros(num_items, np.float32)
        statistics = RatingStatistics(
            settings["mean"], settings["deviation"], zeros, zeros, settings["item_bias_penalty"]
        )
        # A checkpoint of a version that did not note the width is of ratings taken for stars.
        within = resolve_accuracy_width(settings["accuracy_within"], None)
        model = _model(config, num_items, statistics, within)
        return ratings_task(config, {"train": nobody(vocabularies)}, {}, lambda train: (model, {}))


TASK = Ratings()


def _measured_model(config: TaskConfig, train: "Clients") -> "tuple[Model, dict[str, float | str]]":
    """The model in units of the training clients' ratings, and the settings that these decided."""
    settings = config.model.model_dump()
    given = {name: settings[name] for name in _MEASURED if settings[name] != "measured"}
    try:
        statistics = _measured(train, given)
    except ValueError as error:
        raise SettingError(f"model: the ratings cannot be measured: {error}") from None
    from_data: dict[str, float | str] = {
        name: getattr(statistics, name) for name in _MEASURED if name not in given
    }
    within = resolve_accuracy_width(settings["accuracy_within"], train)
    if settings["accuracy_within"] == "stars":
        from_data["accuracy_within"] = "none" if within is None else within
    return _model(config, len(train.vocabularies["item"]), statistics, within), from_data


def _measured(train: "Clients", given: Mapping[str, float]) -> "RatingStatistics":
    """The statistics of the training clients' ratings, by one round of `rating_sums` over all of them."""
    import numpy as np

    from fedrecon.data._sampling import Everyone
    from fedrecon.models._rating_sums import rating_statistics, rating_sums
    from fedrecon.simulation._simulation import Simulation

    algorithm = rating_sums(len(train.vocabularies["item"]))
    simulation = Simulation(algorithm, train.select("item", "rating"), Everyone())
    (round,) = simulation.rounds(simulation.init(), 1)
    raters = int(np.count_nonzero(train.num_examples))
    return rating_statistics(round.state.global_params, raters, **given)


def _model(
    config: TaskConfig, num_items: int, statistics: "RatingStatistics", accuracy_within: float | None
) -> "Model":
    from fedrecon.models._matrix_factorization import matrix_factorization

    settings: dict[str, Any] = config.model.model_dump(exclude={*_MEASURED, "accuracy_within"})
    return matrix_factorization(
        num_items,
        item_bias=True,
        user_bias=True,
        init="normal",
        global_bias=statistics.mean,
        deviation=statistics.deviation,
        item_counts=statistics.item_counts,
        initial_item_bias=statistics.item_bias,
        item_bias_penalty=statistics.item_bias_penalty,
        accuracy_within=accuracy_within,
        **settings,
    )
