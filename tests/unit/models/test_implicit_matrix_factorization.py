"""Implicit feedback: what each loss is, and that users are reconstructed as implicit ALS would."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon.core._examples import Examples
from fedrecon.core._model import on_local
from fedrecon.models._implicit_matrix_factorization import SAMPLED, implicit_factorization, sum_of_squares
from fedrecon.solvers._newton import Newton

ITEMS, FACTORS = 9, 3
RNG = np.random.default_rng(0)
V = RNG.normal(size=(ITEMS, FACTORS)).astype(np.float32)
U = RNG.normal(size=FACTORS).astype(np.float32)
GLOBAL, LOCAL = {"item": {"factors": jnp.asarray(V)}}, {"user": {"factors": jnp.asarray(U)}}
BATCH = {
    "item": np.array([2, 5, 7]),
    "weight": np.array([1.0, 3.0, 0.5], np.float32),
    "negatives": np.array([[0, 1], [3, 3], [5, 8]]),
}


def test_users_are_those_of_implicit_als():
    """Against the normal equations of Rendle et al., confidences included, some rows being padding."""
    model = implicit_factorization(ITEMS, FACTORS, unobserved=0.3, penalty=0.05)
    mask = np.array([True, True, False])
    found, _ = Newton()(on_local(model, GLOBAL), LOCAL, Examples(BATCH, mask), jax.random.key(0))
    rows, w = V[BATCH["item"][:2]].astype(float), BATCH["weight"][:2].astype(float)
    ridge = 0.05 * (w.sum() + 0.3 * ITEMS)
    matrix = (rows * w[:, None]).T @ rows + 0.3 * V.T.astype(float) @ V + ridge * np.eye(FACTORS)
    np.testing.assert_allclose(found["user"]["factors"], np.linalg.solve(matrix, rows.T @ w), rtol=1e-4)


def test_the_squared_loss_is_a_sum_over_the_catalogue():
    model = implicit_factorization(ITEMS, FACTORS, unobserved=0.3, penalty=0.05)
    mean = model.loss(GLOBAL, LOCAL, BATCH, None)
    np.testing.assert_array_equal(mean.weight, BATCH["weight"])
    wanted, size = 0.0, lambda i: 0.05 * (U @ U + V[i] @ V[i])
    for i, w in zip(BATCH["item"], BATCH["weight"], strict=True):
        wanted += w * ((1 - V[i] @ U) ** 2 + size(i))
    for j in range(ITEMS):
        wanted += 0.3 * ((V[j] @ U) ** 2 + size(j))
    np.testing.assert_allclose(mean.total.sum() + model.penalty(GLOBAL, LOCAL), wanted, rtol=1e-5)


@pytest.mark.parametrize("loss", ["softmax", *SAMPLED])
def test_the_other_losses_by_their_formulas(loss):
    model = implicit_factorization(ITEMS, FACTORS, loss=loss, penalty=0.0)
    found, s = model.loss(GLOBAL, LOCAL, BATCH, None).value(), V.astype(float) @ U

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    for i, drawn, value in zip(BATCH["item"], BATCH["negatives"], found, strict=True):
        wanted = {
            "softmax": -np.log(np.exp(s[i]) / np.exp(s).sum()),
            "sampled_softmax": -np.log(np.exp(s[i]) / (np.exp(s[i]) + np.exp(s[drawn]).sum())),
            "binary": -np.log(sigmoid(s[i])) - np.log(sigmoid(-s[drawn])).sum(),
            "bpr": -np.log(sigmoid(s[i] - s[drawn])).mean(),
        }[loss]
        np.testing.assert_allclose(value, wanted, rtol=1e-5)
    assert model.penalty(GLOBAL, LOCAL) == 0


def test_interactions_without_a_weight_count_once():
    model = implicit_factorization(ITEMS, FACTORS)
    np.testing.assert_array_equal(model.loss(GLOBAL, LOCAL, {"item": BATCH["item"]}, None).weight, [1, 1, 1])


def test_drawn_items_are_rows_of_the_table_and_a_whole_catalogue_is_none():
    for loss in ("squared", "softmax", *SAMPLED):
        tables = implicit_factorization(ITEMS, FACTORS, loss=loss).tables
        assert [t.fields for t in tables] == ([("item", "negatives")] if loss in SAMPLED else [])


def test_the_sum_of_squares_has_the_derivatives_of_its_plain_form():
    def plain(V, u):
        return jnp.sum(jnp.square(V @ u))

    for derivative in (
        lambda f: jax.grad(f, 0),
        lambda f: jax.grad(f, 1),
        lambda f: jax.hessian(f, 1),
        lambda f: jax.jacobian(jax.grad(f, 1), 0),
    ):
        found, wanted = (derivative(f)(jnp.asarray(V), jnp.asarray(U)) for f in (sum_of_squares, plain))
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_users_share_the_gram_matrix():
    """One product of the item factors with themselves, however many users are solved for side by side."""
    model = implicit_factorization(ITEMS, FACTORS)

    def hessian(user):
        return jax.hessian(lambda u: model.penalty(GLOBAL, {"user": {"factors": u}}))(user)

    text = str(jax.make_jaxpr(jax.vmap(hessian))(jnp.ones((4, FACTORS))))
    assert f"f32[4,{FACTORS},{ITEMS}]" not in text and f"f32[4,{ITEMS},{FACTORS}]" not in text


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"num_items": 0}, "num_items"),
        ({"num_items": 3, "factors": 0}, "factors"),
        ({"num_items": 3, "unobserved": -1.0}, "unobserved"),
        ({"num_items": 3, "penalty": float("nan")}, "penalty"),
        ({"num_items": 3, "loss": "hinge"}, "hinge"),
    ],
)
def test_wrong_settings_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        implicit_factorization(**arguments)
