"""The audits of runs: the file of a run folder, and a table of them. It is read without JAX."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from fedrecon._files import write_atomically
from fedrecon.experiment.analysis.runs import Method
from fedrecon.experiment.reporting.tables import Cell, Column, ReportTable
from fedrecon.experiment.storage.digests import finite, read_json, seal

Observer = Literal["update", "sum", "model"]
OBSERVERS: tuple[Observer, ...] = ("update", "sum", "model")
AUDIT = "audit.json"
# The key of the audits of other observers in `audit.json`.
OTHERS = "other_observers"
CONFIDENCE = 0.95
NAME = "audit"
# What an audit finds out, from 0 to 1, with the label of each.
SHARES = {
    "item_precision": "items: precision",
    "item_recall": "items: recall",
    "vector_cosine": "user vector: cosine",
    "users_ratings_exact": "users with all ratings exact",
    "membership_auc": "membership: AUC",
    "popularity_auc": "AUC of popularity alone",
}
NOT_COVERED = "An audit's numbers are exact results of attacks on training clients, which no epsilon covers"
_NOTE = (
    "What an observer found out about training clients from single updates, from the sum of a cohort's "
    "updates after noise, or from the released model; empty cells were not attacked. A bound of epsilon "
    f"above the ledger's refutes the ledger, except with the error that the confidence leaves. {NOT_COVERED}."
)


@dataclass(frozen=True)
class Audit:
    """What an observer of a run found out. A number is None where it was not attacked.

    Attributes:
        observer: The kind of observer: one that sees a client's `"update"`, the `"sum"` of a cohort's updates
            as the server has it after noise, or the released `"model"`.
        round: The round whose parameters the attacked clients started from.
        clients_summed: The number of clients in the sum that was attacked; None for the model.
        item_precision: The share of the items that the attack ascribes to a client which that client rated.
        item_recall: The share of the clients' items that the attack recovered.
        vector_cosine: The mean cosine of recovered and true user vectors, 0 for a client that was not
            recovered.
        users_ratings_exact: The share of clients of whom all query ratings were recovered exactly.
        membership_auc: The area under the ROC curve of the observer's guess whether a client has an item; for
            the model, whether a client was trained on.
        popularity_auc: The same by the items' numbers of raters alone; None for the model.
        epsilon_lower: A number that the epsilon of what the observer sees exceeds, with `confidence`.
        epsilon: The epsilon of the run's ledger; None without one, and for updates, which no ledger covers.
        confidence: The probability with which `epsilon_lower` is no overestimate; 0.95 by default.
        trials: The number of canary runs, with and without, behind `epsilon_lower`; 0 by default.
    """

    observer: Observer
    round: int
    clients_summed: int | None
    item_precision: float | None
    item_recall: float | None
    vector_cosine: float | None
    users_ratings_exact: float | None
    membership_auc: float
    popularity_auc: float | None
    epsilon_lower: float
    epsilon: float | None
    confidence: float = CONFIDENCE
    trials: int = 0

    def remark(self) -> str:
        """What the numbers mean, in a sentence."""
        if self.observer == "update":
            return (
                "Updates are seen by the server before noise is added to their sum: whatever a ledger "
                "promises, they are protected only from those who do not see them: the server must be trusted"
            )
        if self.epsilon is None:
            return "No noise protects what this observer sees"
        return (
            f"The ledger promises epsilon {self.epsilon:.4g}; an honest mechanism exceeds it here in at most "
            f"{1 - self.confidence:.0%} of audits"
        )


def read_audits(run: Path) -> list[Audit]:
    """The last audit of each observer of a run, the latest first; none if there was no audit.

    Raises:
        RunError: `audit.json` is not what was written.
    """
    if not (run / AUDIT).is_file():
        return []
    values = read_json(run / AUDIT)
    others = values.pop(OTHERS)
    return [Audit(**values), *(Audit(**other) for other in others)]


def write_audit(run: Path, audit: Audit) -> None:
    """Writes an audit, and keeps those of other observers that were made before."""
    others = [asdict(x) for x in read_audits(run) if x.observer != audit.observer]
    values = seal(finite({**asdict(audit), OTHERS: others}))
    write_atomically(run / AUDIT, json.dumps(values, indent=2) + "\n")


def labelled_audits(methods: Sequence[Method]) -> Iterator[tuple[str, Audit]]:
    """The audits of all runs of methods, each with the method's label."""
    for method in methods:
        for run in method.runs:
            for audit in read_audits(run.path):
                yield method.label, audit


def audit_table(audits: Sequence[tuple[str, Audit]]) -> ReportTable:
    """A row for each audit.

    Args:
        audits: The audits with their methods' labels, as `labelled_audits` gives them; at least one.
    """
    columns = [
        Column("method"),
        Column("observer"),
        Column("clients summed", "{:,.0f}".format),
        *(Column(label, "{:.3f}".format) for label in SHARES.values()),
        Column("epsilon: lower bound", "{:.3g}".format),
        Column("confidence", "{:.0%}".format),
        Column("epsilon: ledger", "{:.4g}".format),
    ]
    remarks = dict.fromkeys(f"{audit.remark()}." for _, audit in audits if audit.observer == "update")
    rows = tuple((label, *_cells(audit)) for label, audit in audits)
    return ReportTable(NAME, "Audit", tuple(columns), rows, " ".join([_NOTE, *remarks]))


def _cells(audit: Audit) -> Iterator[Cell]:
    yield audit.observer
    yield audit.clients_summed
    for name in SHARES:
        yield getattr(audit, name)
    yield from (audit.epsilon_lower, audit.confidence, audit.epsilon)
