"""The numbers of docs/metrics.md: ours as they are measured, those of other tools by their definitions."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon.core._examples import Examples
from fedrecon.evaluation._ranking import KINDS, Ranking

ITEMS, K = 10, 3
RANKS = {"Ann": [2, 5, 7, 9], "Bob": [1], "Cem": [4, 6], "Dan": []}  # of the held-out items, from 1
TOOLS = ("trec_eval", "ir_measures", "ranx", "RecBole", "rectools", "LensKit")


def log2_of_the_next(rank):
    return math.log2(rank + 1)


def log2_from_the_third(rank):
    """Järvelin and Kekäläinen, 2002: ranks below the base of the logarithm are not discounted."""
    return max(math.log2(rank), 1.0)


def over_users(metric):
    return np.mean([metric(ranks) for ranks in RANKS.values() if ranks])


def hit(ranks):
    return float(min(ranks) <= K)


def recall(ranks, most):
    return sum(r <= K for r in ranks) / most(ranks)


def ndcg(ranks, discount, hits):
    best = sum(1 / discount(r) for r in range(1, hits(ranks) + 1))
    return sum(1 / discount(r) for r in ranks if r <= K) / best


def achievable(ranks):
    return min(K, len(ranks))


def by_definition(tool):
    """Hit, recall and NDCG of a tool, one or several of each."""
    usual = over_users(lambda x: ndcg(x, log2_of_the_next, achievable))
    recalls = [over_users(lambda x: recall(x, len))]
    ndcgs = [usual]
    if tool == "fedrecon":
        recalls.append(over_users(lambda x: recall(x, achievable)))
    if tool == "rectools":
        ndcgs = [over_users(lambda x: ndcg(x, log2_of_the_next, lambda _: K)), usual]
    if tool == "LensKit":
        recalls = [over_users(lambda x: recall(x, achievable))]
        ndcgs = [over_users(lambda x: ndcg(x, log2_from_the_third, achievable))]
    return [over_users(hit)], recalls, ndcgs


@pytest.fixture(scope="module")
def page(repository):
    return (repository / "docs" / "metrics.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("tool", ["fedrecon", *TOOLS])
def test_the_page_has_the_numbers_of_the_definitions(page, tool):
    (line,) = re.findall(rf"^\| {tool} \|(.*\.\d{{4}}.*)\|$", page, re.MULTILINE)
    cells = [[float(x) for x in re.findall(r"(?<!\d)\.\d{4}", cell)] for cell in line.split("|")]
    assert cells == [[pytest.approx(x, abs=5e-5) for x in values] for values in by_definition(tool)]


def test_ours_are_measured_so():
    scores = jnp.arange(ITEMS, 0, -1.0)  # item i has the rank i + 1
    ranking = Ranking(ITEMS, tuple((kind, K) for kind in KINDS))
    nobody = Examples({"item": np.zeros(1, np.int32)}, np.zeros(1, bool))
    sums = dict.fromkeys((f"{kind}@{K}" for kind in KINDS), (0.0, 0.0))
    for ranks in RANKS.values():
        held = np.array([*ranks, *[1] * (4 - len(ranks))], np.int32) - 1
        query = Examples({"item": held}, np.arange(4) < len(ranks))
        measured = ranking.of_scores(scores, nobody, query, jax.random.key(0))
        sums = {
            n: (t + float(measured[n].total), w + float(measured[n].weight)) for n, (t, w) in sums.items()
        }
    means = {name: float(total / weight) for name, (total, weight) in sums.items()}
    hits, recalls, ndcgs = by_definition("fedrecon")
    wanted = {"hr@3": hits[0], "recall@3": recalls[0], "recall_min@3": recalls[1], "ndcg@3": ndcgs[0]}
    assert means == pytest.approx(wanted, rel=1e-5)
    assert sums["hr@3"][1] == 3  # Dan counts nowhere
