"""Equinox modules with state as models, against the same network in plain JAX."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.batch_norm import EPSILON, FEATURES, HIDDEN, MOMENTUM, measured, model, moments, start

import fedrecon as fr

eqx: Any = pytest.importorskip("equinox", reason="Equinox is not installed")


class MaskedNorm(eqx.Module):
    """Batch normalisation that leaves padding out, which Equinox' own does not."""

    index: Any
    inference: bool

    def __init__(self) -> None:
        self.index = eqx.nn.StateIndex((jnp.zeros(HIDDEN), jnp.ones(HIDDEN)))
        self.inference = False

    def __call__(self, x: Any, state: Any, mask: Any) -> Any:
        mean, var = state.get(self.index)
        if not self.inference:
            kept, (mean, var) = (mean, var), moments(x, mask)
            moved = [MOMENTUM * a + (1 - MOMENTUM) * b for a, b in zip(kept, (mean, var), strict=True)]
            state = state.set(self.index, tuple(moved))
        return (x - mean) / jnp.sqrt(var + EPSILON), state


class Net(eqx.Module):
    body: Any
    norm: Any
    head: Any

    def __init__(self, key: Any):
        self.body = jnp.asarray(start()["w"], jnp.float32)
        self.norm = MaskedNorm()
        self.head = jnp.asarray(start()["head"], jnp.float32)

    def __call__(self, batch: Any, state: Any) -> Any:
        normal, state = self.norm(batch["x"] @ self.body, state, batch["example_mask"])
        return normal @ self.head, state


def loss(net: Any, state: Any, batch: Any, key: Any) -> Any:
    scores, state = net(batch, state)
    return fr.Mean.of(jnp.square(scores - batch["y"])), state


def metrics(net: Any, state: Any, batch: Any) -> Any:
    return {"mse": loss(net, state, batch, None)[0]}


def made(*local: str) -> Any:
    make = eqx.nn.make_with_state(Net)
    return fr.models.from_equinox(make, loss=loss, metrics=metrics, local=fr.is_local(*local))


@pytest.mark.parametrize("state", ["averaged", "local"])
def test_a_module_computes_what_the_same_network_does_in_plain_jax(state):
    local = ["state"] if state == "local" else []
    part = int(bool(local))
    module = made("module/head", *local)
    assert module.state == (f"{part}/state/0", f"{part}/state/1")
    results, expected = measured(module), measured(model("head"))
    names = {"0": "mean", "1": "var"}
    assert {names.get(name, name) for name in results} == expected.keys()
    for name, x in results.items():
        wanted = expected[names.get(name, name)]
        np.testing.assert_allclose(x, wanted, rtol=1e-4, atol=1e-5, err_msg=name)


def test_a_module_without_state_is_a_model_without():
    class Plain(eqx.Module):
        head: Any

        def __init__(self, key: Any):
            self.head = jax.random.normal(key, (FEATURES,))
            self.body = None

        body: Any

    def straight(net: Any, state: Any, batch: Any, key: Any) -> Any:
        return fr.Mean.of(batch["x"] @ net.head), state

    with pytest.raises(ValueError, match="local must leave a leaf to federate"):
        fr.models.from_equinox(eqx.nn.make_with_state(Plain), loss=straight, local=fr.is_local("module/head"))
    plain = fr.models.from_equinox(eqx.nn.make_with_state(Plain), loss=straight, local=lambda path: False)
    assert plain.state == () and plain.next_state is None


def test_what_makes_no_model_is_refused():
    with pytest.raises(TypeError, match=r"make must return a module and its State, .* got Net"):
        fr.models.from_equinox(Net, loss=loss, local=fr.is_local("module/head"))
    flagged = eqx.nn.make_with_state(lambda key: eqx.nn.BatchNorm(3, "batch", mode="ema"))
    with pytest.raises(ValueError, match="'state/0' is of bool"):
        fr.models.from_equinox(flagged, loss=loss, local=lambda path: False)
