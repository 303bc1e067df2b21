"""Sums of gradient steps as gradients of sums: the same numbers, and nothing of it in what a client sends."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.small import sgd, solver

from fedrecon import Clients, Newton, Simulation, Uniform, fedrecon
from fedrecon._kernels import summed_gradients
from fedrecon.algorithms._base import Broadcast, Update
from fedrecon.algorithms._building_blocks import solve_delta
from fedrecon.core._examples import Examples
from fedrecon.core._mean import Mean
from fedrecon.core._model import on_global
from fedrecon.core._splits import AlternateBatches, NoSplit
from fedrecon.models import implicit_factorization
from fedrecon.simulation._block_plan import Plan, Slot

ITEMS, FACTORS, CLIENTS = 30, 4, 6


def federation(bad=None):
    """Clients with items of their own; the weights of one are not finite."""
    rng = np.random.default_rng(0)
    items = [rng.permutation(ITEMS)[: 3 + i] for i in range(CLIENTS)]
    weights = [np.ones(len(x), np.float32) for x in items]
    if bad is not None:
        weights[bad][0] = np.inf
    fields = [{"item": x.astype(np.int32), "weight": w} for x, w in zip(items, weights, strict=True)]
    return Clients.from_arrays(dict(enumerate(fields)))


def recipe(update, split=None):
    return fedrecon(implicit_factorization(ITEMS, FACTORS), Newton(), update, sgd(1.0), split or NoSplit())


STEP = {"batch_size": None, "reduction": "sum"}


def rounds(algorithm, clients, count=2, width=3):
    simulation = Simulation(
        algorithm, clients, Uniform(CLIENTS), plan=Plan((Slot(2, width, 3 + CLIENTS),)), seed=1
    )
    *_, last = simulation.rounds(simulation.init(), count)
    return last


def without_notes(monkeypatch):
    monkeypatch.setattr(summed_gradients, "note", lambda delta, step: None)


@pytest.mark.parametrize("split", [NoSplit(), AlternateBatches(1)])
@pytest.mark.parametrize("more", [{}, {"schedule": lambda done: 1 / (1 + done)}])
def test_the_sum_is_that_of_the_deltas(monkeypatch, split, more):
    algorithm = lambda: recipe(solver(0.05, **STEP, **more), split)  # noqa: E731
    at_once = rounds(algorithm(), federation())
    without_notes(monkeypatch)
    one_by_one = rounds(algorithm(), federation())
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6), at_once.state, one_by_one.state
    )
    assert {n: float(m.value()) for n, m in at_once.metrics().items()} == pytest.approx(
        {n: float(m.value()) for n, m in one_by_one.metrics().items()}, rel=1e-5
    )


def test_a_client_whose_delta_is_not_finite_is_dropped_alone(monkeypatch):
    clients = federation(bad=2)
    at_once = rounds(recipe(solver(0.05, **STEP)), clients)
    assert float(at_once.metrics()["dropped"].value()) == pytest.approx(1 / CLIENTS)
    assert np.isfinite(at_once.state.global_params["item"]["factors"]).all()
    without_notes(monkeypatch)
    one_by_one = rounds(recipe(solver(0.05, **STEP)), clients)
    np.testing.assert_allclose(
        at_once.state.global_params["item"]["factors"],
        one_by_one.state.global_params["item"]["factors"],
        rtol=2e-5,
        atol=1e-6,
    )


def test_what_a_client_sends_is_its_delta_and_no_factor_of_it():
    """A user's vector is a factor of the delta: it stays, and the bytes that are counted are the delta's."""
    algorithm, key = recipe(solver(0.05, **STEP)), jax.random.key(0)
    state = algorithm.init(key)
    examples = Examples({"item": jnp.array([1, 5, 7])}, jnp.ones(3, bool))
    update, client_state = algorithm.client_update(
        Broadcast(state.global_params, state.round), (), examples, key
    )
    delta = update.delta.total["item"]["factors"]
    assert delta.shape == (ITEMS, FACTORS)
    assert np.linalg.matrix_rank(delta) > 1  # no outer product alone
    shapes = [x.shape for x in jax.tree.leaves(update)]
    assert sorted(shapes) == [(), *[()] * (len(shapes) - 2), (ITEMS, FACTORS)]
    assert (update.rows, update.statistics, client_state) == ({}, (), ())
    last = rounds(algorithm, federation())
    assert last.bytes_up == last.dense_bytes_up == CLIENTS * ITEMS * FACTORS * 4


def noted(update, change=lambda delta: delta):
    """Whether the sum of what a client sends would be taken as one gradient."""
    algorithm, key = recipe(update), jax.random.key(0)
    state = algorithm.init(key)
    examples = Examples({"item": jnp.array([1, 5, 7])}, jnp.ones(3, bool))
    with summed_gradients.collecting():
        sent, _ = algorithm.client_update(Broadcast(state.global_params, state.round), (), examples, key)
        step = summed_gradients.step_of(jax.tree.map(change, sent.delta.total))
    return step is not None and step.starts_at(state.global_params)


def test_a_single_plain_step_is_noted():
    assert noted(solver(**STEP))
    assert summed_gradients.step_of({"x": jnp.ones(3)}) is None  # nobody collects


@pytest.mark.parametrize(
    "update",
    [
        solver(batch_size=2),
        solver(batch_size=None, epochs=2),
        solver(batch_size=None, sequential=True),
        replace(solver(batch_size=None), optimizer=sgd(momentum=0.9)),
    ],
    ids=["batches", "epochs", "sequential", "momentum"],
)
def test_other_solvers_are_not_noted(update):
    assert not noted(update)


def test_a_delta_that_is_changed_on_its_way_is_not_recognised():
    assert not noted(solver(**STEP), change=lambda delta: 0.5 * delta)


def test_what_is_not_recognised_is_summed_one_by_one():
    """An algorithm that halves what it would send is computed without notes."""
    base = recipe(solver(0.05, **STEP))

    def halved(broadcast, client_state, examples, key):
        update, client_state = base.client_update(broadcast, client_state, examples, key)
        delta = jax.tree.map(lambda x: 0.5 * x, update.delta.total)
        return update._replace(delta=update.delta._replace(total=delta)), client_state

    found = rounds(replace(base, client_update=halved), federation(), count=1)
    wanted = rounds(recipe(solver(0.025, **STEP)), federation(), count=1)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6), found.state, wanted.state
    )


@pytest.mark.parametrize("change", ["weight", "update", "metrics"])
def test_an_update_that_is_not_as_it_was_noted_is_summed_one_by_one(monkeypatch, change):
    """An algorithm that weighs, builds or describes its updates itself gets the sum of their deltas."""
    base = recipe(solver(0.05, **STEP))

    def changed(broadcast, client_state, examples, key):
        if change == "update":
            params = broadcast.global_params
            objective = on_global(base.model, base.model.init_local(params, key))
            delta, rows, metrics = solve_delta(
                solver(0.05, **STEP), objective, params, examples, key, broadcast.round
            )
            return Update(Mean(delta, 1.0), rows, {"loss": metrics["loss"]}), client_state
        update, client_state = base.client_update(broadcast, client_state, examples, key)
        if change == "weight":
            return update._replace(delta=update.delta._replace(weight=jnp.ones(()))), client_state
        return update._replace(metrics={"loss": update.metrics["loss"]}), client_state

    # From one client to the next the numbers of examples differ, and so do sums under other weights.
    algorithm = replace(base, client_update=changed)
    with_notes = rounds(algorithm, federation(), count=1)
    without_notes(monkeypatch)
    wanted = rounds(replace(base, client_update=changed), federation(), count=1)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6), with_notes.state, wanted.state
    )


def test_a_loss_that_closes_over_arrays_of_the_trace_is_not_taken_apart():
    def step(x):
        params = jnp.ones(2)
        apart = summed_gradients.step(lambda p, y: jnp.sum(p * y), params, (x,), lambda g: g, jnp.ones(()))
        closed = summed_gradients.step(lambda p: jnp.sum(p * x), params, (), lambda g: g, jnp.ones(()))
        assert (apart is not None, closed) == (True, None)
        return x

    jax.jit(step)(jnp.ones(2))
