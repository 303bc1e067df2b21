"""A client's part of a round as an exported function: global parameters and examples in, its update out."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedrecon._kernels.rows import groups, num_rows
from fedrecon.algorithms._base import Algorithm, Broadcast, ServerState
from fedrecon.core._examples import Examples
from fedrecon.core._model import leaves_of, path_of
from fedrecon.export._functions import Exported, Fields, flat_of, flat_size, start_client_state, traced
from fedrecon.export._graph.model import Input, Output
from fedrecon.simulation._batches import key_of

_GLOBAL, DELTA = "global/", "delta/"


def update(algorithm: Algorithm, state: ServerState, fields: Fields, examples_max: int) -> Exported:
    """The algorithm's `client_update` as a function to export.

    A table is given whole, or as the rows that the client's examples name, which then number the rows that
    are given; its delta has as many rows as are given. All random draws follow from the input `key`, the
    numbers of the key that the simulator gives the client in that round.

    Args:
        algorithm: The algorithm that is trained.
        state: The server's state, of which only the shapes are used.
        fields: Shape and type of each field of one example.
        examples_max: The largest number of examples of a client, to which its examples are padded.
    """
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state.global_params)
    sizes: dict[str, tuple[str, int]] = {}  # the name of each table's length, and its number of rows
    rows: dict[str, int] = {}
    for number, group in enumerate(groups(algorithm.model.tables)):
        count = num_rows(like, group)
        sizes |= dict.fromkeys(group.leaves, (f"r{number}", count))
        rows |= dict.fromkeys(group.fields, count - 1)
    inputs = [
        Input(name, x.dtype, ("n", *x.shape), examples_max, high=rows.get(name)) for name, x in fields.items()
    ]
    inputs.append(Input("mask", np.dtype(bool), ("n",), examples_max, fill=False))
    inputs.append(Input("round", np.dtype(np.int32), ()))
    inputs.append(Input("key", np.dtype(np.uint32), (2,)))
    key_like = jax.eval_shape(lambda: jax.random.key(0))
    state_like = jax.eval_shape(algorithm.init_client_state, like, key_like)
    start_size = flat_size(state_like, "what a client keeps")
    if start_size:
        inputs.append(Input("start", np.dtype(np.float32), ("m",), start_size, given=True))
    outputs = []
    for path, leaf in leaves_of(like).items():
        name, count = sizes.get(path, ("", 0))
        shape = (name, *leaf.shape[1:]) if name else leaf.shape
        inputs.append(Input(_GLOBAL + path, leaf.dtype, shape, count if name else None))
        outputs.append(Output(DELTA + path, shape, cut=name or None))
    outputs.append(Output("weight", ()))
    if start_size:
        outputs.append(Output("state", (start_size,)))

    def fn(*arrays: Any) -> list[Any]:
        given = iter(arrays)
        data = {name: next(given) for name in fields}
        examples = Examples(data, next(given))
        round, key = next(given), key_of(next(given))
        start = (next(given), next(given)) if start_size else None
        params = jax.tree_util.tree_map(lambda _: next(given), like)
        kept = start_client_state(algorithm, params, start, key)
        sent, kept = algorithm.client_update(Broadcast(params, round), kept, examples, key)
        total = jax.tree_util.tree_map_with_path(
            lambda path, x, whole: _dense(x, sent.rows.get(path_of(path)), whole), sent.delta.total, params
        )
        out = [*jax.tree.leaves(total), sent.delta.weight]
        return [*out, flat_of(kept)] if start_size else out

    shapes = []
    for one in inputs:
        shape = tuple(d if isinstance(d, int) else one.room for d in one.shape)
        shapes.append(jax.ShapeDtypeStruct(shape, one.dtype))
        if one.given:
            shapes.append(jax.ShapeDtypeStruct((), bool))
    call, _ = traced(fn, *shapes)
    return Exported(call, [], inputs, outputs, shapes, None, {}, leaves_of(state_like))


def _dense(delta: Any, rows: Any, table: Any) -> Any:
    """A table's delta for all of its rows, with zeros for the rows that were not sent."""
    if rows is None:
        return delta
    return jnp.zeros_like(table).at[rows].add(delta, mode="drop")
