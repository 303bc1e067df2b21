"""Look-ups whose indices are known to count the rows are left out; all others stay."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon._kernels.fold_lookups import fold_lookups

TABLE = np.arange(12.0, dtype=np.float32).reshape(4, 3)


def gathers(fn, known, table=TABLE):
    """How many gathers are left in `fn(table, ids)` with known ids, and whether its value stayed."""
    folded = fold_lookups(fn)
    np.testing.assert_allclose(jax.jit(lambda t: folded(t, known))(table), fn(table, known), rtol=1e-6)
    graph = str(jax.make_jaxpr(lambda t: folded(t, known))(table))
    return graph.count("gather[")


def look_up(table, ids):
    return jnp.asarray(table)[ids]


@pytest.mark.parametrize(
    ("fn", "ids", "left"),
    [
        (look_up, np.arange(4), 0),
        (look_up, np.arange(4).reshape(2, 2), 0),
        (look_up, np.arange(3), 1),
        (look_up, np.array([1, 0, 2, 3]), 1),
        (look_up, np.array([-4, -3, -2, -1]), 0),
        (lambda t, i: jnp.take(jnp.asarray(t), i, axis=0), np.arange(4), 0),
        (lambda t, i: jax.jit(look_up)(t, i) * 2, np.arange(4), 0),
        (lambda t, i: look_up(t, i) - look_up(t, i[::-1]), np.arange(4), 1),
        (lambda t, i: jnp.asarray(t)[:, i[:3]], np.arange(4), 1),
        (lambda t, i: look_up(look_up(t, i), i), np.arange(4), 0),
        (lambda t, i: jax.vmap(look_up, (0, None))(jnp.stack([t, 2 * t]), i), np.arange(4), 1),
        (lambda t, i: jax.lax.cond(True, look_up, look_up, jnp.asarray(t), i), np.arange(4), 2),
        (lambda t, i: jnp.sum(look_up(t, i), 0), np.arange(4), 0),
    ],
)
def test_look_ups(fn, ids, left):
    assert gathers(fn, ids) <= left
    if left:  # the indices did not count the rows, so that something must be left
        assert gathers(fn, ids) > 0


def test_one_row_is_its_own_look_up():
    assert gathers(look_up, np.array([0]), TABLE[:1]) == 0
    assert gathers(lambda t, i: jnp.asarray(t)[i, i], np.array([0]), TABLE[:1]) <= 1


def test_without_known_arrays_the_function_is_called_as_it_is():
    assert fold_lookups(lambda x: (x, "as it is"))(jnp.ones(2))[1] == "as it is"


def test_gradients_pass():
    ids, weights = np.arange(4), jnp.arange(4.0)[:, None]
    folded = fold_lookups(lambda t, i: jnp.sum(weights * look_up(t, i) ** 2))
    found = jax.grad(lambda t: folded(t, ids))(jnp.asarray(TABLE))
    np.testing.assert_allclose(found, 2 * weights * TABLE)


def test_unusual_functions_keep_their_value():
    @jax.custom_jvp
    def square(x):
        return x * x

    square.defjvp(lambda primals, tangents: (primals[0] ** 2, 2 * primals[0] * tangents[0]))

    def fn(table, ids):
        rows = jax.checkpoint(lambda t: square(look_up(t, ids)))(table)
        total, _ = jax.lax.scan(lambda c, r: (c + r, None), jnp.zeros(3), rows)
        return {"total": total, "count": ids.sum(), "first": jax.nn.relu(rows[0]), "drawn": None}

    folded = fold_lookups(fn)
    found = jax.jit(lambda t: folded(t, np.arange(4)))(TABLE)
    wanted = fn(TABLE, np.arange(4))
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, wanted)


def test_random_functions_keep_their_value():
    def fn(table, ids, key):
        return look_up(table, ids) * jax.random.bernoulli(key, 0.5, (4, 1))

    key = jax.random.key(0)
    np.testing.assert_array_equal(fold_lookups(fn)(TABLE, np.arange(4), key), fn(TABLE, np.arange(4), key))
