"""Modules of Flax NNX as models: statistics, random streams, against the same network in plain JAX."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.batch_norm import EPSILON, FEATURES, HIDDEN, MOMENTUM, clients, measured, model, start

import fedrecon as fr
from fedrecon.core import Examples, leaves_of

nnx: Any = pytest.importorskip("flax.nnx", reason="Flax is not installed")


class Net(nnx.Module):
    """The network of `tests.batch_norm`."""

    def __init__(self, rngs: Any, rate: float = 0.0):
        self.body = nnx.Linear(FEATURES, HIDDEN, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(
            HIDDEN, momentum=MOMENTUM, epsilon=EPSILON, use_bias=False, use_scale=False, rngs=rngs
        )
        self.drop = nnx.Dropout(rate, rngs=rngs)
        self.head = nnx.Linear(HIDDEN, 1, use_bias=False, rngs=rngs)

    def __call__(self, x: Any, mask: Any) -> Any:
        return self.head(self.drop(self.norm(self.body(x), mask=mask[:, None])))[..., 0]


def loss(net: Any, batch: Any) -> fr.Mean:
    return fr.Mean.of(jnp.square(net(batch["x"], batch["example_mask"]) - batch["y"]))


def metrics(net: Any, batch: Any) -> Any:
    return {"mse": loss(net, batch)}


def net_at_start() -> Any:
    net = Net(nnx.Rngs(0))
    net.body.kernel.set_value(jnp.asarray(start()["w"], jnp.float32))
    net.head.kernel.set_value(jnp.asarray(start()["head"], jnp.float32)[:, None])
    return net


def algorithm(made: Any) -> Any:
    solver = fr.Solver(fr.optimizer("sgd", learning_rate=0.1), 3, epochs=2)
    return fr.fedrecon(made, solver, solver, fr.optimizer("adam", learning_rate=0.1), fr.AlternateBatches(3))


@pytest.mark.parametrize("local", [("head",), ("head", "norm")])
def test_a_module_computes_what_the_same_network_does_in_plain_jax(local):
    chosen = fr.is_local(*local) if len(local) == 1 else (fr.is_local("head"), nnx.BatchStat)
    made = fr.models.from_nnx(net_at_start(), loss=loss, metrics=metrics, local=chosen)
    assert set(made.state) == set(model(*local).state)
    results, expected = measured(made), measured(model(*local))
    assert results.keys() == expected.keys()
    for name, x in expected.items():
        np.testing.assert_allclose(results[name], x, rtol=1e-4, atol=1e-5, err_msg=name)


def test_a_round_moves_parameters_and_statistics():
    made = fr.models.from_nnx(lambda rngs: Net(rngs, 0.2), loss=loss, local=fr.is_local("head"))
    simulation = fr.Simulation(algorithm(made), clients(), fr.Everyone())
    first = simulation.init()
    (round,) = simulation.rounds(first, 1)
    before, after = leaves_of(first.global_params), leaves_of(round.state.global_params)
    for name, x in before.items():
        assert np.any(np.asarray(after[name]) != np.asarray(x)), name
        assert np.all(np.isfinite(after[name])), name


def test_the_types_of_variables_say_what_is_state():
    made = fr.models.from_nnx(
        lambda rngs: Net(rngs, 0.5), loss=loss, local=(nnx.BatchStat, lambda p: "head" in p)
    )
    assert set(made.state) == {"1/norm/mean", "1/norm/var"}
    params = made.init_global(jax.random.key(3))
    assert set(leaves_of(params)) == {"body/kernel"}
    other = made.init_global(jax.random.key(4))
    assert np.any(params["body"]["kernel"] != other["body"]["kernel"])
    assert made.init_local(params, jax.random.key(0))["head"]["kernel"].shape == (HIDDEN, 1)
    assert fr.models.from_nnx(net_at_start(), loss=loss, local=fr.is_local("head")).state == (
        "0/norm/mean",
        "0/norm/var",
    )


def test_dropout_follows_from_the_key_and_is_off_in_evaluation():
    made = fr.models.from_nnx(
        lambda rngs: Net(rngs, 0.5),
        loss=loss,
        metrics=metrics,
        local=fr.is_local("head"),
        predict=lambda net, features: net(features["x"], jnp.ones(2, bool)),
    )
    key = jax.random.key(0)
    params = made.init_global(key), made.init_local(made.init_global(key), key)
    batch = {"x": jnp.ones((2, 4)) * jnp.array([[1.0], [2.0]]), "y": jnp.zeros(2)}
    batch["example_mask"] = jnp.ones(2, bool)
    draws = {tuple(np.asarray(made.loss(*params, batch, k).total)) for k in jax.random.split(key, 20)}
    assert len(draws) > 3
    one = made.loss(*params, batch, key).total
    np.testing.assert_array_equal(one, made.loss(*params, batch, key).total)
    np.testing.assert_array_equal(one, made.loss(*params, batch, jax.random.key_data(key)).total)
    errors = made.metrics(*params, batch)["mse"].total
    np.testing.assert_allclose(errors, np.square(made.predict(*params, batch)), rtol=1e-6)


def test_a_variance_that_noise_made_negative_is_no_nan():
    made = fr.models.from_nnx(net_at_start(), loss=loss, metrics=metrics, local=fr.is_local("head"))
    params = made.init_global(jax.random.key(0))
    params["norm"]["var"] = jnp.full(HIDDEN, -1.0)
    batch = {"x": jnp.ones((2, 4)), "y": jnp.zeros(2), "example_mask": jnp.ones(2, bool)}
    assert np.all(
        np.isfinite(made.metrics(params, made.init_local(params, jax.random.key(0)), batch)["mse"].total)
    )


def test_padding_that_a_module_does_not_leave_out_is_refused():
    class Careless(Net):
        def __call__(self, x: Any, mask: Any) -> Any:
            return super().__call__(x, jnp.ones_like(mask))

    made = fr.models.from_nnx(Careless, loss=loss, local=fr.is_local("head"))
    with pytest.raises(ValueError, match=r"must not depend on rows of padding.*example_mask"):
        fr.Simulation(algorithm(made), clients(), fr.Everyone()).init()


class Counting(Net):
    def __init__(self, rngs: Any):
        super().__init__(rngs)
        self.cache = nnx.Cache(jnp.zeros(2))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (
            {"module": 3},
            TypeError,
            "an nnx.Module or a function from an nnx.Rngs to one, got 3",
        ),
        ({"module": lambda rngs: 3}, TypeError, "module must return an nnx.Module, got int"),
        ({"module": Counting}, ValueError, "nnx.RngState, got Cache at 'cache'"),
        ({"local": "head"}, TypeError, "local must be is_local.*got 'head'"),
        ({"local": fr.is_local("hed")}, ValueError, "local names the path 'hed'.*did you mean 'head/kernel'"),
    ],
)
def test_what_makes_no_model_is_refused(given, error, message):
    with pytest.raises(error, match=message):
        fr.models.from_nnx(**{"module": Net, "loss": loss, "local": fr.is_local("head")} | given)


def test_padding_drops_no_client_where_somebody_differentiates_through_steps():
    solver = fr.Solver(fr.optimizer("sgd", learning_rate=0.1), 3)
    whole = fr.Solver(fr.optimizer("sgd", learning_rate=0.1), None)
    maml = fr.algorithms.maml(
        fr.models.from_nnx(Net, loss=loss, metrics=metrics, local=fr.is_local("head")),
        *(solver, whole, fr.optimizer("sgd", learning_rate=1.0), fr.AlternateBatches(2)),
    )
    start = fr.algorithms.Broadcast(maml.init(jax.random.key(0)).global_params, jnp.int32(0))
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4, FEATURES)).astype("f"), rng.normal(size=4).astype("f")

    def sent(padding: int) -> Any:
        rows = {"x": np.pad(x, ((0, padding), (0, 0))), "y": np.pad(y, (0, padding))}
        examples = Examples(rows, jnp.arange(4 + padding) < 4)
        return maml.client_update(start, (), examples, jax.random.key(1))[0]

    plain, padded = sent(0), sent(8)
    assert float(padded.metrics["dropped"].total) == 0
    for one, other in zip(jax.tree.leaves(plain.delta), jax.tree.leaves(padded.delta), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_frozen_statistics_stay_as_they_start():
    frozen = fr.models.from_nnx(
        Net, loss=loss, metrics=metrics, local=fr.is_local("head"), frozen=("norm", "body")
    )
    assert frozen.state == ()
    fedavg = fr.fedavg(
        fr.models.from_nnx(Net, loss=loss, metrics=metrics, local=fr.is_local("body"), frozen=("norm",)),
        *(fr.Solver(fr.optimizer("sgd", learning_rate=0.1), 3), fr.optimizer("sgd", learning_rate=1.0)),
    )
    simulation = fr.Simulation(fedavg, clients(), fr.Everyone())
    (round,) = simulation.rounds(simulation.init(), 1)
    leaves = {path: x for path, x in leaves_of(round.state.global_params).items() if "norm" in path}
    assert {path.rpartition("/")[2]: set(np.ravel(x).tolist()) for path, x in leaves.items()} == {
        "mean": {0.0},
        "var": {1.0},
    }
