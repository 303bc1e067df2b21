"""Sums per item instead of gradients: all that item biases need of the ratings, in one release."""

from typing import Any

import jax.numpy as jnp

from fedrecon.algorithms._base import Algorithm, Broadcast, Update
from fedrecon.algorithms._building_blocks import (
    WeightedMean,
    server,
    stateless,
    uniform,
    update_of,
)
from fedrecon.core._examples import Examples
from fedrecon.core._mean import Mean
from fedrecon.core._model import Model, Table, leaf_at
from fedrecon.core._types import Params
from fedrecon.solvers._optimizers import optimizer

SUM, COUNT = "item/sum", "item/count"


def item_sums(num_items: int, *, middle: float, shrink: float = 3.0, indicator: float = 0.8) -> Algorithm:
    """An algorithm whose single round sums, per item, how much above their own mean its raters rated it.

    A client's residuals are its ratings minus its own mean, which is shrunk to the middle of the scale. It
    sends them as sums per item, and beside them a fixed number for each rating, by which they are counted.
    Both are clipped together, so that a client with many ratings weighs less in sums and counts alike, and
    their ratio stays a mean.

    Args:
        num_items: The number of rows of the item tables.
        middle: The middle of the rating scale, a public number in units of ratings.
        shrink: The number of ratings at the middle of the scale that are added to a client's own before its
            mean is taken; 3 by default.
        indicator: The number that is sent for a rating, in units of ratings. A larger one makes counts less
            noisy and sums more; 0.8 by default.

    Returns:
        An algorithm with the fields `item` and `rating`, whose global parameters are the mean over the
        cohort of `{"item": {"sum": [item], "count": [item]}}`; counts are in units of `indicator`. Made
        private by `user_level_dp`, its parameters are what `item_biases` takes.

    References:
        Chien et al., Private Alternating Least Squares, ICML 2021, for clipped sums per item; Curmei et al.,
        Private Matrix Factorization with Public Item Features, RecSys 2023, for public features.
    """
    zeros = {"item": {"sum": jnp.zeros(num_items), "count": jnp.zeros(num_items)}}

    def residuals(batch: Any, mask: Any) -> Any:
        above = jnp.where(mask, batch["rating"] - middle, 0)
        return jnp.where(mask, above - jnp.sum(above) / (jnp.sum(mask) + shrink), 0)

    model = Model(
        init_global=lambda key: zeros,
        init_local=lambda params, key: (),
        loss=lambda params, _, batch, key: Mean.of(jnp.square(batch["rating"] - middle)),
        metrics=lambda params, _, batch: {},
        tables=(Table(SUM, ("item",)), Table(COUNT, ("item",))),
        frozen=("0",),  # sums are no parameters: clients set them without a gradient
    )
    init, server_update = server(model, optimizer("sgd", learning_rate=1.0), WeightedMean())

    def client_update(
        broadcast: Broadcast, client_state: Any, examples: Examples, key: Any
    ) -> tuple[Update, Any]:
        above, items = residuals(examples.data, examples.mask), examples.data["item"]

        def summed(name: str, values: Any) -> Any:
            return jnp.zeros_like(leaf_at(broadcast.global_params, name)).at[items].add(values, mode="drop")

        counted = jnp.where(examples.mask, indicator, 0.0)
        delta = {"item": {"sum": summed(SUM, above), "count": summed(COUNT, counted)}}
        loss = Mean(jnp.sum(jnp.square(above)), jnp.sum(examples.mask).astype(jnp.float32))
        return update_of(delta, {}, {"loss": loss}, uniform), client_state

    def personalize(broadcast: Broadcast, client_state: Any, support: Examples, key: Any) -> Params:
        return ()

    settings = {"middle": middle, "shrink": shrink, "indicator": indicator, "num_items": num_items}
    return Algorithm(
        model=model,
        personal_model=model,
        init=init,
        init_client_state=stateless,
        client_update=client_update,
        server_update=server_update,
        personalize=personalize,
        name="item_sums",
        hyperparameters=settings,
    )
