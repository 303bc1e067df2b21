"""Matrix factorisation in units of the ratings' deviation, with penalties per item."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon.models import matrix_factorization

BATCH = {"item": jnp.array([0, 2, 2, 1]), "rating": jnp.array([10.0, 30.0, 20.0, 50.0])}
PENALTIES = {"user_penalty": 2.0, "user_bias_penalty": 3.0, "item_penalty": 0.5, "item_bias_penalty": 0.7}


def parameters(model):
    global_params = model.init_global(jax.random.key(0))
    local_params = model.init_local(global_params, jax.random.key(1))
    return global_params, jax.tree.map(lambda x: x + 0.3, local_params)


def test_a_unit_of_the_ratings_changes_no_loss():
    """The model of ratings in tens, in units of 10, is that of the ratings over 10."""
    model = matrix_factorization(4, 3, item_bias=True, user_bias=True, global_bias=2.0, **PENALTIES)
    tens = matrix_factorization(
        4, 3, item_bias=True, user_bias=True, global_bias=20.0, deviation=10.0, **PENALTIES
    )
    params, ones = parameters(model), {**BATCH, "rating": BATCH["rating"] / 10}
    loss, loss_of_tens = model.loss(*params, ones, None), tens.loss(*params, BATCH, None)
    np.testing.assert_allclose(loss.total, loss_of_tens.total, rtol=1e-5)
    np.testing.assert_allclose(tens.predict(*params, BATCH), 10 * model.predict(*params, ones), rtol=1e-5)
    mse, mse_of_tens = (m.metrics(*params, x)["mse"].total for m, x in ((model, ones), (tens, BATCH)))
    np.testing.assert_allclose(mse_of_tens, 100 * mse, rtol=1e-4)


def test_penalties_of_an_item_add_up_to_one_over_all_its_ratings():
    settings = {"item_bias": True, "initial_item_bias": np.array([0.1, 0.2, 0.3, 0.4])}
    counts = np.array([1, 1, 2, 0])
    plain = matrix_factorization(4, 3, item_counts=counts, **settings)
    shrunk = matrix_factorization(
        4, 3, item_counts=counts, item_penalty=0.5, item_bias_penalty=0.7, **settings
    )
    params = parameters(plain)
    added = jnp.sum(shrunk.loss(*params, BATCH, None).total - plain.loss(*params, BATCH, None).total)
    item = params[0]["item"]
    expected = 0.5 * jnp.sum(item["factors"][:3] ** 2) + 0.7 * jnp.sum(item["bias"][:3] ** 2)
    assert float(added) == pytest.approx(float(expected), rel=5e-3)  # of errors of thousands


def test_counts_are_never_trained_and_items_without_a_rating_start_at_nothing():
    model = matrix_factorization(4, 3, item_counts=np.array([1, 1, 2, 0]), item_penalty=0.5)
    global_params, local_params = parameters(model)
    gradient = jax.grad(lambda g: jnp.sum(model.loss(g, local_params, BATCH, None).total))(global_params)
    assert not np.any(gradient["item"]["count"])
    assert np.any(gradient["item"]["factors"][:3], axis=1).all()
    assert np.any(global_params["item"]["factors"], axis=1).tolist() == [True, True, True, False]
    assert [table.leaf for table in model.tables] == ["item/factors", "item/count"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"deviation": 0.0}, r"deviation must be positive and finite, got 0\.0"),
        ({"deviation": float("nan")}, "deviation must be positive and finite, got nan"),
        ({"item_counts": np.ones(3)}, r"item_counts must be of shape \(4,\), got \(3,\)"),
        ({"initial_item_bias": np.ones(4)}, "initial_item_bias needs item_bias=True"),
    ],
)
def test_wrong_units_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        matrix_factorization(4, **settings)
