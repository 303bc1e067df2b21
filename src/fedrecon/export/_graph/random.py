"""Draws by `jax.random`, written out: ONNX knows neither random keys nor the hash that JAX draws by."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedrecon.core._random import hash_pair
from fedrecon.export._graph.folding import substitute
from fedrecon.export._graph.program import Block, ExportError, Node, Value, nodes_of

_DRAWS = ("random_bits", "random_fold_in", "random_split", "random_seed")


def write_out_draws(program: Block) -> bool:
    """Replaces draws by the operations of their hash, and keys by the pairs of numbers that they hold.

    Only draws that depend on the program's inputs, or on the step of a loop, are still there after constants
    were folded. Keys become arrays with one more axis of length 2, `[*key, 2]`, in uint32.

    Args:
        program: The program, which is changed in place.

    Returns:
        Whether there was such a draw.

    Raises:
        ExportError: A key is of another kind than threefry2x32, or an operation of keys has no counterpart.
    """
    if not any(node.op in _DRAWS for node in _all_nodes(program)):
        return False
    if not jax.threefry_partitionable.value:
        raise ExportError("draws by jax.random need jax_threefry_partitionable, JAX's default, it is off")
    keys: set[Value] = set()
    for value in _all_values(program):
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key) and value not in keys:
            if str(value.dtype) != "key<fry>":
                raise ExportError(
                    f"draws by keys of {value.dtype} cannot be written, only those of threefry2x32, "
                    "JAX's default"
                )
            keys.add(value)
            value.shape, value.dtype = (*value.shape, 2), np.dtype(np.uint32)
            if value.known is not None:
                value.known = np.asarray(jax.random.key_data(value.known))
    new: dict[Value, Value] = {}
    _rewrite(program, keys, new)
    substitute(program, new)
    return True


def _all_nodes(block: Block) -> Iterator[Node]:
    for node in block.nodes:
        yield node
        for inner in node.blocks:
            yield from _all_nodes(inner)


def _all_values(block: Block) -> Iterator[Value]:
    yield from (*block.inputs, *block.outputs)
    for node in block.nodes:
        yield from (*node.inputs, *node.outputs)
        for inner in node.blocks:
            yield from _all_values(inner)


def _rewrite(block: Block, keys: set[Value], new: dict[Value, Value]) -> None:
    nodes: list[Node] = []
    for node in block.nodes:
        for inner in node.blocks:
            _rewrite(inner, keys, new)
        if node.op in ("random_wrap", "random_unwrap"):
            new[node.outputs[0]] = node.inputs[0]
        elif node.op in _DRAWS:
            new.update(zip(node.outputs, nodes_of(_draw(node), node.inputs, nodes), strict=True))
        elif not node.blocks and any(value in keys for value in (*node.inputs, *node.outputs)):
            new.update(zip(node.outputs, nodes_of(_moved(node), node.inputs, nodes), strict=True))
        else:
            nodes.append(node)
    block.nodes = nodes


def _draw(node: Node) -> Callable[..., Any]:
    """A draw as a function of pairs, the same as JAX's own."""
    if node.op == "random_seed":
        return lambda seed: jnp.stack([jnp.zeros_like(seed, jnp.uint32), seed.astype(jnp.uint32)], -1)
    if node.op == "random_fold_in":
        return lambda key, data: _hashed(key, data.astype(jnp.uint32))
    shape = tuple(node.params["shape"])
    count = np.arange(math.prod(shape), dtype=np.uint32).reshape(shape)

    def counted(key: Any) -> Any:
        here = jnp.reshape(key, (*key.shape[:-1], *[1] * len(shape), 2))
        return _hashed(here, jnp.asarray(count))

    if node.op == "random_split":
        return counted
    width = node.params["bit_width"]
    if width > 32:
        raise ExportError(f"draws of {width} random bits cannot be written, only of at most 32")

    def bits(key: Any) -> Any:
        pair = counted(key)
        return (pair[..., 0] ^ pair[..., 1]).astype(f"uint{width}")

    return bits


def _hashed(key: Any, count: Any) -> Any:
    return jnp.stack(hash_pair(key[..., 0], key[..., 1], jnp.uint32(0), count), -1)


def _moved(node: Node) -> Callable[..., Any]:
    """An operation that moves keys, as a function that moves pairs."""
    params = node.params
    if node.op in ("reshape", "squeeze"):
        shape = node.outputs[0].shape
        return lambda key: jnp.reshape(key, shape)
    if node.op == "slice":
        strides = params["strides"] or (1,) * len(params["start_indices"])
        parts = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
        index = tuple(slice(*part) for part in parts)
        return lambda key: key[index]
    if node.op == "broadcast_in_dim":
        axes = *params["broadcast_dimensions"], len(params["shape"])
        return lambda key, *_: jax.lax.broadcast_in_dim(key, (*params["shape"], 2), axes)
    if node.op == "concatenate":
        return lambda *keys: jnp.concatenate(keys, params["dimension"])
    if node.op == "stack":
        return lambda *keys: jnp.stack(keys, params["axis"])
    if node.op == "split":
        ends = np.cumsum(params["sizes"])[:-1]
        return lambda key: jnp.split(key, ends, params["axis"])
    if node.op == "transpose":
        order = *params["permutation"], len(params["permutation"])
        return lambda key: jnp.transpose(key, order)
    if node.op == "dynamic_slice":
        sizes = *params["slice_sizes"], 2
        return lambda key, *start: jax.lax.dynamic_slice(key, (*start, jnp.zeros_like(start[0])), sizes)
    if node.op == "select_n":
        return lambda which, *keys: jax.lax.select_n(
            jnp.broadcast_to(which[..., None], keys[0].shape) if which.ndim else which, *keys
        )
    raise ExportError(f"the operation {node.op!r} of JAX cannot be written in ONNX for random keys")
