"""Evaluates clients with an exported file and with JAX."""

from collections.abc import Sequence
from typing import Any

from fedrecon.export._cases import Case
from fedrecon.export._check import Reference
from fedrecon.export._compare import compare_clients
from fedrecon.export._export import Subject
from fedrecon.export._functions import personal
from fedrecon.export._graph.program import ExportError
from fedrecon.export._session import Session


def through(session: Session, subject: Subject, clients: Sequence[Case]) -> dict[str, Any]:
    """Evaluates clients through a file, and in JAX with the run's parameters and the file's key.

    Args:
        session: The open export.
        subject: The run from which the export was made.
        clients: The clients to evaluate; no support set may be longer than the export's `support_max`.

    Returns:
        The fields of `Checks` by their names, with the export's `seed` and `precision`.

    Raises:
        ExportError: The export is of another run or round, or a client has too many examples for it.
    """
    description = session.description
    here = subject.algorithm.name, int(subject.state.round)
    there = description["algorithm"], description["round"]
    if here != there:
        raise ExportError(
            f"{session.folder}: must be an export of this run, of {here[0]} after round {here[1]}, it is of "
            f"{there[0]} after round {there[1]}"
        )
    longest = max(len(next(iter(case.support.values()))) for case in clients)
    if longest > session.support_max:
        raise ExportError(
            f"{session.folder}: must take {longest} support examples, as the longest client has, it takes "
            f"{session.support_max}: export it with --support-max {longest}"
        )
    exported = personal(
        subject.algorithm,
        subject.state,
        subject.fields,
        session.support_max,
        subject.top,
        description["seed"],
    )
    reference = Reference(exported.fn, exported.weights, exported.inputs, exported.outputs)
    checks, _ = compare_clients(session.runtime, reference, exported, clients)
    return {**checks._asdict(), "seed": description["seed"], "precision": description["precision"]}
