"""Models, their views and what stages see of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon.core._mean import Mean
from fedrecon.core._model import (
    Model,
    Table,
    check_loss,
    fully_global,
    leaf_at,
    leaves_of,
    on_both,
    on_global,
    on_local,
    path_of,
    with_leaves,
    without_tables,
)

BATCH = {"item": np.array([0, 2]), "rating": np.array([1.0, 2.0])}


def value(g, x, batch):
    return g["item"][batch["item"]] * x["user"] + batch["rating"]


MODEL = Model(
    init_global=lambda key: {"item": jnp.arange(3.0)},
    init_local=lambda g, key: {"user": 2 * g["item"][2]},
    loss=lambda g, x, batch, key: Mean.of(value(g, x, batch)),
    metrics=lambda g, x, batch: {"twice": Mean.of(2 * value(g, x, batch))},
    predict=lambda g, x, features: g["item"][features["item"]] * x["user"],
    penalty=lambda g, x: 10 * x["user"],
    tables=(Table("item", ("item",)),),
)
G, L = {"item": jnp.array([1.0, 2.0, 3.0])}, {"user": jnp.array(5.0)}
LOSS, PENALTY = [6.0, 17.0], 50.0


@pytest.mark.parametrize(
    ("objective", "params", "tables", "frozen_tables"),
    [
        (on_local(MODEL, G), L, [], ["item"]),
        (on_global(MODEL, L), G, ["item"], []),
        (on_both(MODEL), (G, L), ["0/item"], []),
        (on_global(fully_global(MODEL), ()), (G, L), ["0/item"], []),
        (on_local(without_tables(MODEL), G), L, [], []),
    ],
    ids=["local", "global", "both", "fully global", "without tables"],
)
def test_objectives(objective, params, tables, frozen_tables):
    np.testing.assert_allclose(objective.fn(params, objective.frozen, BATCH, None).total, LOSS)
    found = objective.metrics(params, objective.frozen, BATCH)
    np.testing.assert_allclose(found["twice"].total, [12, 34])
    assert objective.penalty(params, objective.frozen) == PENALTY
    assert [t.leaf for t in objective.tables] == tables
    assert [t.leaf for t in objective.frozen_tables] == frozen_tables


def test_fully_global_starts_from_both_and_has_nothing_local():
    view = fully_global(MODEL)
    g, x = view.init_global(jax.random.key(0))
    np.testing.assert_array_equal(g["item"], [0, 1, 2])
    assert x == {"user": 4}
    assert view.init_local((g, x), jax.random.key(0)) == ()
    np.testing.assert_allclose(view.predict((G, L), (), BATCH), [5, 15])


def test_a_model_need_not_predict_nor_penalise():
    plain = Model(
        init_global=MODEL.init_global, init_local=MODEL.init_local, loss=MODEL.loss, metrics=MODEL.metrics
    )
    assert fully_global(plain).predict is None
    assert fully_global(plain).penalty((G, L), ()) == 0.0
    assert plain.tables == ()


TREE = {"layers": [{"kernel": 1}, {"kernel": 2}], "head": (3, None)}


def test_paths():
    assert leaves_of(TREE) == {"head/0": 3, "layers/0/kernel": 1, "layers/1/kernel": 2}
    assert [path_of(p) for p, _ in jax.tree_util.tree_leaves_with_path(5)] == [""]


def test_leaf_at():
    assert leaf_at(TREE, "layers/1/kernel") == 2
    with pytest.raises(
        ValueError, match=r"leaf 'layers/2/kernel', but .* \['head/0'.*\]; did you mean 'layers/"
    ):
        leaf_at(TREE, "layers/2/kernel")
    with pytest.raises(ValueError, match="leaf 'layers', but"):
        leaf_at(TREE, "layers")


def test_with_leaves():
    new = with_leaves(TREE, {"head/0": 9, "layers/0/kernel": 8})
    assert new == {"layers": [{"kernel": 8}, {"kernel": 2}], "head": (9, None)}


@pytest.mark.parametrize(
    ("mean", "kind", "message"),
    [
        (jnp.ones(3), TypeError, "must return a Mean with one entry per example, got ArrayImpl"),
        (Mean(jnp.ones(3), jnp.ones(2)), ValueError, r"weight of shape \(3,\); got \(2,\)"),
        (Mean(jnp.ones((3, 4)), jnp.ones(3)), ValueError, r"total of shape \(3,\); got \(3, 4\)"),
        (Mean(jnp.ones(()), jnp.ones(())), ValueError, r"total of shape \(3,\); got \(\)"),
    ],
)
def test_loss_of_another_form(mean, kind, message):
    with pytest.raises(kind, match=message):
        check_loss(mean, 3)


def test_loss_of_the_right_form():
    check_loss(Mean(jnp.ones(3), jnp.zeros(3)), 3)
    check_loss(jax.eval_shape(lambda: Mean.of(jnp.ones(3))), 3)
