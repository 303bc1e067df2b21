"""One tree of parameters, cut into global and local leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon.core._mean import Mean
from fedrecon.core._model import Table
from fedrecon.core._partition import is_local, merge, partition, split

PARAMS = {"body": {"kernel": jnp.ones((2, 2)), "bias": jnp.zeros(2)}, "head": [jnp.ones(2), jnp.zeros(())]}


def init(key):
    return jax.tree.map(lambda x: x + jax.random.uniform(key), PARAMS)


def predict(params, features):
    return (features["x"] @ params["body"]["kernel"] + params["body"]["bias"]) @ params["head"][0] + params[
        "head"
    ][1]


def loss(params, batch, key):
    return Mean.of(jnp.square(predict(params, batch) - batch["y"]))


def make(**changes):
    return partition(**({"init": init, "loss": loss, "local": is_local("head")} | changes))


def test_is_local():
    local = is_local("head", "layers/2")
    names = ("head", "head/0", "header/0", "layers/2/kernel", "layers/20", "layers")
    assert [local(n) for n in names] == [True, True, False, True, False, False]


def test_the_parts_make_the_model():
    model = make(
        metrics=lambda params, batch: {"loss of it": loss(params, batch, None)},
        predict=predict,
        penalty=lambda params: params["head"][1] + 1,
        tables=(Table("body/kernel", ("row",)),),
    )
    g, x = model.init_global(jax.random.key(3)), None
    x = model.init_local(g, jax.random.key(3))
    assert len(jax.tree.leaves(g)) == len(jax.tree.leaves(x)) == 2
    params = merge(g, x)
    assert jax.tree.structure(params) == jax.tree.structure(PARAMS)
    jax.tree.map(np.testing.assert_array_equal, params, init(jax.random.key(3)))
    batch = {"x": jnp.ones((3, 2)), "y": jnp.arange(3.0)}
    np.testing.assert_allclose(model.loss(g, x, batch, None).total, loss(params, batch, None).total)
    np.testing.assert_allclose(
        model.metrics(g, x, batch)["loss of it"].total, loss(params, batch, None).total
    )
    np.testing.assert_allclose(model.predict(g, x, batch), predict(params, batch))
    assert model.penalty(g, x) == params["head"][1] + 1
    assert model.tables[0].leaf == "body/kernel"


def test_what_is_not_given():
    model = make()
    g = model.init_global(jax.random.key(0))
    x = model.init_local(g, jax.random.key(0))
    assert model.metrics(g, x, {}) == {}
    assert model.penalty(g, x) == 0.0
    assert model.predict is None


def test_local_starts_from_its_own_key():
    model = make()
    g = model.init_global(jax.random.key(0))
    a, b = (model.init_local(g, jax.random.key(i))["head"][1] for i in (1, 2))
    assert a != b


def test_nothing_local():
    g, x = split(PARAMS, lambda path: False)
    assert jax.tree.leaves(x) == []
    assert merge(g, x) is not PARAMS
    assert make(local=lambda path: False).init_local(None, jax.random.key(0)) == {
        "body": {"kernel": None, "bias": None},
        "head": [None, None],
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"local": is_local("haed")},
            r"path 'haed', but the model has the leaves \['body/.*did you mean 'head/",
        ),
        ({"local": is_local("head", "body/kernels")}, "path 'body/kernels', .*; did you mean 'body/kernel'"),
        ({"local": is_local("hea")}, "path 'hea'"),
        ({"local": lambda path: True}, "local must leave a leaf to federate, but it selects all of"),
        ({"local": is_local("head", "body")}, "local must leave a leaf to federate"),
        ({"init": lambda key: {"w": jnp.ones(2), "steps": jnp.zeros((), int)}}, "'steps' is of int32"),
        ({"init": lambda key: {"w": jnp.ones(2), "key": key}}, "'key' is of key"),
        (
            {"init": lambda key: {"params": {"w": jnp.ones(2)}, "batch_stats": {"mean": jnp.ones(2)}}},
            "the mutable collection 'batch_stats'",
        ),
        ({"init": lambda key: {"cache": jnp.ones(2)}}, "the mutable collection 'cache'"),
    ],
)
def test_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


@pytest.mark.parametrize(("layer", "kind"), [("norm", "BatchStat"), ("dropout", "RngCount")])
def test_the_state_of_flax_nnx_is_refused_by_its_type_and_name(layer, kind):
    nnx = pytest.importorskip("flax.nnx", reason="Flax is not installed")

    def init(key):
        rngs = nnx.Rngs(key)
        layers = {"norm": nnx.BatchNorm, "dropout": lambda size, rngs: nnx.Dropout(0.5, rngs=rngs)}
        return {
            "dense": nnx.state(nnx.Linear(2, 2, rngs=rngs)),
            layer: nnx.state(layers[layer](2, rngs=rngs)),
        }

    with pytest.raises(ValueError, match=rf"the parameters hold '{layer}/.+' of the type {kind}, state that"):
        partition(init, lambda p, b, key=None: Mean.of(b["x"]), local=is_local("dense/bias"))


def test_the_state_of_equinox_is_refused_by_its_type():
    equinox = pytest.importorskip("equinox", reason="Equinox is not installed")
    _, state = equinox.nn.make_with_state(equinox.nn.BatchNorm)(2, axis_name="batch", mode="batch")

    def init(key):
        return {"weight": jnp.zeros(2), "local": jnp.zeros(2), "state": state}

    with pytest.raises(ValueError, match="of the type State, state that a forward pass changes"):
        partition(init, lambda p, b, key=None: Mean.of(b["x"]), local=is_local("local"))
