"""Generated ratings, shaped like MovieLens 1M, whose planted factors are known: the task needs no data."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedrecon.experiment.settings.sections import Section, setting
from fedrecon.experiment.settings.solvers import Limit
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
    from fedrecon.experiment.tasks._task import Task


class SyntheticRatingsData(Section):
    """The sizes and the noise of the generated ratings."""

    clients: int = setting(2000, "users", ge=10)
    items: int = setting(1000, "items", ge=2)
    factors: int = setting(4, "planted factors of users and items", ge=1)
    noise: float = setting(0.6, "deviation of the noise before rounding to stars", gt=0, allow_inf_nan=False)
    factor_deviation: float = setting(
        0.5, "deviation of the product of a user's and an item's factors, in stars", gt=0, allow_inf_nan=False
    )
    bias_deviation: float = setting(
        0.35, "deviation of the users' biases, in stars", gt=0, allow_inf_nan=False
    )
    item_deviation: float = setting(
        0.5, "deviation of the items' biases, in stars", gt=0, allow_inf_nan=False
    )
    cap: Limit = setting(300, 'ratings of a user that are kept, the first in their order, or "none"')
    fractions: Fractions = Fractions()
    held_out: HeldOutShares = HeldOutShares()


class SyntheticRatings(TaskSpec):
    """Ratings that are generated: the task has no data but its own."""

    Data = SyntheticRatingsData
    Model = MatrixFactorizationSettings

    def build(self, config: TaskConfig) -> "Task":
        """Generates the ratings from the seed, and builds the model."""
        from fedrecon.datasets.ratings._synthetic import ridge_rmse, synthetic

        data = config.data
        clients, planted = synthetic(
            data.clients,
            data.items,
            num_factors=data.factors,
            noise=data.noise,
            factor_deviation=data.factor_deviation,
            bias_deviation=data.bias_deviation,
            item_deviation=data.item_deviation,
            seed=config.seed,
        )
        clients = clients if data.cap == "none" else clients.cap(data.cap)
        sets = clients.split(shares_of(data.fractions), config.seed)
        notes = {
            "Noise in the ratings": f"{planted.effective_noise:.4f}, rounding to stars included:"
            " the RMSE of a predictor that knows everything",
        }
        if "test" in sets:
            batch = getattr(config.evaluation.split, "batch_size", 5)
            notes["Ridge under the true items"] = (
                f"{ridge_rmse(planted, sets['test'], batch):.4f}: the RMSE on the test clients of a predictor"
                f" that knows the items and reconstructs the users from alternate batches of {batch}"
            )
        return matrix_factorization_task(config, sets, notes)

    def build_without_data(self, config: TaskConfig, vocabularies: "Mapping[str, Sequence[Any]]") -> "Task":
        """The model of a number of items; its clients are one without a rating.

        Raises:
            SettingError: `model.global_bias` would be read from data.
        """
        return without_data(config, vocabularies)

    def public_ranges(self, config: TaskConfig) -> "Mapping[str, tuple[float, float]]":
        """The ratings that are generated: 1 to 5 stars."""
        from fedrecon.datasets.ratings._synthetic import STARS

        return {"rating": STARS}


TASK = SyntheticRatings()
