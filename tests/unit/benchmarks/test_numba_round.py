"""The hand-written round that speed is measured against computes the round it says it does."""

import numpy as np
import pytest

pytest.importorskip("numba", reason="numba is in the extra `benchmarks`")

from benchmarks import numba_round
from tests.oracle.algorithm1 import Settings, Stage, run
from tests.oracle.factorization import Ratings
from tests.oracle.optimizers import sgd

ITEMS, FACTORS = 300, 50
RECIPE = Settings(
    reconstruct=Stage(sgd(numba_round.RECONSTRUCT_RATE), numba_round.BATCH, max_steps=numba_round.MAX_STEPS),
    update=Stage(sgd(numba_round.UPDATE_RATE), numba_round.BATCH, max_steps=numba_round.MAX_STEPS),
    server=sgd(numba_round.SERVER_RATE),
)


def cohort(seed: int, lengths: list[int]) -> list[Ratings]:
    """Clients of these lengths; items are drawn with repetition, also within a batch."""
    rng = np.random.default_rng(seed)
    return [Ratings(rng.integers(0, ITEMS, n), rng.integers(1, 6, n).astype(np.float32)) for n in lengths]


@pytest.mark.parametrize(
    "lengths",
    [[300] * 20, [1, 4, 5, 6, 10, 12, 15, 19, 300, 0, 123], [508, 511, 700, 20], [3, 5, 0]],
    ids=["full", "ragged", "past the step limit", "no query examples"],
)
def test_rounds_equal_the_transcription(lengths):
    rng = np.random.default_rng(0)
    factors = rng.uniform(-0.3, 0.3, (ITEMS, FACTORS)).astype(np.float32)
    local = rng.uniform(-0.3, 0.3, FACTORS).astype(np.float32)
    rounds = [cohort(1, lengths), cohort(2, lengths)]
    everyone = [client for clients in rounds for client in clients]
    cohorts = np.split(np.arange(len(everyone)), 2)
    expected, history = run(
        RECIPE, {"item_factors": factors}, cohorts, everyone, lambda round, client: {"user_factors": local}
    )
    work = numba_round.scratch(ITEMS, FACTORS)
    for clients, expected_metrics in zip(rounds, history, strict=True):
        numba_round.round_kernel(factors, *numba_round.flatten(clients), local, work)
        found = numba_round.metrics(work.totals)
        for name in ("mse", "accuracy", "examples"):
            assert found[name] == pytest.approx(expected_metrics[name], rel=1e-4)
        assert not any(np.any(memory) for memory in (work.moved, work.summed, work.is_touched))
    np.testing.assert_allclose(factors, expected["item_factors"], rtol=0, atol=1e-4)


def test_metrics_are_means_over_the_query_examples():
    found = numba_round.metrics(np.array([8.0, 1.0, 2.0]))
    assert found == {"mse": 4.0, "rmse": 2.0, "accuracy": 0.5, "examples": 2.0}
