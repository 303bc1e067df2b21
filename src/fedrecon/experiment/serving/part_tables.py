"""The tables of a personalisation's file: their columns in Parquet, and the same for CSV, without lists."""

from typing import TYPE_CHECKING

import numpy as np

from fedrecon import _safe_text as safe_text
from fedrecon.data._arrow_bridge import is_text, to_numpy, value_type

if TYPE_CHECKING:
    import pyarrow as pa


def without_lists(table: "pa.Table") -> "pa.Table":
    """A table without lists: a row for each entry of lists that differ in length, else a column for each.

    Lists that differ in length are those of recommendations, whose first columns are the items; their place
    in the list becomes the column `rank`, from 1.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    lists = [f.name for f in table.schema if pa.types.is_list(f.type) or pa.types.is_large_list(f.type)]
    table = table.combine_chunks()
    if lists:
        owners = pc.list_parent_indices(table[lists[0]]).combine_chunks()
        counts = pc.list_value_length(table[lists[0]]).to_numpy()
        ranks = np.concatenate([np.arange(1, count + 1) for count in counts] or [np.zeros(0, np.int64)])
        columns = {n: table[n].take(owners) for n in table.column_names if n not in lists}
        columns["rank"] = pa.array(ranks)
        columns |= {name: pc.list_flatten(table[name]) for name in lists}
        return pa.table(columns)
    columns = {}
    for field in table.schema:
        if not pa.types.is_fixed_size_list(field.type):
            columns[field.name] = table[field.name]
            continue
        values = to_numpy(table[field.name])
        for place in np.ndindex(values.shape[1:]):
            name = ".".join([field.name, *map(str, place)])
            columns[name] = pa.array(np.ascontiguousarray(values[(slice(None), *place)]))
    return pa.table(columns)


def with_safe_cells(table: "pa.Table") -> "pa.Table":
    """A table without lists whose texts, names of columns included, no spreadsheet takes for formulas."""
    import pyarrow as pa

    table = table.combine_chunks()
    columns = [safe_text.csv_cells(x) if is_text(value_type(x.type)) else x for x in table.columns]
    return pa.table(columns, [safe_text.csv_cell(name) for name in table.column_names])


def repeating_columns(schema: "pa.Schema") -> list[str]:
    """The columns, by their paths in Parquet, that are written with a dictionary of their values.

    Floating-point columns are not among them, since their values hardly repeat: building a dictionary takes
    four times as long as writing the values, and the file becomes larger.
    """
    import pyarrow as pa

    names = []
    for field in schema:
        path, kind = field.name, field.type
        while isinstance(kind, pa.ListType | pa.LargeListType | pa.FixedSizeListType):
            path, kind = f"{path}.list.element", kind.value_type
        if not pa.types.is_floating(kind):
            names.append(path)
    return names
