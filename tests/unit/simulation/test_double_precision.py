"""With JAX in 64 bits, models in 32 bits train as they do without, and models in 64 bits train in 64."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon import (
    AlternateBatches,
    Clients,
    Mean,
    Solver,
    Table,
    Uniform,
    fedrecon,
    is_local,
    optimizer,
    partition,
    train,
)
from fedrecon.simulation._simulation import Simulation
from fedrecon.solvers._optimizers import schedule

ITEMS, FACTORS = 12, 3


def model(kind, tables):
    """Matrix factorisation, all of it in one precision."""

    def init(key):
        a, b = jax.random.split(key)
        return {
            "item": 0.3 * jax.random.normal(a, (ITEMS, FACTORS), kind),
            "user": 0.3 * jax.random.normal(b, (FACTORS,), kind),
        }

    def predict(p, batch):
        return p["item"][batch["item"]] @ p["user"]

    def loss(p, batch, key=None):
        return Mean.of((predict(p, batch) - batch["rating"].astype(kind)) ** 2)

    return partition(
        init,
        loss,
        lambda p, batch: {"mse": loss(p, batch)},
        local=is_local("user"),
        tables=(Table("item", ("item",)),) if tables else (),
    )


def algorithm(kind, server, tables=True):
    fit = Solver(optimizer("sgd", learning_rate=0.1), 3, epochs=2)
    update = Solver(optimizer("sgd", learning_rate=0.1), 3)
    return fedrecon(model(kind, tables), fit, update, server, AlternateBatches(3))


def clients(first, count):
    rng = np.random.default_rng(first)
    return Clients.from_arrays(
        {
            first + i: {
                "item": rng.permutation(ITEMS)[:n],
                "rating": rng.integers(1, 6, n).astype(np.float32),
            }
            for i, n in enumerate(rng.integers(6, 11, count))
        }
    )


def metrics_after_20_rounds(server):
    result = train(
        algorithm(jnp.float32, server),
        clients(0, 20),
        20,
        clients_per_round=5,
        evaluate=clients(100, 8),
        evaluate_every=5,
        evaluation_split=AlternateBatches(3),
    )
    assert result.global_params["item"].dtype == jnp.float32
    return {tuple(row[:5]): row.value for row in result.records if row.metric != "seconds"}


SERVERS = {
    "momentum": optimizer("sgd", learning_rate=0.5, momentum=0.5),
    # Their bias corrections, 1 - 0.999**count, have other digits in 32 than in 64 bits.
    "adam": optimizer("adam", learning_rate=0.05),
    "yogi_zero": optimizer(
        "yogi_zero",
        learning_rate=schedule("exponential_decay", init_value=0.1, transition_steps=7, decay_rate=0.9),
    ),
}


@pytest.mark.parametrize("server", SERVERS)
def test_a_model_in_32_bits_trains_as_it_does_without_64(server):
    wanted = metrics_after_20_rounds(SERVERS[server])
    with jax.enable_x64(True):
        measured = metrics_after_20_rounds(SERVERS[server])
    assert measured.keys() == wanted.keys()
    assert measured == pytest.approx(wanted, rel=1e-5, abs=1e-5)


def one_round_by_hand(items, users, data):
    """A round of Federated Reconstruction in NumPy, in double precision."""
    total, weight = np.zeros_like(items), 0
    for name, user in users.items():
        rows, ratings = data[name]["item"], data[name]["rating"].astype(float)
        batches = [(rows[i : i + 3], ratings[i : i + 3]) for i in range(0, len(rows), 3)]
        for _ in range(2):
            for r, y in batches[::2]:
                error = items[r] @ user - y
                user = user - 0.1 * 2 * error @ items[r] / len(r)
        new, count = items.copy(), 0
        for r, y in batches[1::2]:
            error = new[r] @ user - y
            step = np.zeros_like(new)
            np.add.at(step, r, 2 * error[:, None] * user / len(r))
            new, count = new - 0.1 * step, count + len(r)
        total, weight = total + count * (new - items), weight + count
    return items + 0.7 * total / weight


@pytest.mark.parametrize("tables", [True, False])
def test_a_model_in_64_bits_trains_in_64(tables):
    train_clients = clients(0, 6)
    with jax.enable_x64(True):
        made = algorithm(jnp.float64, optimizer("sgd", learning_rate=0.7), tables)
        # All clients start alike, so that the transcription needs no draws.
        start = {"user": jnp.linspace(0.1, 0.5, FACTORS, dtype=jnp.float64), "item": None}
        made = fedrecon(
            replace(made.model, init_local=lambda global_params, key: start),
            made.hyperparameters["reconstruct"],
            made.hyperparameters["update"],
            optimizer("sgd", learning_rate=0.7),
            AlternateBatches(3),
        )
        simulation = Simulation(made, train_clients, Uniform(6))
        state = simulation.init()
        before = np.asarray(state.global_params["item"])
        after = np.asarray(next(iter(simulation.rounds(state, 1))).state.global_params["item"])
    assert before.dtype == after.dtype == np.float64
    user = np.linspace(0.1, 0.5, FACTORS)
    data = {name: train_clients[name] for name in train_clients.ids.tolist()}
    wanted = one_round_by_hand(before, dict.fromkeys(data, user), data)
    np.testing.assert_allclose(after, wanted, rtol=1e-10, atol=1e-10)
    assert np.abs(after - before).max() > 1e-3
