"""The audits of runs as a table."""

from collections.abc import Iterator, Sequence

from fedrecon.experiment.analysis.audit import Audit, read_audits
from fedrecon.experiment.analysis.runs import Method
from fedrecon.experiment.reporting.tables import Cell, Column, ReportTable

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
_NOTE = (
    "What an observer found out about training clients from single updates, from the sum of a cohort's "
    "updates after noise, or from the released model; empty cells were not attacked. A bound of epsilon "
    "above the ledger's refutes the ledger, except with the error that the confidence leaves."
)


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
