"""Predictors of ratings that cost nothing: what a result must beat to be worth its rounds."""

from dataclasses import dataclass

import jax.numpy as jnp

from fedrecon.core._examples import Examples
from fedrecon.core._mean import Mean
from fedrecon.core._model import Model
from fedrecon.core._tags import tagged
from fedrecon.core._types import Params, PRNGKey
from fedrecon.evaluation._evaluation import Evaluation

# How many ratings at the training mean a client's own mean is shrunk by.
SHRINKAGE = 5.0
TRAINING_MEAN, CLIENT_MEAN = BASELINES = "training_mean", "client_mean"


@tagged("scoring/rating_baselines")
@dataclass(frozen=True)
class RatingBaselines:
    """The errors of two predictors that learn nothing, as a `Scoring`.

    `training_mean` predicts the mean of the training ratings for everybody, and `client_mean` each client's
    own mean over its support set, shrunk towards it: (sum of the client's ratings + 5 mean) / (number + 5).

    Attributes:
        mean: Mean of the training ratings.
        within: The largest error of a prediction that counts as accurate, in units of the ratings; 0.5 by
            default. None leaves the accuracy out.
    """

    mean: float
    within: float | None = 0.5

    def __call__(
        self,
        model: Model,
        global_params: Params,
        local_params: Params,
        support: Examples,
        query: Examples,
        key: PRNGKey,
    ) -> dict[str, Mean]:
        """Metrics over the query set: `training_mean/mse`, `client_mean/accuracy` and so on."""
        above = jnp.where(support.mask, support.batch["rating"] - self.mean, 0)
        level = jnp.sum(above) / (jnp.sum(support.mask) + SHRINKAGE)
        metrics = {}
        for name, prediction in zip(BASELINES, (self.mean, self.mean + level), strict=True):
            error = prediction - query.batch["rating"]
            measured = {"mse": jnp.square(error)}
            if self.within is not None:
                measured["accuracy"] = (jnp.abs(error) <= self.within).astype(jnp.float32)
            for metric, values in measured.items():
                metrics[f"{name}/{metric}"] = Mean.of(values).where(query.mask).sum()
        return metrics


def by_baseline(evaluation: Evaluation) -> dict[str, Evaluation]:
    """The evaluation of each baseline by its name, from one whose metrics are called `"baseline/metric"`."""
    parts: dict[str, dict[str, Mean]] = {}
    for name, mean in evaluation.per_client.items():
        baseline, _, metric = name.partition("/")
        parts.setdefault(baseline, {})[metric] = mean
    return {name: Evaluation(evaluation.ids, metrics) for name, metrics in parts.items()}
