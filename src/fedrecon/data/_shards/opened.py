"""Opens a folder of shards as one federation."""

from pathlib import Path
from typing import Any

from fedrecon.core._array_like import FilePath
from fedrecon.data._shards.columns import ShardFiles
from fedrecon.data._shards.index import Index
from fedrecon.data._shards.rows import IndexedColumn


def open_folder(path: FilePath) -> tuple[Any, ...]:
    """What `Clients` is made of, of a folder of shards; see `Clients.open`."""
    index = Index(Path(path))
    columns = ShardFiles(index).columns()
    ids, keys, starts = (IndexedColumn(index, name) for name in ("client", "key", "start"))
    stats = {name: field.stats for name, field in index.fields.items()}
    return ids, keys, starts, index.column("count"), columns, index.vocabularies, stats
