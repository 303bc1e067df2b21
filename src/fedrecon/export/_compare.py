"""Compares an exported file with JAX over clients and random inputs."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedrecon.export._cases import Case
from fedrecon.export._check import Difference, Given, Reference, compare, run, same_list
from fedrecon.export._functions import Exported
from fedrecon.export._graph.model import Input


class Checks(NamedTuple):
    """Results of a comparison between an exported file and JAX.

    Attributes:
        max_abs_diff: The largest absolute difference of a score or prediction over random inputs and clients.
        users: Number of clients that were compared.
        topk_identical: Number of clients for which both recommend the same list, up to the order of items
            whose scores differ by less than 1e-5.
        rmse_jax: Root mean squared error of JAX over the clients' query examples; None without ratings.
        rmse_export: Root mean squared error of the file over the same examples; None without ratings.
    """

    max_abs_diff: float
    users: int
    topk_identical: int
    rmse_jax: float | None
    rmse_export: float | None


def compare_inputs(
    sessions: Sequence[Any], reference: Reference, given: Sequence[Given]
) -> tuple[float, list[Difference]]:
    """Compares files with JAX over arguments.

    Args:
        sessions: Each runs a file of the function.
        reference: The function in JAX, which is computed once for all files.
        given: The files' arguments.

    Returns:
        The largest absolute difference of a score or prediction, and the worst result of each file.
    """
    apart, worst = 0.0, [Difference(0.0, {})] * len(sessions)
    for one in given:
        wanted = reference(one)
        for i, session in enumerate(sessions):
            outputs = run(session, one)
            apart = max(apart, _apart(outputs, wanted))
            worst[i] = worst[i].or_worse(compare(outputs, wanted), one, reference)
    return apart, worst


def compare_clients(
    session: Any,
    reference: Reference,
    exported: Exported,
    clients: Sequence[Case],
) -> tuple[Checks, Difference]:
    """Compares a file with JAX over clients, and returns the worst result beside it."""
    apart, same = 0.0, 0
    worst = Difference(0.0, {})
    errors: list[tuple[float, float, int]] = []
    for case in clients:
        given = arguments(exported.inputs, case)
        outputs, wanted = run(session, given), reference(given)
        apart = max(apart, _apart(outputs, wanted))
        worst = worst.or_worse(compare(outputs, wanted), given, reference)
        if exported.top is not None:
            same += same_list(outputs, wanted)
            if "rating" in case.query:
                errors.append(_errors(case, exported.top.field, outputs, wanted))
    mine, theirs, count = (sum(x) for x in zip(*errors, strict=True)) if errors else (0, 0, 0)
    rmse = [float(np.sqrt(total / count)) if count else None for total in (theirs, mine)]
    return Checks(apart, len(clients), int(same), *rmse), worst


def _errors(case: Case, field: str, found: Any, wanted: Any) -> tuple[float, float, int]:
    rating = case.query["rating"].astype(np.float64)
    items = case.query[field]
    mine, theirs = (x["prediction"][items].astype(np.float64) for x in (found, wanted))
    return float(np.sum((mine - rating) ** 2)), float(np.sum((theirs - rating) ** 2)), len(rating)


def _apart(found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> float:
    x, y = found["prediction"].astype(np.float64), wanted["prediction"].astype(np.float64)
    if x.shape != y.shape:
        return float("inf")
    # Equal infinities, such as the logarithm of a probability of 0, do not differ.
    return float(np.max(np.abs(np.subtract(x, y, out=np.zeros_like(x), where=x != y)), initial=0.0))


def arguments(inputs: Sequence[Input], case: Case) -> dict[str, np.ndarray]:
    """A client's arguments of a file: its support and query set; items of the support set are excluded."""
    size = len(next(iter(case.support.values())))
    given: dict[str, np.ndarray] = {}
    for one in inputs:
        if one.name == "mask":
            given[one.name] = np.ones(size, bool)
        elif one.name == "exclude":
            given[one.name] = case.support[inputs[0].name].astype(np.int32)
        elif one.name == "start":
            given[one.name] = np.zeros(0, np.float32)
        elif one.name.startswith("query_"):
            given[one.name] = case.query[one.name.removeprefix("query_")].astype(one.dtype)
        else:
            given[one.name] = case.support[one.name].astype(one.dtype)
    return given
