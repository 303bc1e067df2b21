"""Describes the leaves of a model and what a round sends of them."""

from typing import NamedTuple

import jax

from fedrecon._kernels.rows import groups
from fedrecon.algorithms._base import Algorithm
from fedrecon.core._model import Model, leaves_of, origin_of
from fedrecon.core._state import is_below
from fedrecon.simulation._round import Sizes

_HEAD = ("leaf", "kind", "shape", "type", "bytes", "a round sends")
_BYTES = _HEAD.index("bytes")


class LeafDescription(NamedTuple):
    """One leaf of a model.

    Attributes:
        path: The leaf's path in the global or the local parameters.
        kind: `"global"` or `"local"`, with `"state"` or `"frozen"` behind it if the leaf is that.
        shape: The leaf's shape.
        dtype: The name of its type.
        bytes: The number of its bytes.
        sent: What of it a round sends: `"dense"`, `"rows by FIELD"` or `"nothing"`.
    """

    path: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    sent: str


class RowBytes(NamedTuple):
    """What a round sends for a row of tables that the same fields index.

    Attributes:
        leaves: The paths of the tables.
        down: Bytes that reach a client for each row that it touches.
        up: Bytes that leave it for each, the row's number included.
    """

    leaves: tuple[str, ...]
    down: int
    up: int


class Description:
    """The leaves of a model and what a round sends; it prints as a table.

    Attributes:
        leaves: The leaves, global ones first.
        down: Bytes that reach each client of a round, without the rows of tables.
        up: Bytes that leave each client of a round, without the rows of tables.
        rows: What is sent for each row of a table that a client touches.
    """

    def __init__(self, leaves: tuple[LeafDescription, ...], down: int, up: int, rows: tuple[RowBytes, ...]):
        self.leaves, self.down, self.up, self.rows = leaves, down, up, rows

    def bytes_of(self, kind: str) -> int:
        """The number of bytes of the leaves whose kind contains a word, such as `"local"` or `"state"`."""
        return sum(leaf.bytes for leaf in self.leaves if kind in leaf.kind.split())

    def __repr__(self) -> str:
        table = [_HEAD]
        for leaf in self.leaves:
            shape = " x ".join(map(str, leaf.shape)) or "scalar"
            table.append((leaf.path, leaf.kind, shape, leaf.dtype, f"{leaf.bytes:,}", leaf.sent))
        widths = [max(len(row[i]) for row in table) for i in range(len(_HEAD))]
        lines = []
        for row in table:
            cells = [x.ljust(width) for x, width in zip(row, widths, strict=True)]
            cells[_BYTES] = row[_BYTES].rjust(widths[_BYTES])
            lines.append("  ".join(cells).rstrip())
        lines.append(
            f"{self.bytes_of('global'):,} bytes global, {self.bytes_of('local'):,} bytes local, of both "
            f"{self.bytes_of('state'):,} bytes state"
        )
        lines.append(f"a round sends {self.down:,} bytes to each client and {self.up:,} bytes back")
        lines += [
            f"and for each row of {', '.join(row.leaves)} that it touches {row.down:,} and {row.up:,} bytes"
            for row in self.rows
        ]
        return "\n".join(lines)


def describe(model: Model | Algorithm) -> Description:
    """Describes the leaves of a model: shapes, bytes, what is global, local or state, and what a round sends.

    Args:
        model: The model. Of an algorithm it is the view that is trained, and what is sent is as the
            algorithm's compression and protection make it.

    Raises:
        TypeError: `model` is neither a `Model` nor an `Algorithm`.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedrecon import Mean, is_local, partition
        >>> model = partition(
        ...     lambda key: {"body": jnp.ones((4, 3)), "head": jnp.ones(3)},
        ...     lambda params, batch, key: Mean.of(batch["x"] @ params["body"] @ params["head"]),
        ...     local=is_local("head"),
        ... )
        >>> describe(model)
        leaf  kind    shape  type     bytes  a round sends
        body  global  4 x 3  float32     48  dense
        head  local   3      float32     12  nothing
        48 bytes global, 12 bytes local, of both 0 bytes state
        a round sends 48 bytes to each client and 48 bytes back
    """
    if not isinstance(model, Model | Algorithm):
        raise TypeError(f"model must be a Model or an Algorithm, got {type(model).__name__}")
    algorithm = model if isinstance(model, Algorithm) else None
    view = model.model if isinstance(model, Algorithm) else model
    key = jax.random.key(0)
    global_params = jax.eval_shape(view.init_global, key)
    local_params = jax.eval_shape(view.init_local, global_params, key)
    exchanged = algorithm is None or algorithm.exchanges == "parameters"
    whole = algorithm is not None and algorithm.privacy is not None  # row numbers would tell a client's items
    cut = groups(view.tables) if exchanged and not whole else ()
    compression = None if algorithm is None else algorithm.compression
    counts = algorithm.row_counts if algorithm is not None and whole else ()
    sizes = Sizes(global_params if exchanged else {}, cut, compression, counts)
    fields = {leaf: ", ".join(group.fields) for group in cut for leaf in group.leaves}

    def described(part: int, path: str, x: jax.ShapeDtypeStruct) -> LeafDescription:
        kind = "local" if part else "global"
        if is_below(view.state, f"{part}/{path}"):
            kind += " state"
        elif view is origin_of(view) and is_below(view.frozen, f"{part}/{path}"):
            kind += " frozen"
        sent = (
            "nothing" if part or not exchanged else f"rows by {fields[path]}" if path in fields else "dense"
        )
        return LeafDescription(path, kind, x.shape, x.dtype.name, x.size * x.dtype.itemsize, sent)

    pairs = enumerate((global_params, local_params))
    leaves = tuple(described(part, path, x) for part, tree in pairs for path, x in leaves_of(tree).items())
    none: dict[str, list[int]] = {group.name: [0] for group in cut}
    down, up = sizes.of(1, none)
    rows = []
    for group in cut:
        with_one = sizes.of(1, none | {group.name: [1]})
        rows.append(RowBytes(group.leaves, with_one[0] - down, with_one[1] - up))
    return Description(leaves, down, up, tuple(rows))
