"""Newton's method against ridge regression in double precision, and where the objective is not quadratic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon.core._examples import Examples
from fedrecon.core._mean import Mean
from fedrecon.core._model import Objective, on_local
from fedrecon.models._matrix_factorization import matrix_factorization
from fedrecon.solvers._newton import Newton

ITEMS, FACTORS, MOST = 30, 4, 12
FACTOR_PENALTY, BIAS_PENALTY, OFFSET = 2.0, 0.5, 3.5
RNG = np.random.default_rng(0)
PARAMS = {"item": {"factors": RNG.normal(size=(ITEMS, FACTORS)), "bias": RNG.normal(size=ITEMS)}}
RATINGS = RNG.integers(1, 6, (40, MOST)).astype(np.float32)
DRAWN = RNG.integers(0, ITEMS, (40, MOST))
COUNTS = RNG.integers(0, MOST + 1, 40)


def fit(items, ratings, counts, factor_penalty=FACTOR_PENALTY, bias_penalty=BIAS_PENALTY):
    """The local parameters of many clients."""
    model = matrix_factorization(
        ITEMS,
        FACTORS,
        item_bias=True,
        user_bias=True,
        global_bias=OFFSET,
        user_penalty=factor_penalty,
        user_bias_penalty=bias_penalty,
    )
    params = jax.tree.map(jnp.float32, PARAMS)

    @jax.jit
    @jax.vmap
    def run(item, rating, count, key):
        given = Examples({"item": item, "rating": rating}, jnp.arange(MOST) < count)
        return Newton()(on_local(model, params), model.init_local(params, key), given, key)

    local, metrics = run(items, ratings, counts, jax.random.split(jax.random.key(0), len(counts)))
    return np.column_stack([local["user"]["factors"], local["user"]["bias"]]), metrics


def least_squares(items, ratings, factor_penalty=FACTOR_PENALTY, bias_penalty=BIAS_PENALTY):
    """The same of one client, as the least squares of an extended system; its fitted values too."""
    X = np.column_stack([PARAMS["item"]["factors"][items], np.ones(len(items))])
    y = ratings - OFFSET - PARAMS["item"]["bias"][items]
    roots = np.sqrt([factor_penalty] * FACTORS + [bias_penalty])
    solution = np.linalg.lstsq(np.vstack([X, np.diag(roots)]), np.append(y, np.zeros(FACTORS + 1)))[0]
    return solution, X @ solution


def test_one_step_is_ridge_regression():
    counts, items = COUNTS.copy(), DRAWN.copy()
    counts[:2] = 0  # no example: the penalty's optimum
    counts[2], items[2, :8], items[2, 8:] = 10, 7, 3  # two items that come again and again
    found, metrics = fit(items, RATINGS, counts)
    for i, n in enumerate(counts):
        wanted, _ = least_squares(items[i, :n], RATINGS[i, :n])
        np.testing.assert_allclose(found[i], wanted, rtol=1e-5, atol=1e-5)
    assert metrics["loss"].weight.tolist() == counts.tolist()


def test_singular_systems_fit_as_well_as_can_be():
    """Without a penalty fewer examples than parameters, or ones that repeat, leave many solutions."""
    items = np.array([[7] * MOST, [7, 7, 7, *range(9)], DRAWN[0], DRAWN[1]])
    counts = np.array([5, 4, 3, 0])
    found, _ = fit(items, RATINGS[:4], counts, 0.0, 0.0)
    assert np.isfinite(found).all()
    for i, n in enumerate(counts):
        X = np.column_stack([PARAMS["item"]["factors"][items[i, :n]], np.ones(n)])
        fitted = least_squares(items[i, :n], RATINGS[i, :n], 0.0, 0.0)[1]
        np.testing.assert_allclose(X @ found[i], fitted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("start", [0.0, 8.0])
def test_logistic_regression_converges(start):
    """From a start where the plain method diverges, too: there the steps are halved."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(50, 3))
    y = (x @ [1.0, -2.0, 0.5] + rng.logistic(size=50) > 0).astype(np.float64)
    objective = Objective(
        lambda w, frozen, batch, key: Mean.of(
            jax.nn.softplus(batch["x"] @ w) - batch["y"] * (batch["x"] @ w)
        ),
        penalty=lambda w, frozen: 0.1 * jnp.sum(jnp.square(w)),
    )
    given = Examples({"x": jnp.float32(x), "y": jnp.float32(y)}, jnp.ones(50, bool))
    run = jax.jit(lambda w: Newton(iterations=12, damping=1e-3)(objective, w, given, jax.random.key(0))[0])
    found = np.float64(run(jnp.full(3, start)))
    slope = x.T @ (1 / (1 + np.exp(-x @ found)) - y) + 0.2 * found
    np.testing.assert_allclose(slope, 0, atol=1e-5)
