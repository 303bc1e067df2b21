"""State of models: its declaration, and where it lies in views and objectives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.batch_norm import model

from fedrecon.core._mean import Mean
from fedrecon.core._model import Model, fully_global, leaves_of, on_both, on_global, on_local, personal_copy
from fedrecon.core._partition import with_local
from fedrecon.core._pooled_view import pooled
from fedrecon.core._state import is_below, only_state, state_leaves, state_within, with_state, without_state

TREE = {"norm": {"mean": jnp.zeros(2)}, "normal": jnp.ones(1)}
BATCH = {"x": jnp.ones((2, 4)), "y": jnp.zeros(2), "example_mask": jnp.array([True, True])}


def test_a_path_stands_for_what_lies_below_it():
    assert is_below(("norm",), "norm/mean") and is_below(("",), "norm") and is_below(("norm",), "norm")
    assert not is_below(("norm",), "normal") and not is_below((), "norm")


def test_paths_of_a_pair_are_those_of_one_of_its_trees():
    assert state_within("1", ("0/a", "1/norm/mean", "1")) == ("norm/mean", "")
    assert state_leaves(jnp.ones(1), ("",)) == [""]


def test_state_is_taken_apart_and_put_together():
    assert list(leaves_of(only_state(TREE, ("norm",)))) == ["norm/mean"]
    assert list(leaves_of(without_state(TREE, ("norm",)))) == ["normal"]
    new = with_state(TREE, ("norm",), {"norm": {"mean": jnp.full(2, 3.0)}, "normal": jnp.zeros(1)})
    assert float(new["norm"]["mean"][0]) == 3 and float(new["normal"][0]) == 1


@pytest.mark.parametrize("given", [{"state": ()}, {"next_state": None}])
def test_state_and_what_it_becomes_are_declared_together(given):
    with pytest.raises(ValueError, match=r"a model with (state|next_state) must have"):
        model("head", **given)


def test_state_is_declared_by_paths_of_leaves():
    with pytest.raises(TypeError, match="state"):
        Model(
            init_global=lambda key: TREE,
            init_local=lambda g, key: (),
            loss=lambda g, x, batch, key: Mean.of(batch["x"]),
            metrics=lambda g, x, batch: {},
            state="0/norm",
        )
    with pytest.raises(ValueError, match=r"state names the path 'nrm', .*did you mean 'norm"):
        model("head", state=("nrm",))


VIEWS = {
    "averaged": (lambda: model("head"), ("0/norm/mean", "0/norm/var")),
    "local": (lambda: model("head", "norm"), ("1/norm/mean", "1/norm/var")),
    "mixed": (lambda: model("head", "norm/var"), ("0/norm/mean", "1/norm/var")),
    "fully global": (lambda: fully_global(model("head", "norm/var")), ("0/0/norm/mean", "0/1/norm/var")),
    "copied": (
        lambda: personal_copy(model("head", "norm/var")),
        ("0/norm/mean", "1/0/norm/mean", "1/1/norm/var"),
    ),
    "partly copied": (lambda: personal_copy(model("head"), ("w",)), ("0/norm/mean", "0/norm/var")),
    "divided anew": (lambda: with_local(model("head"), ("0/norm/var",)), ("0/0/norm/mean", "1/0/norm/var")),
}


@pytest.mark.parametrize("name", VIEWS)
def test_views_know_where_state_lies_and_compute_the_next_one(name):
    make, paths = VIEWS[name]
    view = make()
    assert set(view.state) == set(paths)
    key = jax.random.key(0)
    global_params = view.init_global(key)
    params = global_params, view.init_local(global_params, key)
    new = leaves_of(view.next_state(*params, BATCH, key))
    assert set(new) == set(leaves_of(params))
    hidden = np.asarray(BATCH["x"]) @ np.cos(np.arange(12)).reshape(4, 3)
    for path in paths:  # a variance of 0 and the mean, weighed by 1 - momentum
        expected = 0.2 * hidden[0] if path.endswith("mean") else np.full(3, 0.8)
        np.testing.assert_allclose(new[path], expected, rtol=1e-5)


def test_objectives_have_the_state_of_what_is_fitted():
    mixed = model("head", "norm/var")
    global_params = mixed.init_global(jax.random.key(0))
    assert on_local(mixed, global_params).state == ("norm/var",)
    assert on_global(mixed, ()).state == ("norm/mean",)
    assert on_both(mixed).state == mixed.state
    assert on_local(model("head"), global_params).state == ()


def test_the_server_of_pooled_clients_has_no_state():
    with pytest.raises(ValueError, match="a pooled model must have no state"):
        pooled(model("head"), 3)
