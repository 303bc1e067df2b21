"""`fedrecon describe`: shows what is in a data file: clients, examples, histograms."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedrecon._safe_text import terminal
from fedrecon.errors import DataError
from fedrecon.experiment.cli import options

if TYPE_CHECKING:
    import numpy as np

    from fedrecon.data._clients import Clients

# The width in characters of the longest bar of a histogram.
WIDTH = 40


@options.command
@click.argument("data", metavar="DATA")
@click.option("--client", metavar="COLUMN", help="the column that names the client, in any Parquet file")
@click.option("--item", metavar="COLUMN", help="the column of the item, in ratings with columns of your own")
@click.option("--rating", metavar="COLUMN", help="the column of the rating, in such ratings")
@click.option("--time", metavar="COLUMN", help="the column of the time, in such ratings")
def command(data: str, **columns: str | None) -> None:
    """Shows what is in a data file: clients, examples, histograms."""
    given = {name: column for name, column in columns.items() if column is not None}
    print(terminal(describe_data(data, given)))


def describe_data(path: str, columns: Mapping[str, str] | None = None) -> str:
    """A text about the clients in a file: counts and histograms.

    Args:
        path: A rating file, or the folder or archive it is in; texts by client, as the task next_word reads
            them; a client file (`.arrow`); or with `columns` a CSV or Parquet file.
        columns: Names of columns by their roles: `"client"` alone for any Parquet file, or `"client"`,
            `"item"`, `"rating"` and maybe `"time"` for ratings. None, the default, for the other files.

    Raises:
        DataError: The file cannot be read.
    """
    from fedrecon.data._clients import Clients

    if columns is not None and set(columns) == {"client"}:
        if Path(path).suffix.lower() in (".csv", ".tsv", ".dat", ".data"):
            raise DataError(f"{path}: ratings with columns of your own need --item and --rating, too")
        clients = Clients.from_parquet(path, columns["client"])
    elif Path(path).suffix == ".arrow":
        clients = Clients.open(path)
    elif not columns and _is_text(Path(path)):
        from fedrecon.datasets.text._prepare import prepare as prepare_texts

        clients = prepare_texts(path, sentences=None)
    else:
        from fedrecon.datasets.ratings._prepare import prepare

        # Nothing is refused, since the data are only described: items that a user rated twice count twice.
        clients = prepare(path, columns=columns or None, duplicates="all")
    return page(path, clients)


def _is_text(path: Path) -> bool:
    """Whether a file or folder holds texts by client rather than ratings."""
    from fedrecon.datasets.text._load import holds_texts

    return holds_texts(path)


def page(title: str, clients: "Clients") -> str:
    """The text about some clients: counts, and histograms of examples per client and of fields.

    Args:
        title: The first line.
        clients: The clients.
    """
    import numpy as np

    counts = np.asarray(clients.num_examples)
    lines = [title, "", f"clients    {len(clients):>12,}", f"examples   {int(counts.sum()):>12,}"]
    for name, ids in clients.vocabularies.items():
        lines.append(f"{name:<10} {len(ids):>12,} known, {len(np.unique(clients.column(name))):,} used")
    if len(counts):
        names = {"least": 0.0, "10%": 0.1, "median": 0.5, "90%": 0.9, "most": 1.0}
        shown = "  ".join(f"{name} {round(np.quantile(counts, q)):,}" for name, q in names.items())
        lines += ["", f"Examples per client: {shown}", *_lengths(counts)]
    for name in clients.fields:
        column = clients.column(name)
        if not column.size or column.ndim > 1:
            lines += ["", f"{name}: {column.dtype}, of shape {column.shape}"]
            continue
        values, counts_of_values = np.unique(column, return_counts=True)
        if len(values) <= 20:
            bars = _bars([f"{v:g}" for v in values.tolist()], counts_of_values.tolist())
            lines += ["", f"{name}: {column.dtype}", *bars]
        else:
            lines += ["", f"{name}: {column.dtype}, {values[0]:,} to {values[-1]:,}, {len(values):,} values"]
    return "\n".join(lines)


def _lengths(counts: "np.ndarray") -> list[str]:
    """The histogram of clients by their number of examples, in bins whose width doubles."""
    import numpy as np

    bins = np.where(counts > 0, np.floor(np.log2(np.maximum(counts, 1))).astype(int) + 1, 0)
    labels, clients = [], []
    for b in range(int(bins.min()), int(bins.max()) + 1):
        low, high = (0, 0) if b == 0 else (2 ** (b - 1), 2**b - 1)
        labels.append(f"{low:,}" if low == high else f"{low:,} to {high:,}")
        clients.append(int((bins == b).sum()))
    return _bars(labels, clients)


def _bars(labels: list[str], counts: list[int]) -> list[str]:
    left, right, most = max(map(len, labels)), max(len(f"{c:,}") for c in counts), max(counts)
    return [
        f"  {label:>{left}}  {count:>{right},}  {'█' * round(WIDTH * count / most)}".rstrip()
        for label, count in zip(labels, counts, strict=True)
    ]
