"""What a model with state owes beyond a round: resumptions, messages, nodes, exports and private updates.

Averaged state is among the global parameters: it is in every `Update`, clipped and noised with the rest.
Local state is in none: a client computes it anew, or keeps it where it is.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.batch_norm import EPSILON, clients, model, start
from tests.small import Given, sgd, solver

import fedrecon as fr
from fedrecon.algorithms import fedalt
from fedrecon.algorithms._building_blocks import uniform
from fedrecon.core import leaves_of
from fedrecon.data._hashing import Purpose, round_keys
from fedrecon.deployment._client import Client
from fedrecon.deployment._endpoint import Endpoint
from fedrecon.deployment._messages import (
    broadcast_from,
    broadcast_message,
    request_from,
    request_message,
    update_from,
    update_message,
)
from fedrecon.deployment._node import Node
from fedrecon.deployment._rounds import run_rounds
from fedrecon.deployment._server import Server
from fedrecon.deployment._store import Store
from fedrecon.deployment._wire import decode, encode
from fedrecon.privacy import compressed
from fedrecon.privacy._secret import Secret
from fedrecon.privacy._user_level import user_level_dp
from fedrecon.serving._personalization import Personalization

CLIENTS = clients()
NAMES = CLIENTS.ids.tolist()
PAIRS = fr.AlternateBatches(3)
STATES = {"averaged": (), "local": ("norm",), "mixed": ("norm/var",)}
STATISTICS = {"norm/mean", "norm/var"}
ALGORITHMS: dict[str, Callable[[Any], fr.Algorithm]] = {
    "fedrecon": lambda m: fr.fedrecon(
        m, solver(0.1, 3), solver(0.1, 3), sgd(0.5), PAIRS, client_weight=uniform
    ),
    "fedalt": lambda m: fedalt(m, solver(0.1, 3), solver(0.1, 3), sgd(0.5), client_weight=uniform),
}
KEEP = ("fedalt",)  # algorithms whose clients keep local parameters
CASES = [("fedrecon", "averaged"), ("fedrecon", "local"), ("fedalt", "averaged"), ("fedalt", "mixed")]
# One of each algorithm, and the other two now and then.
SOME_CASES = [pytest.param(*case, marks=pytest.mark.slow) if case in CASES[1:3] else case for case in CASES]
CLIP = 0.02  # below the norm of every delta that is sent here
SECRET = Secret(bytes(range(32)))


def predict(params: Any, features: Any) -> Any:
    """Predicts by the running statistics."""
    normal = (features["x"] @ params["w"] - params["norm"]["mean"]) / jnp.sqrt(
        params["norm"]["var"] + EPSILON
    )
    return normal @ params["head"]


@functools.cache
def algorithm_of(name: str, state: str) -> fr.Algorithm:
    return ALGORITHMS[name](model("head", *STATES[state], predict=predict))


def averaged_of(state: str) -> set[str]:
    return {leaf for leaf in STATISTICS if not any(leaf.startswith(path) for path in STATES[state])}


def last_of(leaves: Any) -> set[str]:
    """The statistics among some paths, which algorithms may have put below others."""
    return {leaf for leaf in STATISTICS for path in leaves if path.endswith(leaf)}


@functools.cache
def simulated(name: str, state: str, rounds: int = 2) -> tuple[Any, Any]:
    """The server's state and what the clients keep after some rounds of everybody."""
    simulation = fr.Simulation(algorithm_of(name, state), CLIENTS, fr.Everyone(), seed=3)
    *_, last = simulation.rounds(simulation.init(), rounds)
    kept, keys = simulation.client_states, CLIENTS.keys
    return last.state, () if kept is None else kept.get(keys, len(keys)).value


def close(a: Any, b: Any) -> None:
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


class StopError(Exception):
    """What a callback raises to end a run in the middle."""


def stop(report: Any) -> None:
    if report.round == 3:
        raise StopError


@pytest.mark.parametrize(("name", "state"), SOME_CASES)
def test_a_resumed_run_ends_with_the_same_bits(name, state, tmp_path):
    def train(folder: str, **others: Any) -> fr.Result:
        given: dict[str, Any] = {"evaluate": CLIENTS.take(range(8, 11)), "evaluate_every": 1}
        given |= {"clients_per_round": 5, "checkpoint_every": 2, "evaluation_split": PAIRS}
        seen = CLIENTS.take(range(8))
        return fr.train(algorithm_of(name, state), seen, 5, out=tmp_path / folder, **given, **others)

    whole = train("whole")
    with pytest.raises(StopError):
        train("cut", callbacks=[stop])
    resumed = train("cut")
    assert resumed.resumed_from == 2 and whole.resumed_from is None
    assert jax.tree.structure(resumed.state) == jax.tree.structure(whole.state)
    for x, y in zip(jax.tree.leaves(resumed.state), jax.tree.leaves(whole.state), strict=True):
        np.testing.assert_array_equal(x, y)
    assert (
        resumed.evaluations["validation"].over_examples() == whole.evaluations["validation"].over_examples()
    )
    leaves = leaves_of(whole.global_params)
    assert last_of(leaves) >= averaged_of(state)
    for leaf in averaged_of(state):
        moved = np.abs(leaves[leaf] - start()["norm"][leaf[5:]])
        assert np.max(moved) > 0.01, "the statistics moved, so that equal bits say something"
    if name in KEEP:
        keys = CLIENTS.keys[:8]
        kept = [run.client_states.get(keys, len(keys)) for run in (whole, resumed)]
        for x, y in zip(*map(jax.tree.leaves, kept), strict=True):
            np.testing.assert_array_equal(x, y)
        assert STATISTICS - averaged_of(state) <= last_of(leaves_of(kept[0].value))


def through(message: Any) -> Any:
    return decode(encode(message))


@pytest.mark.parametrize(("name", "state"), SOME_CASES)
def test_apart_from_the_server_clients_send_averaged_state_and_keep_the_rest(name, state):
    algorithm = algorithm_of(name, state)
    apart = {n: Client(algorithm, CLIENTS.take([i]), n, 3) for i, n in enumerate(NAMES)}
    server = Server(algorithm, NAMES, Given([range(len(NAMES))]), seed=3, run="state")
    for _ in range(2):
        for n in server.cohort():
            address, client = server.address(n), apart[n]
            rows = request_from(through(request_message(address, client.rows)))
            given = through(broadcast_message(address, server.broadcast(rows)))
            update = client.update(broadcast_from(given, server.state.global_params))
            sent = through(update_message(address, update))
            assert {x for x in STATISTICS if any(x in str(leaf) for leaf in leaves_of(update))} == (
                averaged_of(state)
            )
            assert server.add(n, update_from(sent, server.state.global_params)) is None
        assert server.step().released
    expected, kept = simulated(name, state)
    close(server.state.global_params, expected.global_params)
    for i, n in enumerate(NAMES):
        assert (apart[n].state is None) == (name not in KEEP)
        if name in KEEP:
            close(apart[n].state, jax.tree.map(lambda x, i=i: x[i], kept))


@pytest.mark.parametrize("state", STATES)
def test_a_node_that_begins_again_goes_on_from_the_state_it_kept(state, tmp_path):
    algorithm = algorithm_of("fedalt", state)
    for rounds in (1, 2):  # a process each: the second one reads all that is kept from the disk
        node = Node(algorithm, Store(CLIENTS, tmp_path / "node"), seed=3, run="state")

        class Direct:
            def exchange(self, messages, seconds, node=node):
                return (node.handle(data) for _, data in messages)

        server = Server(algorithm, NAMES, fr.Everyone(), seed=3, run="state")
        done = len(list(run_rounds(Endpoint(server), Direct(), rounds, tmp_path / "server")))
        assert done == 1
        node.store.close()
    close(server.state.global_params, simulated("fedalt", state)[0].global_params)


@pytest.mark.parametrize("state", STATES)
def test_a_served_client_has_the_state_of_its_own_examples(state):
    """Local statistics are those of the support set, whatever order and company it is served in."""
    algorithm = algorithm_of("fedrecon", state)
    trained, _ = simulated("fedrecon", state)
    serving = Personalization(algorithm, trained, CLIENTS.num_examples)
    together = serving(CLIENTS)
    for place in (4, 8):
        close(
            {leaf: x[place] for leaf, x in together.items()},
            {leaf: x[0] for leaf, x in serving(CLIENTS.take([place])).items()},
        )
    assert last_of(together) == STATISTICS - averaged_of(state)


@pytest.mark.parametrize(("name", "state"), CASES)
def test_an_exported_file_does_what_jax_does(name, state, tmp_path, monkeypatch):
    pytest.importorskip("onnx", reason="needs the extra export")
    pytest.importorskip("onnxruntime", reason="needs the extra export")
    from fedrecon.export import _export
    from fedrecon.export._cases import cases, fields_of, ranges_of
    from fedrecon.export._export import Subject, export
    from fedrecon.export._session import Session
    from fedrecon.export._training import Training

    monkeypatch.setattr(_export, "_RANDOM", 24)
    algorithm, trained = algorithm_of(name, state), simulated(name, state)[0]
    fields, ranges = fields_of(CLIENTS), ranges_of(CLIENTS)
    own = [CLIENTS[i] for i in NAMES]
    keys = round_keys(3, Purpose.TRAINING, 2, CLIENTS.keys)
    sets = list(cases(CLIENTS, PAIRS, 0))
    checks = export(
        Subject(algorithm, trained, fields, ranges),
        tmp_path / "out",
        support_max=8,
        clients=sets,
        training=Training(fields, ranges, 12, own, keys),
    )
    assert checks.users == len(sets)
    (local,) = (one for one in Session(tmp_path / "out").description["outputs"] if one["name"] == "local")
    assert last_of([leaf["path"] for leaf in local["leaves"]]) == STATISTICS - averaged_of(state)


def private(name: str, state: str, noise: float, clip: Any = CLIP, clients: int = len(NAMES)) -> fr.Algorithm:
    return user_level_dp(
        algorithm_of(name, state),
        clip=clip,
        rounds=3,
        delta=1e-3,
        sampling=fr.Everyone(),
        num_clients=clients,
        noise_multiplier=noise,
    )


def norm(tree: Any) -> float:
    return math.sqrt(sum(float(np.sum(np.square(x, dtype=np.float64))) for x in jax.tree.leaves(tree)))


@pytest.mark.parametrize(("name", "state"), CASES)
def test_a_private_update_holds_averaged_state_within_the_bound_and_no_local_state(name, state):
    pytest.importorskip("dp_accounting")
    algorithm, plain = private(name, state, 1.0), algorithm_of(name, state)
    params = algorithm.init(jax.random.key(0)).global_params
    home = CLIENTS[8]
    examples = fr.Examples(
        {k: jnp.asarray(x, jnp.float32) for k, x in home.items()}, np.ones(len(home["y"]), bool)
    )

    @jax.jit
    def sent() -> Any:
        broadcast, key = fr.Broadcast(params, jnp.int32(0)), jax.random.key(1)
        kept = algorithm.init_client_state(params, jax.random.key(2))
        return [a.client_update(broadcast, kept, examples, key)[0] for a in (algorithm, plain)]

    update, bare = jax.device_get(sent())
    delta, whole = leaves_of(update.delta.total), leaves_of(bare.delta.value())
    assert last_of(delta) == averaged_of(state)
    assert update.rows == {} and update.metrics == {} and update.statistics == ()
    # One factor clips parameters and state alike, so that the bound is on all that is sent.
    assert norm(whole) > CLIP and 0.9999 * CLIP < norm(delta) <= CLIP
    for leaf, x in delta.items():
        np.testing.assert_allclose(x, whole[leaf] * CLIP / norm(whole), rtol=1e-4, atol=1e-7)
    assert all(np.any(x) for leaf, x in delta.items() if last_of([leaf])), "the statistics moved"


@pytest.mark.parametrize("state", ["averaged", "mixed"])
def test_averaged_state_is_noised_and_the_ledger_counts_its_release(state):
    pytest.importorskip("dp_accounting")
    rounds = {}
    for noise in (1e-9, 1000.0):
        algorithm = private("fedrecon", state, noise)
        simulation = fr.Simulation(algorithm, CLIENTS, fr.Everyone(), seed=3, secret=SECRET)
        (round,) = simulation.rounds(simulation.init(), 1)
        rounds[noise] = leaves_of(round.state.global_params)
        assert int(round.state.privacy.releases) == 1
    deviation = 1000.0 * CLIP / len(NAMES)
    for leaf, x in rounds[1000.0].items():
        rate = 1.0 if last_of([leaf]) else 0.5  # the server's optimiser does not scale the step of state
        apart = np.abs(x - rounds[1e-9][leaf]) / (rate * deviation)
        assert np.all(apart > 1e-4) and np.max(apart) < 6, leaf


def test_a_bound_of_its_own_for_state():
    """Groups of leaves may be bounded apart: state has other units than parameters."""
    pytest.importorskip("dp_accounting")
    algorithm = private("fedrecon", "averaged", 1e-9, {"norm": 0.01, "w": 0.2}, clients=1)
    simulation = fr.Simulation(algorithm, CLIENTS.take([9]), fr.Everyone(), seed=3, secret=SECRET)
    state = simulation.init()
    (round,) = simulation.rounds(state, 1)
    moved = jax.tree.map(lambda a, b: a - b, round.state.global_params, state.global_params)
    assert norm(moved["norm"]) == pytest.approx(0.01, rel=1e-3)


def test_compressed_updates_keep_averaged_state_near_the_clients_own():
    """Statistics of one client after a round of 8 bits are its own to a 127th of their largest change."""
    one = CLIENTS.take([8])
    ends = []
    for algorithm in (
        algorithm_of("fedrecon", "averaged"),
        compressed(algorithm_of("fedrecon", "averaged"), bits=8),
    ):
        simulation = fr.Simulation(algorithm, one, fr.Everyone(), seed=3)
        (round,) = simulation.rounds(simulation.init(), 1)
        ends.append(leaves_of(round.state.global_params))
    for leaf in STATISTICS:
        moved = np.max(np.abs(ends[0][leaf] - start()["norm"][leaf[5:]]))
        assert 0 < np.max(np.abs(ends[0][leaf] - ends[1][leaf])) <= 1.01 * moved / 127, leaf
