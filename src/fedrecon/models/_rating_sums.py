"""The scale of ratings and the weight of their items, from one round of sums that clients send."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from fedrecon.algorithms._base import Algorithm, Broadcast, Update
from fedrecon.algorithms._building_blocks import WeightedMean, server, stateless, uniform, update_of
from fedrecon.core._examples import Examples
from fedrecon.core._mean import Mean
from fedrecon.core._model import Model, Table, leaf_at
from fedrecon.core._types import ClientState, Params, PRNGKey
from fedrecon.errors import whole_number
from fedrecon.solvers._optimizers import optimizer

_ITEM = ("sum", "weight", "count")
# The least share of the variance that item biases are taken to explain: their penalty stays finite.
_LEAST_SHARE = 1e-4
# The largest one, so that an item with a single rating is shrunk, too.
_LARGEST_SHARE = 0.9


class RatingStatistics(NamedTuple):
    """What a recipe in units of the data must know of the ratings.

    Attributes:
        mean: Mean of the ratings.
        deviation: Standard deviation of the ratings around their client's own mean: the unit in which items
            and noise are measured, whatever the clients' levels are. 1 where each client's ratings are equal.
        item_counts: The number of ratings of each item, `[item]`.
        item_bias: The amounts by which raters rate each item above their own mean, shrunk by
            `item_bias_penalty`, in units of `deviation`, `[item]`.
        item_bias_penalty: The penalty of an item's squared bias under which ridge regression is the best
            linear estimate: the variance of a rating around its item's bias over the variance of the biases.
    """

    mean: float
    deviation: float
    item_counts: Float32[np.ndarray, " item"]
    item_bias: Float32[np.ndarray, " item"]
    item_bias_penalty: float


def rating_sums(num_items: int) -> Algorithm:
    """An algorithm whose single round sums what `rating_statistics` needs of the ratings.

    A client with n ratings sends n, their sum, the sum of their squared differences from the client's own
    mean, and for each of its items the sum of those differences, their number, and 1 - 1/n for each, the
    variance of a difference in units of the ratings'. It is an `Update` as of any algorithm, which
    `fedrecon.privacy.user_level_dp` can clip and noise.

    Args:
        num_items: The number of items, which is the number of rows of the item tables.

    Returns:
        An algorithm with the fields `item` and `rating`, whose global parameters are the mean over the
        cohort of these sums: `count`, `sum` and `square`, scalars, and `item/sum`, `item/weight` and
        `item/count`, each `[item]`.

    Raises:
        ValueError: `num_items` is not a whole number of at least 1.
    """
    num_items = whole_number("num_items", num_items, 1)
    zeros: dict[str, Any] = {name: jnp.zeros(()) for name in ("count", "sum", "square")}
    zeros["item"] = {name: jnp.zeros(num_items) for name in _ITEM}
    model = Model(
        init_global=lambda key: zeros,
        init_local=lambda params, key: (),
        loss=lambda params, _, batch, key: Mean.of(jnp.square(batch["rating"])),
        metrics=lambda params, _, batch: {},
        tables=tuple(Table(f"item/{name}", ("item",)) for name in _ITEM),
        frozen=("0",),  # sums are no parameters: clients set them without a gradient
    )
    init, server_update = server(model, optimizer("sgd", learning_rate=1.0), WeightedMean())

    def client_update(
        broadcast: Broadcast, client_state: ClientState, examples: Examples, key: PRNGKey
    ) -> tuple[Update, Any]:
        mask, items = examples.mask, examples.data["item"]
        rating = jnp.where(mask, examples.data["rating"].astype(jnp.float32), 0)
        count = jnp.sum(mask).astype(jnp.float32)
        mean = jnp.sum(rating) / jnp.maximum(count, 1)
        above = jnp.where(mask, rating - mean, 0)
        weight = jnp.where(mask, 1 - 1 / jnp.maximum(count, 1), 0)

        def by_item(name: str, values: Any) -> Any:
            rows = jnp.zeros_like(leaf_at(broadcast.global_params, f"item/{name}"))
            return rows.at[items].add(values, mode="drop")

        square = jnp.sum(jnp.square(above))
        columns = dict(zip(_ITEM, (above, weight, mask.astype(jnp.float32)), strict=True))
        delta: dict[str, Any] = {"count": count, "sum": jnp.sum(rating), "square": square}
        delta |= {"item": {name: by_item(name, values) for name, values in columns.items()}}
        return update_of(delta, {}, {"loss": Mean(square, count)}, uniform), client_state

    def personalize(
        broadcast: Broadcast, client_state: ClientState, support: Examples, key: PRNGKey
    ) -> Params:
        return ()

    return Algorithm(
        model=model,
        personal_model=model,
        init=init,
        init_client_state=stateless,
        client_update=client_update,
        server_update=server_update,
        personalize=personalize,
        name="rating_sums",
        hyperparameters={"num_items": num_items},
    )


def rating_statistics(
    params: Params,
    num_clients: int,
    *,
    mean: float | None = None,
    deviation: float | None = None,
    item_bias_penalty: float | None = None,
) -> RatingStatistics:
    """The statistics of ratings from the sums of their clients.

    The variance τ² of the items' biases is the analysis of variance's: over the items, the sums S of
    differences have S²/W of σ² + (W - 1) τ² on average, W being the items' `weight` and σ² the variance of a
    rating within its client.

    Args:
        params: The global parameters of `rating_sums` after its round, over all clients.
        num_clients: The number of clients with a rating.
        mean: A number that takes the place of the measured mean; None, the default, to measure it.
        deviation: A number that takes the place of the measured deviation; None, the default, to measure it.
        item_bias_penalty: A number that takes the place of the measured penalty of item biases; None, the
            default, to measure it.

    Raises:
        ValueError: The sums are not finite, or there is no rating.
    """
    num_clients = whole_number("num_clients", num_clients, 1)
    sums = jax.tree.map(lambda x: np.asarray(x, np.float64) * num_clients, jax.device_get(params))
    if not all(np.all(np.isfinite(x)) for x in jax.tree.leaves(sums)) or sums["count"] < 0.5:
        raise ValueError("the sums must be finite, and of a rating at least; ratings may be too large")
    count, item = max(float(sums["count"]), 1.0), sums["item"]
    if deviation is None:
        variance = max(float(sums["square"]), 0.0) / max(count - num_clients, 1.0)
        deviation = math.sqrt(variance) if variance > 0 else 1.0
    weight, above = np.maximum(item["weight"], 0), item["sum"] / deviation
    rated = weight > 0
    freedom = float(np.sum(weight[rated] - 1))
    excess = float(np.sum(above[rated] ** 2 / weight[rated] - 1))
    share = float(np.clip(excess / freedom if freedom > 0 else 0, _LEAST_SHARE, _LARGEST_SHARE))
    penalty = (1 - share) / share if item_bias_penalty is None else item_bias_penalty
    return RatingStatistics(
        float(sums["sum"]) / count if mean is None else mean,
        deviation,
        np.maximum(np.rint(item["count"]), 0).astype(np.float32),
        (above / np.maximum(weight + penalty, 1e-12)).astype(np.float32),
        penalty,
    )
