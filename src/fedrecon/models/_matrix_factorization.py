"""Matrix factorisation of ratings, with the users' factors local."""

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from fedrecon.core._mean import Mean
from fedrecon.core._model import Model, Table
from fedrecon.core._random import normal, uniform
from fedrecon.core._types import Batch, Params, PRNGKey
from fedrecon.errors import plain, whole_number


def matrix_factorization(
    num_items: int,
    factors: int = 50,
    *,
    item_bias: bool = False,
    user_bias: bool = False,
    global_bias: float | None = None,
    init: Literal["uniform", "normal"] = "uniform",
    init_scale: float = 0.05,
    user_penalty: float = 0.0,
    user_bias_penalty: float = 0.0,
    item_penalty: float = 0.0,
    item_bias_penalty: float = 0.0,
    accuracy_within: float | None = 0.5,
    deviation: float = 1.0,
    item_counts: Shaped[np.ndarray, " item"] | None = None,
    initial_item_bias: Shaped[np.ndarray, " item"] | None = None,
) -> Model:
    """Ratings as products of item factors (global) and user factors (local).

    The prediction for item i is v_i·u, plus the item's, the user's and the global bias if the model has them;
    the loss is the squared error. The defaults are the paper's: raw ratings, no biases, no penalties.

    Batches have the fields `item` (row of the tables) and `rating`.

    Args:
        num_items: The number of items, which is the number of rows of the item tables.
        factors: The length of a factor vector; 50 by default.
        item_bias: Whether items have a bias, a global parameter that starts at 0; False by default.
        user_bias: Whether users have a bias, a local parameter that starts at 0; False by default.
        global_bias: A fixed number that is added to all predictions, such as the mean of the training
            ratings; None, the default, for none.
        init: The distribution of the initial factors: `"uniform"`, the default, for U(-init_scale,
            init_scale), or `"normal"` for N(0, init_scale²).
        init_scale: The scale of the initial factors, half the width of the uniform distribution or the
            standard deviation of the normal one; 0.05 by default.
        user_penalty: The factor of |u|², which is added to the sum of a solver's squared errors; 0 by
            default.
        user_bias_penalty: The factor of the user's squared bias, which is added to the sum of a solver's
            squared errors; 0 by default.
        item_penalty: The factor of |v_i|² in the loss of every rating of item i; 0 by default.
        item_bias_penalty: The factor of the rated item's squared bias, which is added to each rating's loss;
            0 by default.
        accuracy_within: The largest error of a prediction that counts in `accuracy`, in units of the ratings.
            0.5 by default, half a star; None for ratings without such a unit, which leaves the metric out.
        deviation: The unit of factors, biases and loss, in units of the ratings: the prediction is
            `global_bias + deviation * (v_i·u + biases)`, and the loss is the squared error over `deviation`².
            Penalties and learning rates then fit ratings of any scale. 1 by default.
        item_counts: How many training ratings each item has, `[item]`. They become the table `item/count`,
            which is never trained, and an item's penalties are divided by them: over all ratings of an item
            they add up to `item_penalty` |v_i|², whatever their number. The factors of items without a
            rating start at 0. None, the default, for penalties that grow with an item's ratings.
        initial_item_bias: The items' biases at the start, in units of `deviation`, `[item]`; None, the
            default, for 0.

    Returns:
        A model with the metrics `mse` and, unless left out, `accuracy`: the share of ratings that are off by
        at most `accuracy_within`.

    Raises:
        ValueError: `num_items` or `factors` is not a whole number of at least 1; `accuracy_within` is not
            positive; `deviation` is not positive and finite; or an array has not a number for each item.

    References:
        Singhal et al., Federated Reconstruction, NeurIPS 2021, section 5.1.
    """
    num_items, factors = whole_number("num_items", num_items, 1), whole_number("factors", factors, 1)
    if accuracy_within is not None and not accuracy_within > 0:
        raise ValueError(f"accuracy_within must be positive or None, got {accuracy_within!r}")
    if not 0 < deviation < math.inf:
        raise ValueError(f"deviation must be positive and finite, got {plain(deviation)}")
    for name, array in (("item_counts", item_counts), ("initial_item_bias", initial_item_bias)):
        if array is not None and np.shape(array) != (num_items,):
            raise ValueError(f"{name} must be of shape ({num_items},), got {np.shape(array)}")
    if initial_item_bias is not None and not item_bias:
        raise ValueError("initial_item_bias needs item_bias=True, got False")

    def draw(key: PRNGKey, *shape: int) -> Any:
        if init == "uniform":
            return uniform(key, shape, -init_scale, init_scale)
        return init_scale * normal(key, shape)

    def init_global(key: PRNGKey) -> Any:
        item = {"factors": draw(key, num_items, factors)}
        if item_bias:
            start = np.zeros(num_items) if initial_item_bias is None else initial_item_bias
            item["bias"] = jnp.asarray(start, jnp.result_type(float))  # that of the factors
        if item_counts is not None:
            item["count"] = jnp.asarray(item_counts, jnp.float32)
            # Nothing would ever shrink these factors, and users would be fitted to the noise that they are.
            item["factors"] *= (item["count"] > 0)[:, None]
        return {"item": item}

    def init_local(global_params: Params, key: PRNGKey) -> Any:
        user = {"factors": draw(key, factors)}
        if user_bias:
            user["bias"] = jnp.zeros(())
        return {"user": user}

    def predict(global_params: Params, local_params: Params, features: Batch) -> Any:
        item, user = global_params["item"], local_params["user"]
        rows = item["factors"][features["item"]]
        rating = jnp.matmul(rows, user["factors"], precision="highest")  # no TF32 on a GPU
        if item_bias:
            rating += item["bias"][features["item"]]
        if user_bias:
            rating += user["bias"]
        if deviation != 1:
            rating *= deviation
        return rating if global_bias is None else rating + global_bias

    def loss(global_params: Params, local_params: Params, batch: Batch, key: PRNGKey | None) -> Mean:
        error = predict(global_params, local_params, batch) - batch["rating"]
        error = jnp.square(error if deviation == 1 else error / deviation)
        item = global_params["item"]
        share: Any = 1.0
        if item_counts is not None:
            share = 1 / jnp.maximum(jax.lax.stop_gradient(item["count"][batch["item"]]), 1)
        if item_penalty:
            error += share * item_penalty * jnp.sum(jnp.square(item["factors"][batch["item"]]), -1)
        if item_bias and item_bias_penalty:
            error += share * item_bias_penalty * jnp.square(item["bias"][batch["item"]])
        return Mean.of(error)

    def metrics(global_params: Params, local_params: Params, batch: Batch) -> dict[str, Mean]:
        error = predict(global_params, local_params, batch) - batch["rating"]
        means = {"mse": Mean.of(jnp.square(error))}
        if accuracy_within is not None:
            # A comparison with NaN is false: the accuracy of a diverged model would look like 0, not NaN.
            hit = jnp.where(jnp.isnan(error), jnp.nan, jnp.abs(error) <= accuracy_within)
            means["accuracy"] = Mean.of(hit.astype(jnp.float32))
        return means

    def penalty(global_params: Params, local_params: Params) -> Any:
        user = local_params["user"]
        total: Any = 0.0
        if user_penalty:
            total = total + user_penalty * jnp.sum(jnp.square(user["factors"]))
        if user_bias and user_bias_penalty:
            total = total + user_bias_penalty * jnp.square(user["bias"])
        return total

    tables = [Table("item/factors", ("item",))]
    if item_bias:
        tables.append(Table("item/bias", ("item",)))
    if item_counts is not None:
        tables.append(Table("item/count", ("item",)))
    return Model(
        init_global=init_global,
        init_local=init_local,
        loss=loss,
        metrics=metrics,
        predict=predict,
        penalty=penalty,
        tables=tuple(tables),
        frozen=() if item_counts is None else ("0/item/count",),
    )
