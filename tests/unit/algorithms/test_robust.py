"""Robust aggregation: each rule by hand in NumPy, and in rounds with hostile clients."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.small import LENGTHS, federation, rating_model, sgd, solver

import fedrecon as fr
from fedrecon.algorithms._robust import Krum, Median, NormBound, TrimmedMean, robust
from fedrecon.core._splits import AlternateBatches
from fedrecon.data._sampling import Everyone
from fedrecon.privacy._row_selection import with_min_contributors
from fedrecon.privacy._user_level import user_level_dp
from fedrecon.privacy.attacks._hostile import with_hostile_clients
from fedrecon.simulation._simulation import Simulation

CLIENTS, N = federation(), len(LENGTHS)
TABLES = frozenset({"item/factors"})


def base(**changed):
    settings = {"split": AlternateBatches(2), "client_weight": fr.algorithms.uniform, **changed}
    return fr.fedrecon(rating_model(scale=True), solver(), solver(), sgd(1.0), **settings)


def cohort(seed=0, clients=9):
    """Deltas of a table with rows of few clients, of a vector, and which clients count."""
    generator = np.random.default_rng(seed)
    table = generator.normal(size=(clients, 6, 2)) * (generator.random((clients, 6, 1)) < 0.5)
    table[:, 5] = 0  # a row of nobody
    valid = np.arange(clients) != 4
    deltas = {"item": {"factors": table}, "scale": generator.normal(size=clients)}
    deltas = jax.tree.map(lambda x: np.where(valid.reshape(-1, *[1] * (x.ndim - 1)), x, 0), deltas)
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), deltas), jnp.asarray(valid)


def by_hand(deltas, valid, mean):
    """`mean` of the numbers of each entry's clients, times the share that these are of all."""
    table, scale = np.asarray(deltas["item"]["factors"], float), np.asarray(deltas["scale"], float)
    valid = np.asarray(valid)
    expected = np.zeros(table.shape[1:])
    for row in range(table.shape[1]):
        taking = valid & np.any(table[:, row] != 0, 1)
        for entry in range(table.shape[2] if taking.any() else 0):
            expected[row, entry] = mean(table[taking, row, entry]) * taking.sum() / valid.sum()
    return {"item": {"factors": expected}, "scale": mean(scale[valid])}


def trimmed(share):
    def mean(numbers):
        cut = min(int(share * len(numbers)), (len(numbers) - 1) // 2)
        return np.mean(np.sort(numbers)[cut : len(numbers) - cut])

    return mean


@pytest.mark.parametrize(
    ("rule", "mean"),
    [(Median(), np.median), (TrimmedMean(0.0), np.mean), (TrimmedMean(0.3), trimmed(0.3))],
    ids=["median", "mean", "trimmed mean"],
)
@pytest.mark.parametrize("seed", range(3))
def test_rules_that_work_entry_by_entry(rule, mean, seed):
    deltas, valid = cohort(seed)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        rule(deltas, valid, TABLES),
        by_hand(deltas, valid, mean),
    )


def flat(deltas):
    return np.concatenate([np.reshape(x, (len(x), -1)) for x in jax.tree.leaves(deltas)], 1).astype(float)


@pytest.mark.parametrize("bound", [None, 1.5])
def test_norms_are_cut_to_the_bound_or_their_median(bound):
    deltas, valid = cohort()
    vectors = flat(deltas)[np.asarray(valid)]
    norms = np.linalg.norm(vectors, axis=1)
    most = np.median(norms) if bound is None else bound
    expected = np.mean(vectors * np.minimum(1, most / norms)[:, None], 0)
    result = NormBound(bound)(deltas, valid, TABLES)
    np.testing.assert_allclose(flat(jax.tree.map(lambda x: x[None], result))[0], expected, atol=1e-6)


@pytest.mark.parametrize("selected", [None, 1, 3])
def test_krum_takes_the_clients_nearest_to_the_others(selected):
    deltas, valid = cohort(clients=12)
    vectors, valid = flat(deltas), np.asarray(valid)
    places = np.flatnonzero(valid)
    hostile = int(0.2 * len(places))
    scores = []
    for i in places:
        distances = sorted(np.sum((vectors[i] - vectors[j]) ** 2) for j in places if j != i)
        scores.append(sum(distances[: len(places) - hostile - 2]))
    most = len(places) - hostile if selected is None else selected
    expected = np.mean(vectors[places[np.argsort(scores)[:most]]], 0)
    result = Krum(0.2, selected)(deltas, jnp.asarray(valid), TABLES)
    np.testing.assert_allclose(flat(jax.tree.map(lambda x: x[None], result))[0], expected, atol=1e-6)


def changed(algorithm, clients=CLIENTS, **others):
    simulation = Simulation(algorithm, clients, Everyone(), **others)
    start = simulation.init()
    (round,) = simulation.rounds(start, 1)
    new = jax.tree.map(lambda a, b: np.asarray(a - b), round.state.global_params, start.global_params)
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(new)]), round


@pytest.mark.parametrize("clients_per_block", [None, 1, 4])
def test_without_trimming_a_round_is_that_of_the_mean(clients_per_block):
    """Whatever blocks and rows a simulation uses, each client's whole delta reaches the rule."""
    plain, first = changed(base())
    each, round = changed(robust(base(), TrimmedMean(0.0)), clients_per_block=clients_per_block)
    np.testing.assert_allclose(each, plain, atol=1e-6)
    for name, mean in first.metrics().items():
        assert round.metrics()[name].total == pytest.approx(mean.total)
    assert round.bytes_up == first.bytes_up


def marked(share):
    hostile = np.arange(N) % round(1 / share) == 0
    return CLIENTS.with_columns(hostile=hostile[CLIENTS.owners()].astype(np.int8))


@pytest.fixture(scope="module")
def attacked():
    """Deltas of which one in four is scaled by -1000, and how far a round with and without them goes."""
    clients = marked(0.25)
    truth, _ = changed(with_hostile_clients(base(), 1.0), clients)
    algorithm = with_hostile_clients(base(), -1000.0)
    mean, _ = changed(algorithm, clients)
    assert np.linalg.norm(mean - truth) > 100 * np.linalg.norm(truth)
    return algorithm, clients, truth, mean


@pytest.mark.parametrize("rule", [NormBound(), Krum(0.3)], ids=repr)
def test_a_scaled_delta_moves_no_rule_as_far_as_the_mean(attacked, rule):
    algorithm, clients, truth, mean = attacked
    result, _ = changed(robust(algorithm, rule), clients)
    assert np.linalg.norm(result - truth) < 0.01 * np.linalg.norm(mean - truth) + np.linalg.norm(truth)


def test_entry_by_entry_what_all_clients_change_is_safe_and_a_row_of_hostile_ones_is_not(attacked):
    algorithm, clients, truth, mean = attacked
    result, _ = changed(robust(algorithm, Median()), clients)
    assert abs(result[-1] - truth[-1]) < 0.5 < abs(mean[-1] - truth[-1])  # the scale, which is no table
    assert np.linalg.norm(result - truth) > 10 * np.linalg.norm(truth)  # rows that they alone change


def test_what_is_not_finite_is_left_out():
    clients = marked(0.25)
    algorithm = with_hostile_clients(base(), 3e38)
    result, _ = changed(robust(algorithm, TrimmedMean(0.0)), clients)
    assert np.isfinite(result).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: NormBound(0.0), "bound must be a finite number above 0, or None, got 0"),
        (lambda: TrimmedMean(0.6), "share must be from 0 to 0.5, got 0.6"),
        (lambda: Krum(0.5), "hostile must be at least 0 and below 0.5, got 0.5"),
        (lambda: Krum(0.2, 0), "selected must be a whole number of at least 1, got 0"),
        (
            lambda: robust(base(client_weight=fr.algorithms.by_examples), Median()),
            "client_weight must be uniform under robust aggregation, got 'by_examples'",
        ),
        (lambda: robust(private(base()), Median()), "rule must not be given for a private algorithm"),
        (lambda: private(robust(base(), Median())), "robust aggregation needs each delta"),
        (lambda: robust(robust(base(), Median()), Median()), "whose server takes the sum of deltas"),
        (lambda: robust(with_min_contributors(base(), 2), Median()), "whose server takes the sum"),
        (lambda: with_min_contributors(robust(base(), Median()), 2), "whose server takes sums"),
        (lambda: with_hostile_clients(base(), math.inf), "factor must be a finite number, got inf"),
        (lambda: with_hostile_clients(robust(base(), Median()), 2.0), "neither private nor robust"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def private(algorithm):
    settings = {"clip": 1.0, "rounds": 1, "sampling": Everyone(), "num_clients": N, "delta": 1e-3}
    return user_level_dp(algorithm, epsilon=1.0, **settings)


def test_a_class_is_no_rule():
    with pytest.raises(TypeError, match="rule must be a rule such as Median"):
        robust(base(), Median)


@pytest.mark.parametrize("selected", [None, 1])
def test_krum_never_takes_numbers_whose_squares_are_too_large(selected):
    rng = np.random.default_rng(0)
    deltas = np.asarray(rng.normal(size=(10, 4)), np.float32)
    deltas[0] = 1e20
    result = Krum(0.2, selected)(jnp.asarray(deltas), jnp.ones(10, bool), frozenset())
    assert np.abs(result).max() < 5


def test_rows_are_those_of_their_clients_also_where_whole_tables_are_sent():
    def changed(algorithm):
        simulation = Simulation(robust(algorithm, Median()), CLIENTS, Everyone())
        start = simulation.init()
        (round,) = simulation.rounds(start, 1)
        old, new = (np.asarray(s.global_params["item"]["factors"]) for s in (start, round.state))
        return np.any(old != new, 1)

    whole = fr.privacy.compressed(base(), 8, 1.0, error_feedback=True)
    assert not whole.model.tables
    np.testing.assert_array_equal(changed(whole), changed(base()))
    assert changed(whole).sum() > 3


def test_one_of_several_devices_computes_unless_several_are_asked_for(run_python):
    code = """
import jax
from fedrecon.algorithms._robust import Median, robust
from fedrecon.data._sampling import Everyone
from fedrecon.experiment.console.progress import Progress
from fedrecon.experiment.training.run import run
from fedrecon.experiment.training.run_spec import RunSpec
from fedrecon.evaluation._evaluate import evaluation_split_of
from fedrecon.simulation._simulation import Simulation
from tests.unit.algorithms.test_robust import CLIENTS, base

assert jax.local_device_count() == 2
algorithm = robust(base(), Median())
simulation = Simulation(algorithm, CLIENTS, Everyone())
(round,) = simulation.rounds(simulation.init(), 1)
try:
    Simulation(algorithm, CLIENTS, Everyone(), devices=2)
except ValueError as error:
    print(error)

class Notes(Progress):
    def note(self, text):
        print(text)

spec = RunSpec(algorithm, CLIENTS, 1, Everyone(), 0, {"all": CLIENTS}, None, evaluation_split_of(algorithm),
               1, "final", 1)
print(sorted(run(spec, progress=Notes()).evaluations))
print(*round.state.global_params["item"]["bias"][:3])
"""
    refusal, note, evaluated, bias = run_python(code, devices=2).splitlines()
    assert refusal.endswith("for an algorithm whose server takes each delta, got 2 devices")
    assert note == "rounds use one of 2 devices, since the server takes each client's delta and no sum"
    assert evaluated == "['all']"
    simulation = Simulation(robust(base(), Median()), CLIENTS, Everyone(), devices=1)
    (round,) = simulation.rounds(simulation.init(), 1)
    expected = np.asarray(round.state.global_params["item"]["bias"][:3])
    np.testing.assert_allclose([float(x) for x in bias.split()], expected, rtol=1e-5)
