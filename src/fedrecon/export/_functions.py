"""The function of an export, put together from the algorithm's own functions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun

from fedrecon.algorithms._base import Algorithm, Broadcast, ServerState
from fedrecon.algorithms._building_blocks import subkeys
from fedrecon.core._examples import Examples
from fedrecon.core._model import leaves_of
from fedrecon.core._types import Params
from fedrecon.errors import did_you_mean
from fedrecon.export._graph.model import Input, Output
from fedrecon.export._graph.program import ExportError
from fedrecon.serving._personalization import TopK

Fields = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Exported:
    """A function to export, with the inputs and outputs that its file has.

    Attributes:
        fn: The function, `(*weights, *inputs) -> outputs`.
        weights: The leaves of the global parameters, which come first among the function's arguments.
        inputs: The file's inputs, in the order of the function's other arguments.
        outputs: The file's outputs, in the order of the function's results.
        shapes: Shapes and types of the function's arguments after the weights.
        top: The item field and the number of items to recommend; None where the model predicts for features
            that the caller gives.
        local: Shapes and types of the local parameters' leaves by their paths.
        start: Shapes and types of the client state's leaves by their paths; empty for a stateless algorithm.
    """

    fn: Callable[..., Any]
    weights: list[Any]
    inputs: list[Input]
    outputs: list[Output]
    shapes: list[Any]
    top: TopK | None
    local: dict[str, Any]
    start: dict[str, Any]


def personal(
    algorithm: Algorithm, state: ServerState, fields: Fields, support_max: int, top: TopK | None, seed: int
) -> Exported:
    """One client's reconstruction and prediction as a function to export.

    Args:
        algorithm: The algorithm whose `personalize` and `personal_model` are used.
        state: The server's state with the trained global parameters.
        fields: Shape and type of each field of one example.
        support_max: The largest number of support examples, to which the support set is padded.
        top: The item field and the number of items to recommend; None to predict for features that the
            caller gives.
        seed: Seed of the client's random draws.
    """
    model = algorithm.personal_model
    leaves, tree = jax.tree.flatten(state.global_params)
    leaves = [np.asarray(x) for x in leaves]
    round = np.int32(state.round)
    like = jax.tree.unflatten(tree, [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves])
    key_like = jax.eval_shape(lambda: jax.random.key(seed))
    start_like = jax.eval_shape(algorithm.init_client_state, like, key_like)
    start_size = flat_size(start_like, "what a client keeps")
    first = jax.ShapeDtypeStruct((start_size,), np.float32), jax.ShapeDtypeStruct((), bool)

    def personalize(g: Params, support: Examples, start: Any, key: Any) -> Params:
        state = start_client_state(algorithm, g, start if start_size else None, key)
        return algorithm.personalize(Broadcast(g, jnp.int32(round)), state, support, key)

    blank = jax.eval_shape(lambda: _blank(fields, support_max))
    reconstruct, local_like = traced(personalize, like, blank, first, key_like)
    local_size = flat_size(local_like, "the local parameters")
    rows = _rows(algorithm, state.global_params)

    inputs = [
        Input(name, x.dtype, ("n", *x.shape), support_max, high=rows.get(name)) for name, x in fields.items()
    ]
    inputs.append(Input("mask", np.dtype(bool), ("n",), support_max, fill=False))
    shapes = [jax.ShapeDtypeStruct((support_max, *x.shape[1:]), x.dtype) for x in map(_as_row, inputs)]
    if top is not None:
        inputs.append(Input("exclude", np.dtype(np.int32), ("e",), fill=top.items))
        (length,) = jax.export.symbolic_shape("e")
        shapes.append(jax.ShapeDtypeStruct((length,), np.int32))
        features: dict[str, Any] = {}
    else:
        (length,) = jax.export.symbolic_shape("q")
        features = {
            name: jax.ShapeDtypeStruct((length, *x.shape), x.dtype)
            for name, x in fields.items()
            if name in _read_by_predict(algorithm, like, local_like, fields)
        }
        for name, x in features.items():
            inputs.append(Input(f"query_{name}", x.dtype, ("q", *x.shape[1:]), high=rows.get(name)))
            shapes.append(x)
    if start_size:
        inputs.append(Input("start", np.dtype(np.float32), ("m",), start_size, given=True))
        shapes += first

    def fn(*arrays: Any) -> dict[str, Any]:
        given = iter(arrays)
        g = jax.tree.unflatten(tree, [next(given) for _ in leaves])
        data = {name: next(given) for name in fields}
        support = Examples(data, next(given))
        exclude = next(given) if top is not None else None
        query = {name: next(given) for name in features}
        start = (next(given), next(given)) if start_size else (jnp.zeros(0), jnp.zeros((), bool))
        local = reconstruct(g, support, start, jax.random.key(seed))
        out: dict[str, Any] = {}
        assert model.predict is not None
        if top is not None:
            scores = model.predict(g, local, {top.field: jnp.arange(top.items)})
            # Zeros get one sign: runtimes differ in whether 0.0 is higher than -0.0.
            scores = jnp.where(scores == 0, 0.0, scores)
            values, items = jax.lax.top_k(scores.at[exclude].set(-jnp.inf, mode="drop"), top.count)
            out = {"top_item": items, "top_score": values, "prediction": scores}
        else:
            out = {"prediction": model.predict(g, local, query)}
        out["local"] = flat_of(local)
        return out

    outputs = []
    if top is not None:
        outputs = [
            Output("top_item", (top.count,)),
            Output("top_score", (top.count,)),
            Output("prediction", (top.items,)),
        ]
    else:
        assert model.predict is not None
        predicted = jax.eval_shape(model.predict, like, local_like, features)
        rest = tuple(int(d) for d in predicted.shape[1:])
        outputs = [Output("prediction", ("q", *rest))]
    outputs.append(Output("local", (local_size,)))

    def reorder(*arrays: Any) -> list[Any]:
        made = fn(*arrays)
        return [made[output.name] for output in outputs]

    return Exported(
        reorder, leaves, inputs, outputs, shapes, top, leaves_of(local_like), leaves_of(start_like)
    )


def _as_row(one: Input) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, *(d for d in one.shape[1:] if isinstance(d, int))), one.dtype)


def traced(fn: Callable[..., Any], *args: Any) -> tuple[Callable[..., Any], Any]:
    """A function that is traced here once, and the shapes and types of its result.

    An export needs a function as a program and, compiled, as the reference. Solvers take far longer to trace
    than the finished trace takes to be read again.

    Args:
        fn: The function of pytrees of arrays, and of a pytree of arrays as its result.
        args: Shapes and types of the arguments.
    """
    closed, like = jax.make_jaxpr(fn, return_shape=True)(*args)
    call, tree = jaxpr_as_fun(closed), jax.tree.structure(like)
    return lambda *given: jax.tree.unflatten(tree, call(*jax.tree.leaves(given))), like


def start_client_state(algorithm: Algorithm, g: Params, start: Any, key: Any) -> Any:
    """The client state from which a client computes: the given one, or the algorithm's initial one.

    Args:
        algorithm: The algorithm whose `init_client_state` makes the initial state.
        g: The global parameters.
        start: The client's state as one vector, and whether the caller gave one; None for a stateless
            algorithm.
        key: The client's random key, from which the initial state is drawn.
    """
    state = algorithm.init_client_state(g, *subkeys(key, 1, first=2))
    if start is None:
        return state
    flat, given = start
    return jax.tree.map(lambda a, b: jnp.where(given, a, b), _unflat(flat, state), state)


def _blank(fields: Fields, size: int) -> Examples:
    return Examples(
        {n: jnp.zeros((size, *x.shape), x.dtype) for n, x in fields.items()}, jnp.zeros(size, bool)
    )


def flat_size(like: Params, what: str) -> int:
    """Number of entries in a pytree of float32 arrays.

    Raises:
        ExportError: A leaf is not float32.
    """
    for path, leaf in leaves_of(like).items():
        if leaf.dtype != np.float32:
            raise ExportError(
                f"{what} must be 32-bit numbers, so that a device can keep them as one vector; "
                f"{path!r} is of {leaf.dtype}"
            )
    return sum(int(leaf.size) for leaf in jax.tree.leaves(like))


def flat_of(tree: Params) -> Any:
    """A pytree as one vector, leaf after leaf."""
    leaves = [jnp.reshape(x, -1) for x in jax.tree.leaves(tree)]
    return jnp.concatenate(leaves) if leaves else jnp.zeros(0)


def _unflat(flat: Any, like: Params) -> Params:
    leaves, tree = jax.tree.flatten(like)
    ends = np.cumsum([leaf.size for leaf in leaves])
    parts = [flat[end - leaf.size : end].reshape(leaf.shape) for end, leaf in zip(ends, leaves, strict=True)]
    return jax.tree.unflatten(tree, parts)


def _rows(algorithm: Algorithm, global_params: Params) -> dict[str, int]:
    """The number of the last row of each field that indexes tables."""
    leaves = leaves_of(global_params)
    rows: dict[str, int] = {}
    for table in algorithm.personal_model.tables:
        for field in table.fields:
            rows[field] = min(leaves[table.leaf].shape[0] - 1, rows.get(field, 2**31 - 2))
    return rows


class _Asked(dict):
    """A dict of features that remembers which of them were looked up."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.names.add(name)
        return super().__getitem__(name)


def _read_by_predict(algorithm: Algorithm, like: Params, local: Params, fields: Fields) -> set[str]:
    """The fields that the model's `predict` looks up."""
    predict = algorithm.personal_model.predict
    if predict is None:
        raise ExportError("the model has no predict: it can be trained and evaluated, and not exported")
    names: set[str] = set()

    def predict_once(g: Params, x: Params) -> Any:
        asked = _Asked({n: jnp.zeros((1, *f.shape), f.dtype) for n, f in fields.items()})
        try:
            return predict(g, x, asked)
        except KeyError as error:
            missing = str(error.args[0])
            raise ExportError(
                f"the model's predict looks up {missing!r}, and the examples have {sorted(fields)}"
                f"{did_you_mean(missing, fields)}"
            ) from error
        finally:
            names.update(asked.names)

    jax.eval_shape(predict_once, like, local)
    return names
