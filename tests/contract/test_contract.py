"""What every algorithm owes: however clients are laid out, blocked, cut to rows or ordered, the numbers stay.

A new algorithm is added to `ALGORITHMS`, and nothing else has to be written for it here.
"""

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from tests.small import ITEMS, LENGTHS, Given, examples, federation, rating_model, sgd, solver

from fedrecon.algorithms._base import Broadcast, ServerState, Update
from fedrecon.algorithms._building_blocks import uniform
from fedrecon.algorithms._centralized import centralized
from fedrecon.algorithms._ditto import ditto
from fedrecon.algorithms._fedalt import fedalt
from fedrecon.algorithms._fedavg import fedavg
from fedrecon.algorithms._fedper import fedper
from fedrecon.algorithms._fedrecon import fedrecon
from fedrecon.algorithms._fedrep import fedrep
from fedrecon.algorithms._fedsim import fedsim
from fedrecon.algorithms._full_gradient import full_gradient
from fedrecon.algorithms._lg_fedavg import lg_fedavg
from fedrecon.algorithms._local_only import local_only
from fedrecon.algorithms._maml import first_order_maml, maml
from fedrecon.algorithms._pfedme import pfedme
from fedrecon.algorithms._reptile import reptile
from fedrecon.core._costs import COSTS
from fedrecon.core._mean import Mean
from fedrecon.core._model import Model, Table, without_tables
from fedrecon.core._splits import AlternateBatches, NoSplit, RandomFraction
from fedrecon.data._hashing import Purpose, round_keys
from fedrecon.simulation._batches import key_of
from fedrecon.simulation._block_plan import Plan, Slot
from fedrecon.simulation._client_state_store import StoredClientState, current_client_state
from fedrecon.simulation._simulation import Simulation
from fedrecon.solvers._gradient import Solver
from fedrecon.solvers._newton import Newton
from fedrecon.solvers._optimizers import optimizer

ADAM = optimizer("adam", learning_rate=0.05, eps=0.01)  # a larger eps: tiny gradients would blow rounding up
MOMENTUM = sgd(0.05, momentum=0.9)
YOGI, ADAGRAD = (optimizer(name, learning_rate=0.05, eps=0.01) for name in ("yogi_zero", "adagrad"))
PAIRS = AlternateBatches(2)
SERVER = sgd(1.0)
PLAIN, SHUFFLED, ADAPTIVE = solver(), solver(shuffle=True), Solver(ADAM, 2, epochs=2, max_steps=5)
SLOW, WITH_MOMENTUM, FULL = solver(0.05), Solver(MOMENTUM, 2), solver(0.01, None, reduction="sum")


def of_everybody(model: Model) -> Any:
    """`previous` is the row of who gave an example, and not the model's; "clients" are batches of all."""

    def given(fn: Any) -> Any:
        return lambda g, x, batch, *key: fn(g, x, {**batch, "previous": batch["item"]}, *key)

    own = replace(
        model,
        loss=given(model.loss),
        metrics=given(model.metrics),
        penalty=lambda *_: 0.0,
        tables=tuple(Table(table.leaf, ("item",)) for table in model.tables),
    )
    return centralized(own, ITEMS, PLAIN, SERVER, "previous")


ALGORITHMS = {
    "sgd": lambda model: fedrecon(model, PLAIN, PLAIN, SERVER, PAIRS),
    "adam": lambda model: fedrecon(model, ADAPTIVE, ADAPTIVE, ADAM, PAIRS),
    "joint": lambda model: fedrecon(model, SHUFFLED, WITH_MOMENTUM, SERVER, PAIRS, True, uniform),
    "newton": lambda model: fedrecon(model, Newton(), FULL, ADAM, RandomFraction(), False, uniform),
    "no split": lambda model: fedrecon(model, solver(epochs=3, adaptive_epochs=True), PLAIN, YOGI, NoSplit()),
    "full_gradient": lambda model: full_gradient(model, solver(epochs=2), PLAIN, SERVER, PAIRS),
    "implicit": lambda model: full_gradient(model, Newton(), FULL, ADAGRAD, PAIRS),
    "fedavg": lambda model: fedavg(model, solver(0.05, 3, epochs=2, shuffle=True), MOMENTUM),
    "maml": lambda model: maml(model, SLOW, PLAIN, SERVER, PAIRS),
    "first_order_maml": lambda model: first_order_maml(model, SLOW, PLAIN, SERVER, PAIRS),
    "reptile": lambda model: reptile(model, PLAIN, SERVER),
    "local_only": lambda model: local_only(model, PLAIN),
    "centralized": of_everybody,
    "fedalt": lambda model: fedalt(model, SHUFFLED, PLAIN, SERVER),
    "fedsim": lambda model: fedsim(model, WITH_MOMENTUM, PLAIN, SERVER),
    # Its head takes a table of the two that share a field, so that both are whole ones.
    "fedper": lambda model: fedper(model, PLAIN, PLAIN, SERVER, ("1", "0/item/bias")),
    "fedrep": lambda model: fedrep(model, Newton(), PLAIN, ADAM, ("1/user",), uniform),
    "lg_fedavg": lambda model: lg_fedavg(model, SLOW, SLOW, SERVER, ("0/item",)),
    "ditto": lambda model: ditto(model, PLAIN, ADAPTIVE, SERVER, 0.5),
    "pfedme": lambda model: pfedme(model, solver(0.05, None, epochs=2), PLAIN, SERVER, 2.0),
}
WHOLE_TABLES = ("fedper", "ditto")
# Kin of what is tried on both federations are tried on one.
BOTH = ("sgd", "adam", "joint", "newton", "fedavg", "fedalt")
ONLY_REPEATS = tuple(name for name in ALGORITHMS if name not in BOTH)
STATEFUL = ("fedalt", "fedsim", "fedper", "fedrep", "lg_fedavg", "ditto")
FEDERATIONS = {"distinct": federation(), "repeats": federation(repeats=True)}
# Without a parameter that is no table and with one field all steps of an SGD commute; with both, none do.
MODELS: dict[str, dict[str, Any]] = {"distinct": {}, "repeats": {"two_fields": True, "scale": True}}
SIDE_BY_SIDE = Plan((Slot(1, len(LENGTHS), 13),))
THREE_PASSES = Plan((Slot(2, 2, 12),))
TWO_LENGTHS = Plan((Slot(2, 3, 5), Slot(1, 5, 14)))
PLANS = {"distinct": SIDE_BY_SIDE, "repeats": THREE_PASSES}
EVERYBODY = np.arange(len(LENGTHS))
ROUNDS = 2


class Run(NamedTuple):
    simulation: Simulation
    start: ServerState
    rounds: list[Any]
    metrics: list[dict[str, Mean]]
    rows_seen: set[int]
    compilations: int
    client_states: Any


@functools.cache
def simulated(name: str, kind: str, plan: Plan | None = None) -> Run:
    """Two rounds of everybody, by rows."""
    seen: set[int] = set()
    algorithm = ALGORITHMS[name](rating_model(seen=seen, **MODELS[kind]))
    seen.clear()
    simulation = Simulation(
        algorithm, FEDERATIONS[kind], Given([EVERYBODY]), seed=3, plan=plan or PLANS[kind]
    )
    start = algorithm.init(jax.random.key(0))  # the simulation's own would try the model first
    seen.clear()
    rounds = list(simulation.rounds(start, ROUNDS))
    metrics, compilations = [r.metrics() for r in rounds], simulation.compilations
    return Run(simulation, start, rounds, metrics, set(seen), compilations, states_of_all_clients(simulation))


def states_of_all_clients(simulation: Simulation, clients: Any = EVERYBODY) -> Any:
    """What each of the clients keeps."""
    client_states, keys = simulation.client_states, simulation.clients.keys[clients]
    return () if client_states is None else client_states.get(keys, len(keys))


@functools.cache
def compiled_client(name: str, kind: str) -> tuple[Any, Any, StoredClientState]:
    algorithm = ALGORITHMS[name](without_tables(rating_model(**MODELS[kind])))
    step = jax.jit(algorithm.server_update)

    @jax.jit
    def update(broadcast: Broadcast, stored: StoredClientState, given: Any, key: Any) -> tuple[Update, Any]:
        client_states = current_client_state(algorithm, broadcast.global_params, stored, key_of(key))
        return algorithm.client_update(broadcast, client_states, given, key_of(key))

    shapes = jax.eval_shape(algorithm.model.init_global, jax.random.key(0))
    like = jax.eval_shape(algorithm.init_client_state, shapes, jax.random.key(0))
    nothing = StoredClientState(np.bool_(False), jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like))
    return step, update, nothing


def by_hand(
    name: str, kind: str, start: ServerState, clients: Any = EVERYBODY
) -> tuple[ServerState, list[dict[str, Mean]], Any]:
    """The same with whole tables: one client after the other, sums in double precision, no simulation."""
    server_update, update, nothing = compiled_client(name, kind)
    federation, state, history = FEDERATIONS[kind], start, []
    client_states = dict.fromkeys(clients.tolist(), nothing)
    for number in range(ROUNDS):
        keys = round_keys(3, Purpose.TRAINING, number, federation.keys)
        found = []
        for i in clients:
            given = examples(federation, federation.ids[i], 17)
            broadcast = Broadcast(state.global_params, state.round)
            sent, new = jax.device_get(update(broadcast, client_states[i], given, keys[i]))
            found.append(sent)
            client_states[i] = StoredClientState(np.bool_(True), new)
        assert all(x.rows == {} and x.statistics == () for x in found)
        total = jax.tree.map(lambda *xs: np.sum(xs, axis=0, dtype=np.float64).astype(np.float32), *found)
        state = server_update(state, jax.tree.map(jax.numpy.asarray, total))
        history.append(total.metrics)
    return state, history, jax.tree.map(lambda *xs: np.stack(xs), *client_states.values())


def assert_close(a: Any, b: Any) -> None:
    assert str(jax.tree.structure(a)) == str(jax.tree.structure(b))
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-5, atol=2e-6)


def assert_equal(a: Any, b: Any) -> None:
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


every_algorithm = pytest.mark.parametrize("name", ALGORITHMS)
every_case = pytest.mark.parametrize(
    ("name", "kind"),
    [(n, k) for n in ALGORITHMS for k in FEDERATIONS if k == "repeats" or n not in ONLY_REPEATS],
)


@every_case
def test_blocks_and_passes_by_rows_are_clients_one_by_one_with_whole_tables(name, kind):
    run = simulated(name, kind)
    state, history, client_states = by_hand(name, kind, run.start)
    assert_close(ServerState(*run.rounds[-1].state), state)  # without the vocabularies, which no step reads
    for found, wanted in zip(run.metrics, history, strict=True):
        assert found["dropped"].total == 0
        assert_close(found, wanted)
    assert (run.client_states == ()) == (name not in STATEFUL)
    if name in STATEFUL:
        assert_close(run.client_states, client_states)
    moved = jax.tree.map(
        lambda a, b: np.abs(a - b).max() > 1e-3, state.global_params, run.start.global_params
    )
    assert not any(jax.tree.leaves(moved)) if name == "local_only" else all(jax.tree.leaves(moved))


def steps(counts: Sequence[int], batch_size: int | None, epochs: int = 1, max_steps: int = 99) -> Any:
    """Gradient steps of clients with so many examples, and how many examples these go through."""
    found = np.zeros(2, int)
    for count in counts:
        cut = [min(batch_size or count, count - i) for i in range(0, count, batch_size or max(count, 1))]
        found += [len(taken := (cut * epochs)[:max_steps]), sum(taken)]
    return found


def cut_in_pairs(counts: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """Sizes of support and query sets of alternate batches of 2."""
    support = [sum(min(2, n - i) for i in range(0, n, 4)) for n in counts]
    return support, [n - s for n, s in zip(counts, support, strict=True)]


def through(epochs: int) -> Any:
    """Steps on the query set, each of which goes through all steps on the support set."""
    found = np.zeros(2, int)
    for support, query in zip(SUPPORT, QUERY, strict=True):
        outer = steps([query], 2)
        found += outer + outer[0] * steps([support], 2, epochs)
    return found


SUPPORT, QUERY = cut_in_pairs(LENGTHS)
ONCE = steps(LENGTHS, 2)
# By algorithm: gradient steps and example passes of stages that descend.
DESCENTS = {
    "sgd": steps(SUPPORT, 2) + steps(QUERY, 2),
    "adam": steps(SUPPORT, 2, 2, 5) + steps(QUERY, 2, 2, 5),
    "joint": steps(SUPPORT, 2) + steps(QUERY, 2),
    "no split": 2 * ONCE,  # one epoch in the first round
    "full_gradient": through(2),
    "maml": through(1),
    "first_order_maml": steps(SUPPORT, 2) + steps(QUERY, 2),
    "reptile": ONCE,
    "local_only": ONCE,
    "centralized": steps(LENGTHS, None),
    "fedavg": steps(LENGTHS, 3, 2),
    "fedalt": 2 * ONCE,
    "fedsim": ONCE,
    "fedper": ONCE,
    "fedrep": ONCE,
    "lg_fedavg": ONCE,
    "ditto": ONCE + steps(LENGTHS, 2, 2, 5),
    "pfedme": 3 * ONCE,  # every step's batch is gone through twice to find the personal model
}


@every_algorithm
def test_an_update_is_all_that_leaves_and_its_size_tells_nothing(name):
    """With whole tables it has the shapes of the parameters, however many examples there are."""
    algorithm = ALGORITHMS[name](without_tables(rating_model(**MODELS["repeats"])))
    params = jax.eval_shape(algorithm.model.init_global, jax.random.key(0))

    def sent(params: Any, given: Any) -> Any:
        key = jax.random.key(1)
        client_states = algorithm.init_client_state(params, key)
        return algorithm.client_update(Broadcast(params, jax.numpy.int32(0)), client_states, given, key)[0]

    few, many = (jax.eval_shape(sent, params, examples(FEDERATIONS["repeats"], "c3", n)) for n in (4, 17))
    assert few == many
    assert type(few) is Update and few.rows == {} and few.statistics == ()
    assert jax.tree.map(lambda x: x.shape, few.delta.total) == jax.tree.map(lambda x: x.shape, params)
    assert few.delta.weight.shape == ()
    assert all(x.shape == () for x in jax.tree.leaves(few.metrics))
    assert set(few.metrics) - set(COSTS) == {"loss", "mse", "hits", "dropped", "empty"}


@every_algorithm
def test_what_clients_compute_is_counted(name):
    found = {n: float(mean.total) for n, mean in simulated(name, "repeats").metrics[0].items()}
    if name == "implicit":  # nothing is solved for where there is no query set
        queried = [n for n, query in zip(LENGTHS, QUERY, strict=True) if query]
        assert [found[x] for x in COSTS] == [len(queried), len(queried), sum(queried)]
        return
    if name == "newton":  # halves at random: which clients have a query set is another test's
        assert found["solves"] == len(LENGTHS)
        assert found["example_passes"] == sum(LENGTHS)
        assert found["gradient_steps"] == len(LENGTHS) - simulated(name, "repeats").metrics[0]["empty"].total
        return
    solved = len(LENGTHS) if name == "fedrep" else 0
    assert found.get("solves", 0) == solved
    passes = sum(LENGTHS) if name == "fedrep" else 0
    assert [found["gradient_steps"], found["example_passes"] - passes] == DESCENTS[name].tolist()


def test_slots_of_two_lengths():
    whole, cut = simulated("sgd", "distinct"), simulated("sgd", "distinct", TWO_LENGTHS)
    assert_close(cut.rounds[-1].state, whole.rounds[-1].state)
    assert_close(cut.metrics, whole.metrics)


@every_algorithm
def test_clients_without_an_update_change_nothing(name):
    kind = "repeats" if name in ONLY_REPEATS else "distinct"
    run = simulated(name, kind)
    counts = FEDERATIONS[kind].num_examples
    # Alternate batches of 2 leave a client of 2 no query set, one half of one example nobody.
    split = dict.fromkeys(
        ("sgd", "adam", "joint", "full_gradient", "implicit", "maml", "first_order_maml"), 2
    )
    idle = counts <= (split | {"newton": 1}).get(name, 0)
    assert run.metrics[0]["empty"] == Mean(idle.sum(), len(counts))
    if name == "local_only":  # nobody has one
        assert_equal(run.rounds[-1].state.global_params, run.start.global_params)
        return
    state, _, client_states = by_hand(name, kind, run.start, EVERYBODY[~idle])
    assert_close(ServerState(*run.rounds[-1].state), state)  # without the vocabularies, which no step reads
    if name in STATEFUL:
        assert_close(jax.tree.map(lambda x: x[~idle], run.client_states), client_states)


@every_algorithm
def test_order_of_the_clients_changes_nothing(name):
    run = simulated(name, "repeats")
    run.simulation.sampling = Given([EVERYBODY[::-1]])
    rounds = list(run.simulation.rounds(run.start, ROUNDS))
    run.simulation.sampling = Given([EVERYBODY])
    assert_close(rounds[-1].state, run.rounds[-1].state)
    assert_close(rounds[-1].metrics(), run.metrics[-1])
    assert_close(states_of_all_clients(run.simulation), run.client_states)


@every_algorithm
def test_same_plan_and_seed_same_bits(name):
    run = simulated(name, "repeats")
    again = list(run.simulation.rounds(run.start, ROUNDS))
    assert_equal(again[-1].state, run.rounds[-1].state)
    assert_equal([r.metrics() for r in again], run.metrics)
    assert_equal(states_of_all_clients(run.simulation), run.client_states)


@every_algorithm
def test_state_survives_as_arrays(name):
    run = simulated(name, "repeats")
    (first,) = run.simulation.rounds(run.start, 1)  # which what clients keep goes on from
    leaves, treedef = jax.tree.flatten(first.state)
    stored = [np.array(x) for x in leaves]
    assert all(x.dtype != object for x in stored)
    (resumed,) = run.simulation.rounds(jax.tree.unflatten(treedef, stored), 1)
    assert resumed.number == 2
    assert_equal(resumed.state, run.rounds[-1].state)
    assert_equal(resumed.metrics(), run.metrics[-1])
    assert_equal(states_of_all_clients(run.simulation), run.client_states)


@every_algorithm
def test_programs_are_compiled_once(name):
    if name not in ONLY_REPEATS:
        assert simulated(name, "distinct").compilations == 1  # a round of one pass
    run = simulated(name, "repeats")
    assert run.compilations == 3  # a pass, the merging of several, the server's step after these
    compiled: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: compiled.append(event))
    run.simulation.sampling = Given([[3, 0], EVERYBODY, [8]])
    list(run.simulation.rounds(run.start, 3))
    run.simulation.sampling = Given([EVERYBODY])
    assert not [event for event in compiled if "backend_compile" in event]


@every_case
def test_rows_are_used(name, kind):
    """The loss never sees a whole table, and where the optimiser lets it be cut only a batch's rows."""
    run = simulated(name, kind)
    if name in WHOLE_TABLES:
        assert run.rows_seen == {ITEMS}
        assert run.rounds[0].bytes_up == run.rounds[0].dense_bytes_up
        return
    width = len(MODELS[kind].get("two_fields", False) * "x") + 1
    whole = (
        "joint",
        "adam",
        "newton",
        "full_gradient",
        "implicit",
        "maml",
        "centralized",
        "fedsim",
        "fedrep",
    )
    most = {**dict.fromkeys(whole, 13), "fedavg": 3}.get(name, 2) * width
    # The stages of `newton` take a client's examples all at once, whose rows are those of the client.
    assert max(run.rows_seen) <= most
    if name in ("local_only", "centralized"):  # nothing is exchanged, or all examples before the first round
        assert run.rounds[0].bytes_down == run.rounds[0].bytes_up == 0
        return
    if name == "lg_fedavg":  # its tables are local
        assert run.rounds[0].bytes_up == run.rounds[0].dense_bytes_up == len(LENGTHS) * 3 * 4
        return
    assert run.rounds[0].bytes_down < run.rounds[0].dense_bytes_down / 2
    assert run.rounds[0].bytes_up < run.rounds[0].dense_bytes_up / 2


def test_an_optimizer_that_mixes_rows_gets_whole_tables():
    seen: set[int] = set()
    model = rating_model(seen=seen, **MODELS["repeats"])
    lamb = optimizer("lamb", learning_rate=0.05)
    with pytest.warns(
        UserWarning, match=r"lamb\(.* does not treat the rows of a table \(item/factors, item/bias\)"
    ) as caught:
        algorithm = fedrecon(model, PLAIN, Solver(lamb, 2), SERVER, PAIRS)
    assert len(caught) == 1
    simulation = Simulation(algorithm, FEDERATIONS["repeats"], Given([EVERYBODY]), plan=SIDE_BY_SIDE)
    seen.clear()
    (done,) = simulation.rounds(algorithm.init(jax.random.key(0)), 1)
    assert seen == {ITEMS}
    assert done.bytes_up == done.dense_bytes_up
    assert np.isfinite(done.metrics()["loss"].value())


def test_state_of_the_optimizer_is_left_alone_by_padding():
    """A step without an example must not count: Adam's bias correction would change with the padding."""
    update = Solver(ADAM, 2, epochs=3)
    algorithm = fedavg(without_tables(rating_model()), update, SERVER)
    params = jax.jit(algorithm.model.init_global)(jax.random.key(0))
    run = jax.jit(
        lambda given: algorithm.client_update(Broadcast(params, np.int32(0)), (), given, jax.random.key(1))[0]
    )
    short, long = (run(examples(FEDERATIONS["distinct"], "c3", size)) for size in (4, 16))
    assert_close(short, long)
