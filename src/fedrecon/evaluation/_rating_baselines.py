"""Predictors of ratings that cost nothing: what a result must beat to be worth its rounds."""

from dataclasses import dataclass

import jax.numpy as jnp

from fedrecon.core._examples import Examples
from fedrecon.core._mean import Mean
from fedrecon.core._model import Model
from fedrecon.core._tags import tagged
from fedrecon.core._types import Params, PRNGKey
from fedrecon.evaluation._evaluate import Scoring
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


@dataclass(frozen=True)
class WithBaselines:
    """A scoring that measures the baselines too, so that one compiled program evaluates both.

    Attributes:
        scoring: The scoring of the personalised model.
        baselines: The scoring of the baselines; its metrics are called `"baseline/metric"`.
    """

    scoring: Scoring
    baselines: Scoring

    def __call__(
        self,
        model: Model,
        global_params: Params,
        local_params: Params,
        support: Examples,
        query: Examples,
        key: PRNGKey,
    ) -> dict[str, Mean]:
        """The metrics of the personalised model, then those of the baselines."""
        given = model, global_params, local_params, support, query, key
        return {**self.scoring(*given), **self.baselines(*given)}


def split_baselines(evaluation: Evaluation) -> tuple[Evaluation, dict[str, Evaluation]]:
    """Takes the baselines' metrics, which are called `"baseline/metric"`, out of an evaluation.

    Returns:
        The evaluation without them, and the evaluation of each baseline by its name.
    """
    rest: dict[str, Mean] = {}
    parts: dict[str, dict[str, Mean]] = {}
    for name, mean in evaluation.per_client.items():
        baseline, _, metric = name.partition("/")
        if baseline in BASELINES:
            parts.setdefault(baseline, {})[metric] = mean
        else:
            rest[name] = mean
    return Evaluation(evaluation.ids, rest), {
        name: Evaluation(evaluation.ids, metrics) for name, metrics in parts.items()
    }
