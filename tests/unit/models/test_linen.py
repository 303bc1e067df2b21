"""Modules of Flax Linen as models: state by collections, against the same network in plain JAX."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.batch_norm import EPSILON, FEATURES, HIDDEN, MOMENTUM, measured, model, start

import fedrecon as fr

linen: Any = pytest.importorskip("flax.linen", reason="Flax is not installed")


class Net(linen.Module):
    """The network of `tests.batch_norm`, with dropout."""

    rate: float = 0.0

    @linen.compact
    def __call__(self, x: Any, mask: Any, train: bool) -> Any:
        x = linen.Dense(HIDDEN, use_bias=False, name="body")(x)
        norm = linen.BatchNorm(
            not train, momentum=MOMENTUM, epsilon=EPSILON, use_bias=False, use_scale=False, name="norm"
        )
        x = linen.Dropout(self.rate, deterministic=not train)(norm(x, mask=mask[:, None]))
        return linen.Dense(1, use_bias=False, name="head")(x)[..., 0]


def init(net: Any) -> Any:
    return lambda rngs: net.init(rngs, jnp.ones((1, FEATURES)), jnp.ones(1, bool), train=False)


def init_as_plain(rngs: Any) -> Any:
    variables = init(Net())(rngs)
    variables["params"]["body"]["kernel"] = jnp.asarray(start()["w"], jnp.float32)
    variables["params"]["head"]["kernel"] = jnp.asarray(start()["head"], jnp.float32)[:, None]
    return variables


def squared(apply: Any, batch: Any, train: bool) -> fr.Mean:
    return fr.Mean.of(jnp.square(apply(batch["x"], batch["example_mask"], train=train) - batch["y"]))


def linen_model(net: Any = None, make: Any = None, **others: Any) -> Any:
    net = Net() if net is None else net
    given: dict[str, Any] = {
        "loss": lambda apply, batch: squared(apply, batch, train=True),
        "metrics": lambda apply, batch: {"mse": squared(apply, batch, train=False)},
        "local": fr.is_local("params/head"),
    }
    return fr.models.from_linen(net, make or init(net), **(given | others))


@pytest.mark.parametrize("state", ["averaged", "local"])
def test_a_module_computes_what_the_same_network_does_in_plain_jax(state):
    local = ["batch_stats"] if state == "local" else []
    made = linen_model(make=init_as_plain, local=fr.is_local("params/head", *local))
    part = int(bool(local))
    assert made.state == (f"{part}/batch_stats/norm/mean", f"{part}/batch_stats/norm/var")
    results, expected = measured(made), measured(model("head", *(["norm"] if local else [])))
    assert results.keys() == expected.keys()
    for name, x in expected.items():
        np.testing.assert_allclose(results[name], x, rtol=1e-4, atol=1e-5, err_msg=name)


def test_dropout_follows_from_the_key_and_is_off_in_evaluation():
    made = linen_model(Net(0.5), predict=lambda apply, x: apply(x["x"], jnp.ones(2, bool), train=False))
    key = jax.random.key(0)
    params = made.init_global(key), made.init_local(made.init_global(key), key)
    batch = {"x": jnp.ones((2, FEATURES)) * jnp.array([[1.0], [2.0]]), "y": jnp.zeros(2)}
    batch["example_mask"] = jnp.ones(2, bool)
    draws = {tuple(np.asarray(made.loss(*params, batch, k).total)) for k in jax.random.split(key, 20)}
    assert len(draws) > 3
    errors = made.metrics(*params, batch)["mse"].total
    np.testing.assert_allclose(errors, np.square(made.predict(*params, batch)), rtol=1e-6)


def test_what_makes_no_model_is_refused():
    with pytest.raises(ValueError, match=r"init must return the collection 'params', got \['w'\]"):
        linen_model(make=lambda rngs: {"w": jnp.ones(2)})
    with pytest.raises(ValueError, match="local names the path 'params/hed'"):
        linen_model(local=fr.is_local("params/hed"))

    def counting(rngs: Any) -> Any:
        return {**init(Net())(rngs), "cache": {"count": jnp.zeros((), int)}}

    with pytest.raises(ValueError, match="'cache/count' is of int32"):
        linen_model(make=counting)
