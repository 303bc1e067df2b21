"""Algorithms whose clients keep something, and their kin, against their papers' pseudocode in NumPy."""

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.small import Given, rating_model, sgd, solver
from tests.small import federation as ratings

from fedrecon.algorithms._building_blocks import subkeys
from fedrecon.algorithms._ditto import ditto
from fedrecon.algorithms._fedalt import fedalt
from fedrecon.algorithms._fedavg import fedavg
from fedrecon.algorithms._fedper import fedper
from fedrecon.algorithms._fedrecon import fedrecon
from fedrecon.algorithms._fedrep import fedrep
from fedrecon.algorithms._fedsim import fedsim
from fedrecon.algorithms._lg_fedavg import lg_fedavg
from fedrecon.algorithms._pfedme import pfedme
from fedrecon.core._mean import Mean
from fedrecon.core._model import Model, fully_global
from fedrecon.core._splits import NoSplit
from fedrecon.data._clients import Clients
from fedrecon.evaluation._evaluate import evaluate
from fedrecon.simulation._block_plan import Plan, Slot
from fedrecon.simulation._simulation import Simulation

FAST, SLOW, LAMBDA, BETA = 0.1, 0.05, 3.0, 0.7
COHORTS = [[0, 1, 2], [1, 3], [2, 1, 4], [0, 3]]
UNSEEN = 5
PLAN = Plan((Slot(1, 4, 6),))


def homes() -> dict[int, Any]:
    rng = np.random.default_rng(1)
    found = {}
    for home, n in enumerate((5, 6, 3, 4, 0, 5)):
        x = rng.normal(size=(n, 2))
        found[home] = {"x": x, "y": x @ [1.0, -2.0] + home + 0.1 * rng.normal(size=n)}
    return found


HOMES = homes()
CLIENTS = Clients.from_arrays({k: {f: np.float32(x) for f, x in v.items()} for k, v in HOMES.items()})


def linear() -> Model:
    def error(g: Any, level: Any, batch: Any) -> Any:
        return batch["x"] @ g["slope"] + level - batch["y"]

    def loss(g: Any, level: Any, batch: Any, key: Any) -> Mean:
        return Mean.of(jnp.square(error(g, level, batch)))

    return Model(
        init_global=lambda key: {"slope": jnp.array([0.3, 0.2])},
        init_local=lambda g, key: jnp.array(0.5),
        loss=loss,
        metrics=lambda g, level, batch: {"mse": loss(g, level, batch, None)},
    )


def batches(client: int) -> list[tuple[Any, Any]]:
    x, y = HOMES[client]["x"], HOMES[client]["y"]
    return [(x[i : i + 2], y[i : i + 2]) for i in range(0, len(y), 2)]


def slopes(p: Any, batch: Any) -> Any:
    """Gradient of the batch's mean loss by (slope, level), in one vector."""
    x, y = batch
    x = np.column_stack([x, np.ones(len(y))])
    return 2 * x.T @ (x @ p - y) / len(y)


GLOBAL, LOCAL = np.array([1, 1, 0]), np.array([0, 0, 1])


def alternating(w: Any, client_states: Any, client: int) -> Any:
    """Pillutla et al., FedAlt."""
    p = w * GLOBAL + client_states * LOCAL
    for batch in batches(client):
        p = p - FAST * slopes(p, batch) * LOCAL
    v = p
    for batch in batches(client):
        p = p - SLOW * slopes(p, batch) * GLOBAL
    return (p - w) * GLOBAL, v


def simultaneous(w: Any, client_states: Any, client: int, local_rate: float = 1.0) -> Any:
    """Pillutla et al., FedSim."""
    p = w * GLOBAL + client_states * LOCAL
    for batch in batches(client):
        p = p - SLOW * slopes(p, batch) * (GLOBAL + local_rate * LOCAL)
    return (p - w) * GLOBAL, p


def near(w: Any, client_states: Any, client: int) -> Any:
    """Li et al. 2021, Algorithm 1."""
    p, v = w, client_states
    for batch in batches(client):
        p = p - SLOW * slopes(p, batch)
        v = v - FAST * (slopes(v, batch) + LAMBDA * (v - w))
    return p - w, v


def envelope(w: Any, client_states: Any, client: int) -> Any:
    """T. Dinh et al., Algorithm 1, with four inner steps."""
    p = w
    for batch in batches(client):
        found = p
        for _ in range(4):
            found = found - FAST * (slopes(found, batch) + LAMBDA * (found - p))
        p = p - SLOW * LAMBDA * (p - found)
    return p - w, None


def by_hand(client_update: Any, start_from_global: bool, weigh: bool = True) -> Any:
    """Rounds in double precision: the global parameters, and what clients keep."""
    w: Any = np.array([0.3, 0.2, 0.5])
    client_states: dict[int, Any] = {}
    for cohort in COHORTS:
        deltas, weights = [], []
        for client in cohort:
            first = w if start_from_global else np.array([0.3, 0.2, 0.5])
            delta, client_states[client] = client_update(w, client_states.get(client, first), client)
            n = len(HOMES[client]["y"])
            deltas.append(delta)
            weights.append(n if weigh else n > 0)
        w = w + BETA * np.average(deltas, axis=0, weights=weights)
    return w, client_states


def rounds(algorithm: Any, clients: Any = CLIENTS, cohorts: Any = COHORTS) -> tuple[Simulation, list[Any]]:
    simulation = Simulation(algorithm, clients, Given(cohorts), seed=2, plan=PLAN)
    return simulation, list(simulation.rounds(simulation.init(), len(cohorts)))


def flat(params: Any) -> Any:
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(params)])


SERVER, QUICK, STEPS = sgd(BETA), solver(FAST), solver(SLOW)


@pytest.mark.parametrize(
    ("algorithm", "client_update", "kept_part"),
    [
        (fedalt(linear(), QUICK, STEPS, SERVER), alternating, LOCAL),
        (fedrep(linear(), QUICK, STEPS, SERVER, head=("1",)), alternating, LOCAL),
        (fedsim(linear(), STEPS, QUICK, SERVER), simultaneous, LOCAL),
        (
            fedper(linear(), STEPS, QUICK, SERVER, local_rate=1.5),
            functools.partial(simultaneous, local_rate=1.5),
            LOCAL,
        ),
        (ditto(linear(), STEPS, QUICK, SERVER, LAMBDA), near, GLOBAL + LOCAL),
    ],
    ids=lambda x: getattr(x, "name", ""),
)
def test_clients_keep_what_the_pseudocode_keeps(algorithm, client_update, kept_part):
    simulation, done = rounds(algorithm)
    w, client_states = by_hand(client_update, algorithm.name == "ditto")
    part = GLOBAL + LOCAL if algorithm.name == "ditto" else GLOBAL
    np.testing.assert_allclose(flat(done[-1].state.global_params), w[part > 0], rtol=2e-5)
    stored = simulation.client_states.get(CLIENTS.keys, len(CLIENTS))
    assert stored.seen.tolist() == [True] * 5 + [False]
    for client, wanted in client_states.items():
        found = flat(jax.tree.map(lambda x, i=client: x[i], stored.value))
        np.testing.assert_allclose(found, wanted[kept_part > 0], rtol=2e-5, err_msg=str(client))


def test_with_a_local_body_the_level_is_shared():
    simulation, done = rounds(lg_fedavg(linear(), STEPS, QUICK, SERVER, body=("0/slope",)))
    global_params = done[-1].state.global_params
    assert global_params[0] == {"slope": None}
    w: Any = np.array([0.3, 0.2, 0.5])
    client_states: dict[int, Any] = {}
    for cohort in COHORTS:
        found = {}
        for client in cohort:
            found[client] = w * LOCAL + client_states.get(client, w) * GLOBAL
            for batch in batches(client):
                found[client] = found[client] - SLOW * slopes(found[client], batch)
        client_states |= found
        weights = [len(HOMES[client]["y"]) for client in cohort]
        w = w + LOCAL * BETA * np.average([p - w for p in found.values()], axis=0, weights=weights)
    np.testing.assert_allclose(global_params[1], w[2], rtol=2e-5)
    stored = simulation.client_states.get(CLIENTS.keys[:5], 5).value
    np.testing.assert_allclose(stored[0]["slope"], [client_states[c][:2] for c in range(5)], rtol=2e-5)


def test_moreau_envelopes():
    solve = solver(FAST, None, epochs=4)
    simulation, done = rounds(pfedme(linear(), solve, STEPS, SERVER, LAMBDA))
    w, _ = by_hand(envelope, True, weigh=False)
    np.testing.assert_allclose(flat(done[-1].state.global_params), w, rtol=2e-5)
    assert simulation.client_states is None
    # Its loss is the envelope: between the personal model's loss and the global one's.
    metrics = done[0].metrics()
    assert 0 < metrics["loss"].value() < metrics["mse"].value()


def scores(algorithm: Any, state: Any, client_states: Any = None) -> Any:
    """Each client's mean squared error on its own examples, of which all are support."""
    return evaluate(
        algorithm, state, CLIENTS, split=NoSplit(), plan=PLAN, client_states=client_states
    ).values()["mse"]


def error(p: Any, client: int) -> Any:
    x, y = HOMES[client]["x"], HOMES[client]["y"]
    return np.mean((x @ p[:2] + p[2] - y) ** 2)


@pytest.mark.parametrize("name", ["fedalt", "fedsim", "ditto", "pfedme"])
def test_who_is_served(name):
    """Seen clients go on from what they kept, an unseen one from the start; none without the store."""
    solve = solver(FAST, None, epochs=4)
    algorithm = {
        "fedalt": lambda: fedalt(linear(), QUICK, STEPS, SERVER),
        "fedsim": lambda: fedsim(linear(), STEPS, QUICK, SERVER),
        "ditto": lambda: ditto(linear(), STEPS, QUICK, SERVER, LAMBDA),
        "pfedme": lambda: pfedme(linear(), solve, STEPS, SERVER, LAMBDA),
    }[name]()
    simulation, done = rounds(algorithm)
    state = done[-1].state
    pseudocode = {"fedalt": alternating, "fedsim": simultaneous, "ditto": near, "pfedme": envelope}[name]
    w, client_states = by_hand(pseudocode, name == "ditto", weigh=name != "pfedme")

    def served(client: int, start: Any) -> Any:
        p = w * GLOBAL + start * LOCAL
        if name == "ditto":
            return error(near(w, start, client)[1], client)
        if name == "pfedme":
            x, y = HOMES[client]["x"], HOMES[client]["y"]
            p = w
            for _ in range(4):
                p = p - FAST * (slopes(p, (x, y)) + LAMBDA * (p - w))
            return error(p, client)
        for batch in batches(client):
            p = p - FAST * slopes(p, batch) * LOCAL
        return error(p, client)

    first = w if name == "ditto" else np.array([0.3, 0.2, 0.5])
    fresh = [served(c, first) for c in (0, 1, 2, 3, UNSEEN)]
    held = (
        fresh if name == "pfedme" else [served(c, client_states.get(c, first)) for c in (0, 1, 2, 3, UNSEEN)]
    )
    some = [0, 1, 2, 3, UNSEEN]
    np.testing.assert_allclose(scores(algorithm, state)[some], fresh, rtol=5e-5)
    np.testing.assert_allclose(scores(algorithm, state, simulation.client_states)[some], held, rtol=5e-5)
    unseen = evaluate(
        algorithm,
        state,
        CLIENTS.take([UNSEEN]),
        split=NoSplit(),
        plan=PLAN,
        client_states=simulation.client_states,
    )
    np.testing.assert_allclose(unseen.values()["mse"], fresh[-1:], rtol=5e-5)


def test_without_its_term_ditto_is_federated_averaging_and_everybody_alone():
    simulation, done = rounds(ditto(linear(), STEPS, QUICK, SERVER, 0.0))
    _, average = rounds(fedavg(linear(), STEPS, SERVER))
    jax.tree.map(np.testing.assert_array_equal, done[-1].state, average[-1].state)
    stored = simulation.client_states.get(CLIENTS.keys[:1], 1).value
    p = np.array([0.3, 0.2, 0.5])  # client 0 is in the first round and in the last one
    for batch in batches(0) * 2:
        p = p - FAST * slopes(p, batch)
    np.testing.assert_allclose(flat(stored), p, rtol=2e-5)


RATINGS = ratings(lengths=(0, 1, 5, 6))
ALL = [np.arange(4)] * 2


def test_started_fresh_on_unsplit_data_fedalt_is_fedrecon():
    model = rating_model(scale=True)
    client_states = fedalt(model, solver(), solver(0.05), SERVER)

    def client_update(broadcast: Any, held: Any, examples: Any, key: Any) -> Any:
        fresh = client_states.init_client_state(broadcast.global_params, *subkeys(key, 1, first=2))
        return client_states.client_update(broadcast, fresh, examples, key)

    _, found = rounds(replace(client_states, client_update=client_update), RATINGS, ALL)
    alone = fedrecon(model, solver(), solver(0.05), SERVER, NoSplit())
    _, wanted = rounds(alone, RATINGS, ALL)
    jax.tree.map(np.testing.assert_array_equal, found[-1].state, wanted[-1].state)
    # Going on from what was kept is another thing from the second round on.
    _, going_on = rounds(client_states, RATINGS, ALL)
    jax.tree.map(np.testing.assert_array_equal, going_on[0].state, wanted[0].state)
    change = jax.tree.map(
        lambda a, b: np.abs(a - b).max(), going_on[1].state.global_params, wanted[1].state.global_params
    )
    assert max(jax.tree.leaves(change)) > 1e-3


def test_without_local_parameters_fedsim_is_federated_averaging():
    update = solver(0.05, epochs=2, shuffle=True)
    simulation, found = rounds(fedsim(fully_global(rating_model()), update, solver(), SERVER), RATINGS, ALL)
    _, wanted = rounds(fedavg(rating_model(), update, SERVER), RATINGS, ALL)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found[-1].state, wanted[-1].state)
    assert simulation.client_states is None


def test_rates_that_cannot_be():
    for rate, update in ((0.0, STEPS), (-1.0, STEPS), (0.5, lambda *args: args)):
        with pytest.raises(ValueError, match=f"local_rate must be positive, .* got {rate}"):
            fedsim(linear(), update, QUICK, SERVER, local_rate=rate)
    for make in (
        lambda: ditto(linear(), STEPS, QUICK, SERVER, -0.1),
        lambda: pfedme(linear(), QUICK, STEPS, SERVER, -0.1),
    ):
        with pytest.raises(ValueError, match=r"strength must be at least 0, got -0\.1"):
            make()


@pytest.mark.parametrize("name", ["fedalt", "ditto"])
def test_a_client_that_diverges_keeps_what_it_had_and_is_counted(name):
    wild = solver(FAST, schedule=lambda round: jnp.where(round < 2, 1.0, 1e30))
    made = {"fedalt": (wild, STEPS), "ditto": (STEPS, wild)}[name]
    algorithm = {"fedalt": fedalt, "ditto": ditto}[name](linear(), *made, SERVER)
    simulation, done = rounds(algorithm, cohorts=[[0, 1, 2], [1, 3], [3, 4]])
    assert [round.metrics()["dropped"].total for round in done] == [0, 0, 1]
    after = simulation.client_states.get(CLIENTS.keys, 6)
    assert after.seen.tolist() == [True] * 5 + [False]
    simulation.client_states.rewind(2)
    before = simulation.client_states.get(CLIENTS.keys, 6)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[:4], b[:4]), before.value, after.value)
    # The client without examples has no weight: nothing is left of the round.
    jax.tree.map(np.testing.assert_array_equal, done[2].state.global_params, done[1].state.global_params)
