"""`fedrecon describe`: shows what is in a data file: clients, examples, histograms."""

from collections.abc import Sequence
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
_PARQUET = b"PAR1"
# The most values of a field that are shown one by one.
VALUES = 20
# By task the settings under which all of the data are shown, as they are.
_UNCHANGED = {
    "movielens": ("data.cap=none", "data.order=file", "data.duplicates=all"),
    "ratings": ("data.cap=none", "data.order=file", "data.duplicates=all"),
    "next_word": ("data.sentences=none",),
}


@options.command
@click.argument("data", metavar="DATA")
@options.changes
@click.option("--client", metavar="COLUMN", help="the column that names the client, in any Parquet file")
@click.option("--item", metavar="COLUMN", help="short for --set data.columns.item=COLUMN")
@click.option("--rating", metavar="COLUMN", help="short for --set data.columns.rating=COLUMN")
@click.option("--time", metavar="COLUMN", help="short for --set data.columns.time=COLUMN")
def command(data: str, overrides: tuple[str, ...], **columns: str | None) -> None:
    r"""Shows what is in a data file: clients, examples, histograms. It is read as `run` would read it, by the
    same settings, but no client's examples are capped and nothing is refused that a user has twice.

      fedrecon describe ratings.csv --set data.columns.client=person --set data.columns.item=film \
          --set data.columns.rating=stars
      fedrecon describe texts.jsonl --set task=next_word --set data.tokenizer=pieces

    Of a Parquet file of any fields it needs to know which one names the client:
      fedrecon describe visits.parquet --client person
    """
    given = {name: column for name, column in columns.items() if column is not None}
    if set(given) == {"client"} and not any("columns" in text for text in overrides):
        print(terminal(describe_table(data, given["client"])))
        return
    named = [f"data.columns.{name}={column}" for name, column in given.items()]
    print(terminal(describe_data(data, [*overrides, *named])))


def describe_table(path: str, client: str) -> str:
    """A text about the clients in a Parquet file with an example per row.

    Args:
        path: The file.
        client: The name of the column that names the client.

    Raises:
        DataError: The file cannot be read.
    """
    from fedrecon.data._clients import Clients

    if _is_other_file(Path(path)):
        raise DataError(
            f"{path}: is not Parquet; of interactions with columns of your own --item must be given, too, "
            "and of ratings --rating"
        )
    return page(path, Clients.from_parquet(path, client))


def describe_data(path: str, settings: Sequence[str] = ()) -> str:
    """A text about the clients in a file: counts and histograms.

    Args:
        path: A rating file, or the folder or archive it is in; texts by client, as the task next_word reads
            them; or a client file (`.arrow`).
        settings: Settings such as `"data.columns.client=person"`, by which the file is read; none by default.
            Without `"task=..."` its name says whether it holds texts or ratings.

    Raises:
        DataError: The file cannot be read.
        SettingError: A setting is unknown or breaks a rule.
    """
    from fedrecon.data._client_file.file import is_client_file
    from fedrecon.data._clients import Clients
    from fedrecon.datasets.ratings._dataset import NoRatingsError
    from fedrecon.datasets.ratings._prepare import prepare
    from fedrecon.experiment import config as configs
    from fedrecon.experiment.tasks._spec import task_spec

    if is_client_file(path):
        given = configs.load(None, ["task=movielens", *settings])
        return page(path, Clients.open(path, unpacked_gib=given.data.unpacked_gib))
    task = configs.load(
        None, [f"task={'next_word' if _is_text(Path(path)) else 'movielens'}", *settings]
    ).task
    config = configs.load(None, [f"task={task}", *_UNCHANGED.get(task, ()), *settings])
    config = configs.override(config, {"data": {"path": path}}, "DATA")
    spec = task_spec(task)
    try:
        clients = spec.load_all_clients(config)
    except NoRatingsError:
        # Interactions without ratings; the task that takes them refuses items that a user has twice.
        clients = prepare(path, duplicates="all", **config.data.reading())
    form = spec.describe_source(config)
    text = page(f"{path}\nread as {form}" if form else path, clients)
    return text + _unrated_hint(clients) if getattr(config.data, "unrated", "") == "none" else text


def _unrated_hint(clients: "Clients") -> str:
    """What is to be known of ratings of 0 where the others begin at 1; "" where there are none."""
    if "rating" not in clients.fields:
        return ""
    ratings = clients.column("rating")
    zeros = int((ratings == 0).sum())
    if not zeros or ((ratings != 0) & (ratings < 1)).any():
        return ""
    return f"\n\n{zeros:,} of the ratings are 0: if 0 stands for not rated, data.unrated=0 leaves them out"


def _is_other_file(path: Path) -> bool:
    """Whether there is such a file, and it is not Parquet by its first bytes."""
    try:
        with open(path, "rb") as file:
            return file.read(len(_PARQUET)) != _PARQUET
    except OSError:
        return False


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
        used = np.unique(clients.column(name))
        words = list(ids[:1])
        # The first word of a vocabulary of texts is the empty one, which stands for padding.
        padding = len(words) and words[0] == ""
        size, seen = len(ids) - bool(padding), np.count_nonzero(used > 0) if padding else len(used)
        lines.append(f"{name:<10} {size:>12,} known, {seen:,} used{_duplicates(clients, name)}")
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
        if len(values) <= VALUES:
            bars = _bars(labels(values), counts_of_values.tolist())
            lines += ["", f"{name}: {column.dtype}", *bars]
        else:
            lines += ["", f"{name}: {column.dtype}, {values[0]:,} to {values[-1]:,}, {len(values):,} values"]
    return "\n".join(lines)


def _duplicates(clients: "Clients", field: str) -> str:
    """What the line of a field adds where clients have an id several times: how many examples come after."""
    import numpy as np

    column = clients.column(field)
    if column.ndim > 1 or clients.distinct(field):
        return ""
    pairs = clients.owners() * (int(column.max(initial=0)) + 1) + column
    again = len(pairs) - len(np.unique(pairs))
    return f"; {again:,} duplicate{'' if again == 1 else 's'}: the client has an example of it before"


def labels(values: "np.ndarray") -> list[str]:
    """Texts of different numbers, `[value]`: short, but different from each other."""
    for digits in (6, 9, 17):
        texts = [f"{value:.{digits}g}" for value in values.tolist()]
        if len(set(texts)) == len(texts) and not any("e" in text for text in texts):
            return texts
    return [str(value) for value in values.tolist()]


def _lengths(counts: "np.ndarray") -> list[str]:
    """The histogram of clients by their number of examples, in bins whose width doubles."""
    import numpy as np

    bins = np.where(counts > 0, np.floor(np.log2(np.maximum(counts, 1))).astype(int) + 1, 0)
    ranges, clients = [], []
    for b in range(int(bins.min()), int(bins.max()) + 1):
        low, high = (0, 0) if b == 0 else (2 ** (b - 1), 2**b - 1)
        ranges.append(f"{low:,}" if low == high else f"{low:,} to {high:,}")
        clients.append(int((bins == b).sum()))
    return _bars(ranges, clients)


def _bars(labels: list[str], counts: list[int]) -> list[str]:
    left, right, most = max(map(len, labels)), max(len(f"{c:,}") for c in counts), max(counts)
    return [
        f"  {label:>{left}}  {count:>{right},}  {'█' * round(WIDTH * count / most)}".rstrip()
        for label, count in zip(labels, counts, strict=True)
    ]
