"""Settings of tasks on ratings: sets of users, and matrix factorisation."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import PositiveFloat, model_validator

from fedrecon.experiment.settings.sections import Section, SettingError, setting
from fedrecon.experiment.settings.splits import ByTimeSettings
from fedrecon.experiment.tasks._spec import TaskConfig

if TYPE_CHECKING:
    import numpy as np

    from fedrecon.core._model import Model
    from fedrecon.data._clients import Clients
    from fedrecon.experiment.tasks._task import Task

_STARS, _HALF_STAR = (0.5, 5.0), 0.5


class Fractions(Section):
    """The shares of the users in the three sets."""

    train: float = setting(0.8, "share of the users to train on", gt=0, le=1)
    validation: float = setting(0.1, "share of the users to evaluate while training; 0 for none", ge=0, lt=1)
    test: float = setting(0.1, "share of the users to evaluate at the end; 0 for none", ge=0, lt=1)

    @model_validator(mode="after")
    def _at_most_one(self) -> "Fractions":
        total = self.train + self.validation + self.test
        if total > 1 + 1e-9:
            raise ValueError(f"train, validation and test must sum to at most 1, got {total:g}")
        return self


class HeldOutShares(Section):
    """Shares of each training user's examples, the last in their order, that are held out: StandardEval."""

    validation: float = setting(0.0, "share to evaluate while training; 0 for none", ge=0, lt=1)
    test: float = setting(0.0, "share to evaluate at the end; 0 for none", ge=0, lt=1)

    @model_validator(mode="after")
    def _less_than_one(self) -> "HeldOutShares":
        if self.validation + self.test >= 1:
            raise ValueError(
                f"validation and test must sum to less than 1, got {self.validation + self.test:g}"
            )
        return self


AccuracyWidth = PositiveFloat | Literal["stars", "none"]
ACCURACY_WITHIN: Any = setting(
    "stars",
    'how far off a prediction may be to count in the metric accuracy; "stars" for half a star, where all '
    'training ratings are stars, and else no such metric; "none" for none',
)


class MatrixFactorizationSettings(Section):
    """Ratings as products of item factors (global) and user factors (local)."""

    factors: int = setting(50, "length of a factor vector", ge=1)
    item_bias: bool = setting(False, "whether items have a bias, global, started at 0")
    user_bias: bool = setting(False, "whether users have a bias, local, started at 0")
    global_bias: float | Literal["none", "mean"] = setting(
        "none", 'added to all predictions: a number, "mean" for the mean of the training ratings, or "none"'
    )
    init: Literal["uniform", "normal"] = setting("uniform", "distribution of all factors at the start")
    init_scale: float = setting(0.05, "U(-init_scale, init_scale), or the deviation of the normal", ge=0)
    user_penalty: float = setting(0.0, "times |u|², added to the sum of a stage's squared errors", ge=0)
    user_bias_penalty: float = setting(0.0, "times the user's squared bias, likewise", ge=0)
    item_penalty: float = setting(0.0, "times |v|² of the rated item, added to each rating's loss", ge=0)
    item_bias_penalty: float = setting(0.0, "times the item's squared bias, likewise", ge=0)
    accuracy_within: AccuracyWidth = ACCURACY_WITHIN


def matrix_factorization_task(
    config: TaskConfig, sets: "Mapping[str, Clients]", notes: Mapping[str, str]
) -> "Task":
    """The task of an experiment whose model is matrix factorisation.

    Args:
        config: Configuration of the experiment.
        sets: Clients with the fields `item` and `rating`, by the name of their set.
        notes: Facts that a reader of the results should know, by their names.
    """
    from fedrecon.models._matrix_factorization import matrix_factorization

    settings = config.model.model_dump()
    bias = settings.pop("global_bias")

    width = settings.pop("accuracy_within")

    def model_of(train: "Clients") -> "tuple[Model, dict[str, float | str]]":
        from_data: dict[str, float | str] = {}
        given = None if bias in ("none", "mean") else float(bias)
        if bias == "mean":
            given = from_data["global_bias"] = mean_rating(train)
        within = resolve_accuracy_width(width, None if config.privacy.on else train)
        if width == "stars":
            from_data["accuracy_within"] = "none" if within is None else within
        num_items = len(train.vocabularies["item"])
        model = matrix_factorization(num_items, global_bias=given, accuracy_within=within, **settings)
        return model, from_data

    return ratings_task(config, sets, notes, model_of)


def ratings_task(
    config: TaskConfig,
    sets: "Mapping[str, Clients]",
    notes: Mapping[str, str],
    model_of: "Callable[[Clients], tuple[Model, dict[str, float | str]]]",
) -> "Task":
    """The task of an experiment on ratings.

    Args:
        config: Configuration of the experiment.
        sets: Clients with the fields `item` and `rating`, by the name of their set.
        notes: Facts that a reader of the results should know, by their names.
        model_of: Makes the model for the training clients, and says which settings of it they decided, see
            `Task.settings_from_data`.
    """
    from fedrecon.data._holdout import hold_out
    from fedrecon.evaluation._rating_baselines import RatingBaselines
    from fedrecon.experiment.tasks._task import Task

    # Other fields are left out, since they would be sent to the device and not be used.
    fields = ["item", "rating"]
    for split in (getattr(config.algorithm, "split", None), config.evaluation.split):
        if isinstance(split, ByTimeSettings) and split.field not in fields:
            fields.append(split.field)
    sets = {name: clients.select(*fields) for name, clients in sets.items()}
    held_out = hold_out(sets["train"], shares_of(config.data.held_out))
    train = held_out.pop("train")
    model, from_data = model_of(train)
    cut = config.evaluation.split
    scored = ("item", "rating", *([cut.field] if isinstance(cut, ByTimeSettings) else []))
    baselines = None
    # The mean of the training ratings is no number that a private run may tell.
    if not config.privacy.on and train.num_examples.any():
        within = resolve_accuracy_width(config.model.accuracy_within, train)
        baselines = RatingBaselines(mean_rating(train), within)
    return Task(
        model,
        train,
        sets.get("validation"),
        sets.get("test"),
        notes,
        held_out,
        scored=scored,
        baselines=baselines,
        settings_from_data=from_data,
    )


def resolve_accuracy_width(width: float | str, train: "Clients | None") -> float | None:
    """How far off a prediction may be to count in the metric `accuracy`; None where there is no such metric.

    Args:
        width: The setting `model.accuracy_within`.
        train: The training clients, whose ratings tell whether they are stars: halves from 0.5 to 5. None
            takes them for stars, as in a private run, of which no file may tell more.
    """
    if width == "none":
        return None
    if width != "stars":
        return float(width)
    from fedrecon.data._shards.sums import known_sum

    if train is None:
        return _HALF_STAR
    if known_sum(train, "rating") is not None:  # all of a folder are multiples of half a star
        known = train.field_stats("rating")
        if known.least >= _STARS[0] and known.most <= _STARS[1]:
            return _HALF_STAR
    return _HALF_STAR if all(_are_stars(piece.column("rating")) for piece in train.pieces()) else None


def mean_rating(clients: "Clients") -> float:
    """The mean of all ratings, summed in doubles and in pieces; NaN where there is none."""
    from fedrecon.data._shards.sums import known_sum

    total = known_sum(clients, "rating")
    if total is None:
        total = sum(float(piece.column("rating").sum(dtype="float64")) for piece in clients.pieces())
    count = int(clients.num_examples.sum(dtype="int64"))
    return total / count if count else float("nan")


def _are_stars(ratings: "np.ndarray") -> bool:
    is_star = (ratings >= _STARS[0]) & (ratings <= _STARS[1]) & (ratings % _HALF_STAR == 0)
    return bool(is_star.all())


def shares_of(settings: Fractions | HeldOutShares) -> dict[str, float]:
    """The share of each set whose share is above 0."""
    return {name: share for name, share in settings.model_dump().items() if share > 0}


def nobody(vocabularies: Mapping[str, Sequence[Any]]) -> "Clients":
    """A client without a rating, numbered by a run's vocabularies: what a task without data has."""
    import numpy as np

    from fedrecon.data._clients import Clients

    columns = {"item": np.zeros(0, np.int32), "rating": np.zeros(0, np.float32)}
    columns["time"] = columns["rating"]
    return Clients.from_columns(["nobody"], [0, 0], columns, vocabularies)


def without_data(config: TaskConfig, vocabularies: Mapping[str, Sequence[Any]]) -> "Task":
    """The task of matrix factorisation of a number of items; its clients are one without a rating.

    Raises:
        SettingError: `model.global_bias` would be read from data.
    """
    if config.model.global_bias == "mean":
        raise SettingError('model.global_bias must be a number or "none" in a deployment, got "mean"')
    return matrix_factorization_task(config, {"train": nobody(vocabularies)}, {})
