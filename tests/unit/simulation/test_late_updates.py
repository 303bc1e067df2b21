"""Updates that are counted in a later round, against a transcription in NumPy and against single clients."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
import pytest
from tests.small import federation, rating_model, sgd, solver

import fedrecon as fr
from fedrecon.algorithms._fedrecon import fedrecon
from fedrecon.core._splits import AlternateBatches, NoSplit
from fedrecon.data._sampling import AbstractSampling
from fedrecon.errors import DataError
from fedrecon.simulation._block_plan import Plan, Slot
from fedrecon.simulation._simulation import Simulation

# The clients of each round, and by how many rounds each is late. Client 1 is late for two rounds in a row,
# round 2 has late answers alone, round 5 has none, and the last answers come after the end.
COHORTS = [[0, 1, 2, 3], [1, 4, 2], [5, 3], [0, 2], [1, 5], [4]]
DELAYS = [[0, 2, 1, 0], [2, 0, 0], [1, 2], [0, 3], [0, 0], [3]]
MOST = 3


@dataclass(frozen=True)
class Written(AbstractSampling):
    """The cohorts above."""

    max_staleness: int = MOST
    staleness_exponent: float = 0.5

    def indices(self, round: int, num_examples: Any, seed: int) -> Any:
        return np.array(COHORTS[round])

    def delays(self, round: int, num_examples: Any, seed: int) -> Any:
        return np.array(DELAYS[round])

    def most(self, num_clients: int) -> int:
        return 4

    def check(self, num_clients: int) -> None:
        pass


def buffered(params: Any, update: Any, exponent: float, server_rate: float = 1.0) -> list[Any]:
    """FedBuff's rounds in NumPy, with a buffer that is emptied in every round.

    Args:
        params: The global parameters at the start, a dictionary of arrays.
        update: Computes `(weighted delta, weight)` of a client from parameters and round.
        exponent: The exponent of the discount.
        server_rate: The learning rate of the server's step.

    Returns:
        The parameters after each round.
    """
    arriving: list[tuple[int, float, Any, float]] = []  # (round that counts it, discount, delta, weight)
    after = []
    for round, (cohort, delays) in enumerate(zip(COHORTS, DELAYS, strict=True)):
        for client, delay in zip(cohort, delays, strict=True):
            arriving.append((round + delay, (1 + delay) ** -exponent, *update(params, client, round)))
        counted = [entry for entry in arriving if entry[0] == round]
        weight = sum(discount * w for _, discount, _, w in counted)
        if weight:
            mean = {
                name: sum(discount * delta[name] for _, discount, delta, _ in counted) / weight
                for name in params
            }
            params = {name: params[name] + server_rate * mean[name] for name in params}
        after.append(params)
    return after


@pytest.mark.parametrize("exponent", [0.0, 0.5, 2.0])
def test_late_updates_are_those_of_a_transcription(exponent):
    rng = np.random.default_rng(0)
    data = [(rng.normal(size=n), rng.normal(size=n)) for n in (3, 1, 4, 2, 5, 2)]
    clients = fr.Clients.from_arrays(
        {i: {"x": x.astype(np.float32), "y": y.astype(np.float32)} for i, (x, y) in enumerate(data)}
    )
    model = fr.partition(
        lambda key: {"w": np.array([0.3], np.float32), "u": np.zeros(1, np.float32)},
        lambda params, batch, key: fr.Mean.of((params["w"] * batch["x"] + params["u"] - batch["y"]) ** 2),
        lambda params, batch: {},
        local=fr.is_local("u"),
    )
    algorithm = fedrecon(model, solver(0.1, None), solver(0.2, None), sgd(0.7), NoSplit())

    def update(params: Any, client: int, round: int) -> Any:
        x, y = data[client]
        w = params["w"][0]
        u = -0.1 * np.mean(2 * (w * x - y))  # one step on the client's bias, from 0
        step = -0.2 * np.mean(2 * (w * x + u - y) * x)
        return {"w": len(x) * np.array([step])}, len(x)

    simulation = Simulation(algorithm, clients, Written(staleness_exponent=exponent))
    rounds = list(simulation.rounds(simulation.init(), len(COHORTS)))
    expected = buffered({"w": np.array([0.3])}, update, exponent, 0.7)
    for round, params in zip(rounds, expected, strict=True):
        np.testing.assert_allclose(round.state.global_params["w"], params["w"], rtol=2e-6)
    at_once = Simulation(algorithm, clients, replace(Written(), max_staleness=0))
    *_, last = at_once.rounds(at_once.init(), len(COHORTS))
    assert abs(float(last.state.global_params["w"][0]) - expected[-1]["w"][0]) > 1e-3


CLIENTS = federation(lengths=(3, 5, 8, 1, 6, 2))
ALGORITHM = fedrecon(rating_model(), solver(), solver(), sgd(1.0), AlternateBatches(2))


@pytest.fixture(scope="module")
def simulation():
    return Simulation(ALGORITHM, CLIENTS, Written(), seed=1, plan=Plan((Slot(1, 4, 8),)))


@pytest.fixture(scope="module")
def rounds(simulation):
    return list(simulation.rounds(simulation.init(), len(COHORTS)))


def test_rows_of_tables_go_to_the_sums_of_their_rounds(rounds):
    single = [fr.deployment.Client(ALGORITHM, dict(CLIENTS[x]), x, seed=1) for x in CLIENTS.ids.tolist()]
    server = fr.deployment.Server(ALGORITHM, list(CLIENTS.ids), fr.Uniform(1), seed=1)

    def update(params: Any, client: int, round: int) -> Any:
        tree = {"item": {"factors": params["factors"], "bias": params["bias"]}}
        broadcast = server.broadcast()._replace(
            global_params=jax.tree.map(lambda x: x.astype(np.float32), tree), round=np.int32(round)
        )
        sent = single[client].update(broadcast)
        dense = {name: np.zeros(x.shape) for name, x in params.items()}
        for name, x in dense.items():
            np.add.at(x, np.asarray(sent.rows[f"item/{name}"]), np.asarray(sent.delta.total["item"][name]))
        return dense, float(sent.delta.weight)

    start = {name: np.asarray(x, np.float64) for name, x in server.state.global_params["item"].items()}
    for round, params in zip(rounds, buffered(start, update, 0.5), strict=True):
        for name, x in params.items():
            np.testing.assert_allclose(round.state.global_params["item"][name], x, atol=2e-6, err_msg=name)


def test_bytes_and_metrics_are_those_of_the_clients_that_a_round_asked(rounds):
    assert [round.clients for round in rounds] == [len(cohort) for cohort in COHORTS]
    assert float(rounds[0].metrics()["mse"].weight) > 0


def test_a_round_goes_on_to_the_same_bits_from_the_state_before_it(simulation, rounds):
    again = list(simulation.rounds(rounds[1].state, 3))
    for one, other in zip(again, rounds[2:5], strict=True):
        jax.tree.map(np.testing.assert_array_equal, one.state, other.state)
    assert simulation.compilations == 1
    assert any(np.any(x) for x in jax.tree.leaves(rounds[1].state.late)), "nothing waits: nothing is shown"


def test_blocks_do_not_change_the_numbers(rounds):
    halves = Simulation(ALGORITHM, CLIENTS, Written(), seed=1, plan=Plan((Slot(1, 1, 4), Slot(1, 1, 8))))
    *_, last = halves.rounds(halves.init(), len(COHORTS))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), last.state, rounds[-1].state)


def test_a_state_without_late_updates_starts_with_none(simulation, rounds):
    plain = Simulation(ALGORITHM, CLIENTS, replace(Written(), max_staleness=0), seed=1)
    start = plain.init()
    assert start.late == ()
    (first,) = simulation.rounds(start, 1)
    jax.tree.map(np.testing.assert_array_equal, first.state, rounds[0].state)
    with pytest.raises(ValueError, match="max_staleness 0, but its late updates are of one with 3"):
        next(plain.rounds(first.state, 1))


def test_delays_that_do_not_fit_are_refused(simulation, monkeypatch):
    message = "the delays that Written gives for round 1 must be a whole number"
    for wrong in ([0, 0, 0], [0, 0, 0, 4], [0, 0, -1, 0], [0.0, 0.0, 0.0, 0.0]):
        monkeypatch.setattr(Written, "delays", lambda *_, wrong=wrong: np.array(wrong))
        with pytest.raises(DataError, match=message):
            next(simulation.rounds(simulation.init(), 1))
