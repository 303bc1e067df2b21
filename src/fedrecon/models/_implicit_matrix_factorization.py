"""Matrix factorisation for implicit feedback, with the users' factors local."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from fedrecon.core._mean import Mean
from fedrecon.core._model import Model, Table
from fedrecon.core._random import normal
from fedrecon.core._types import Batch, Params, PRNGKey
from fedrecon.errors import whole_number

SAMPLED = ("sampled_softmax", "binary", "bpr")
LOSSES = ("squared", "softmax", *SAMPLED)


def implicit_factorization(
    num_items: int,
    factors: int = 64,
    *,
    loss: str = "squared",
    unobserved: float = 0.1,
    penalty: float = 0.003,
    init_scale: float = 0.1,
) -> Model:
    """Scores s_i = v_i·u of items, with item factors v global and the user's factors u local.

    An example is an interaction with the item i. Batches have the fields `item` and, where interactions
    count differently, `weight` (w in the formulas, else 1). Losses over the whole catalogue are

    - `"squared"`: w (1 - s_i)² for every interaction, and `unobserved` s_j² for every item j of the
      catalogue, whatever the client has. Quadratic in u, so that one step of `Newton` is exact; the sum over
      the catalogue is computed from the items' Gram matrix, VᵀV, once for all clients.
    - `"softmax"`: -w log softmax(s)_i.

    Losses over drawn items j take them from the field `negatives`, `[negative]`:

    - `"sampled_softmax"`: -w log of i's share in the softmax over i and the drawn items.
    - `"binary"`: the cross-entropy of sigmoid(s), w (-log σ(s_i) - sum_j log σ(-s_j)).
    - `"bpr"`: the mean over j of -w log σ(s_i - s_j) (Rendle et al., 2009).

    Each has the penalty w `penalty` (|u|² + |v_i|²) for every interaction, so that it grows with the number
    of examples as the loss does; with `"squared"` also the `unobserved` part of it for every item, as if it
    had been observed with that weight (Rendle et al., 2022, with their ν = 1).

    A loss over the whole catalogue changes every item's factors, so that a client sends the whole table;
    with drawn items it sends the rows of these.

    Args:
        num_items: The number of items, which is the number of rows of the item table.
        factors: The length of a factor vector; 64 by default.
        loss: Name of the loss, one of those above; `"squared"` by default.
        unobserved: The weight of every item's squared score in the loss `"squared"`, at least 0; 0.1 by
            default.
        penalty: The factor of the squared lengths in the penalty above, at least 0; 0.003 by default.
        init_scale: The scale of the initial factors, which are drawn from N(0, init_scale² / factors); 0.1 by
            default.

    Returns:
        A model without metrics; `fedrecon.evaluation.Ranking` measures it.

    Raises:
        ValueError: A number is out of its range, or there is no loss of that name.

    References:
        Hu, Koren and Volinsky, Collaborative Filtering for Implicit Feedback Datasets, ICDM 2008. Rendle et
        al., Revisiting the Performance of iALS on Item Recommendation Benchmarks, RecSys 2022.
    """
    num_items, factors = whole_number("num_items", num_items, 1), whole_number("factors", factors, 1)
    for name, number in (("unobserved", unobserved), ("penalty", penalty), ("init_scale", init_scale)):
        if not 0 <= number < float("inf"):
            raise ValueError(f"{name} must be finite and not negative, got {number}")
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {loss!r}")

    def draw(key: PRNGKey, *shape: int) -> Any:
        return init_scale / factors**0.5 * normal(key, shape)

    def init_global(key: PRNGKey) -> Any:
        return {"item": {"factors": draw(key, num_items, factors)}}

    def init_local(global_params: Params, key: PRNGKey) -> Any:
        return {"user": {"factors": draw(key, factors)}}

    def predict(global_params: Params, local_params: Params, features: Batch) -> Any:
        rows = global_params["item"]["factors"][features["item"]]
        return _product(rows, local_params["user"]["factors"])

    def error(
        item: Float[Any, "item factor"],
        user: Float[Any, "factor"],
        own: Float[Any, "example"],
        batch: Batch,
    ) -> Any:
        """The loss of each interaction, without weight and penalty; `own` are the scores of their items."""
        if loss == "squared":
            return jnp.square(1 - own)
        if loss == "softmax":
            return jax.nn.logsumexp(_product(item, user)) - own
        others = _product(item[batch["negatives"]], user)
        if loss == "sampled_softmax":
            return jax.nn.logsumexp(jnp.concatenate([own[:, None], others], 1), axis=1) - own
        if loss == "binary":
            return jax.nn.softplus(-own) + jnp.sum(jax.nn.softplus(others), 1)
        return jnp.mean(jax.nn.softplus(others - own[:, None]), 1)

    def total_loss(global_params: Params, local_params: Params, batch: Batch, key: PRNGKey | None) -> Mean:
        item, user = global_params["item"]["factors"], local_params["user"]["factors"]
        rows = item[batch["item"]]  # gathered once: the derivative of each gather is a scatter into the table
        losses = error(item, user, _product(rows, user), batch)
        losses += penalty * (jnp.sum(jnp.square(rows), -1) + jnp.sum(jnp.square(user)))
        return Mean.of(losses, batch.get("weight"))

    def catalogue(global_params: Params, local_params: Params) -> Any:
        item, user = global_params["item"]["factors"], local_params["user"]["factors"]
        squares = num_items * jnp.sum(jnp.square(user)) + jnp.sum(jnp.square(item))
        return unobserved * (sum_of_squares(item, user) + penalty * squares)

    model = Model(
        init_global=init_global,
        init_local=init_local,
        loss=total_loss,
        metrics=lambda *_: {},
        predict=predict,
        tables=(Table("item/factors", ("item", "negatives")),) if loss in SAMPLED else (),
    )
    return replace(model, penalty=catalogue) if loss == "squared" else model


def _product(a: Float[Any, "..."], b: Float[Any, "..."]) -> Any:
    return jnp.matmul(a, b, precision="highest")  # no TF32 on a GPU


@jax.custom_jvp
def sum_of_squares(V: Float[Any, "item factor"], u: Float[Any, "factor"]) -> Any:
    """|V u|², computed as uᵀ(VᵀV)u, with a derivative of its own.

    The matrix VᵀV does not depend on the client, so that value and derivatives in `u` cost one small product
    for each. The derivative in `V` is 2 (V u) uᵀ, computed from V directly: through VᵀV, as JAX would derive
    it, it were a product of V with another matrix for every client.

    Args:
        V: The item factors, `[item, factor]`.
        u: The user's factor vector, `[factor]`.
    """
    return u @ _product(_product(V.T, V), u)


def _tangent(
    primals: tuple[Any, Any],
    tangents: tuple[Any, Any],
) -> Any:
    (V, u), (dV, du) = primals, tangents
    zero = jax.custom_derivatives.SymbolicZero
    value = sum_of_squares(V, u)
    change = jnp.zeros_like(value)
    if not isinstance(du, zero):
        change += 2 * jnp.dot(_product(_product(V.T, V), u), du)
    if not isinstance(dV, zero):
        change += 2 * jnp.dot(_product(V, u), _product(dV, u))
    return value, change


sum_of_squares.defjvp(_tangent, symbolic_zeros=True)
