"""Whether the loss and the metrics of an example depend on what its batch is filled up with.

Compiling a model for one more shape takes most of the time of a check. So the model is first run on batches
of one shape that differ in the last row alone, and traced, but not compiled, for two lengths. Only where they
tell that an example may depend on the rest of its batch is it compiled for a batch without padding.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from fedrecon.core._examples import EXAMPLE_MASK
from fedrecon.core._mean import Mean
from fedrecon.core._model import Model
from fedrecon.core._types import Batch, Params, PRNGKey
from fedrecon.simulation._compilation import quickly
from fedrecon.solvers._validate_tables import Found

# The numbers of a leaf that tell whether it is constant: more would take time with large tables.
_LOOKED_AT = 64
_SAME = 1e-3  # sums of other lengths are rounded otherwise, and by low-precision products by as much


def check_padding(
    model: Model,
    run: Callable[[Params, Any], Found],
    global_params: Params,
    local: Params,
    padded: Batch,
    start: Found,
    name: str,
    key: PRNGKey,
) -> None:
    """Holds the loss and the metrics of an example to be the same with and without padding in its batch.

    Args:
        model: The model that is tried.
        run: The compiled program that gave `start`.
        global_params: The global parameters.
        local: The local parameters.
        padded: The batch, whose last row is padding.
        start: The values that `run` gave for the padded batch.
        name: The name of the client in the message.
        key: The random key of the loss.

    Raises:
        ValueError: A value differs; the message names it, the example and the client.
    """
    count = int(padded[EXAMPLE_MASK].sum())

    def measure(params: Params, batch: Batch) -> dict[str, Mean]:
        both = model.loss_and_metrics
        loss = model.loss(params, local, batch, key) if both is None else both(params, local, batch, key)[0]
        metrics = model.metrics(params, local, batch)
        return {"loss": loss, **{f"metric {name!r}": mean for name, mean in metrics.items()}}

    shorter = {f: x[:count] for f, x in padded.items()}
    # A row of zeros hardly shows where large numbers outweigh it: a copy of the first row does.
    copied = {f: np.concatenate([x[:count], x[:1]]) for f, x in padded.items()}
    masked = {**copied, EXAMPLE_MASK: padded[EXAMPLE_MASK]}
    tried = [(global_params, start.values)]
    shifted = _shift_constants(global_params)
    if shifted is not None and _all_finite(values := run(shifted, padded).values):
        tried.append((shifted, values))
    copies = [run(params, masked).values for params, _ in tried]
    alike = not any(
        _differences(values, other)
        for (params, values), with_copy in zip(tried, copies, strict=True)
        for other in (with_copy, run(params, copied).values)
    )
    if alike and not _size_matters(measure, global_params, shorter, masked):
        return
    measure_alone = quickly(measure)
    for (params, values), with_copy in zip(tried, copies, strict=True):
        alone = measure_alone(params, shorter)
        for other in (values, with_copy):
            for what, where, bare, filled in _differences(alone, other):
                raise ValueError(
                    f"the {what} of an example must not depend on rows of padding in its batch, but that of "
                    f"example {where} of {name} is {bare:.6g} without and {filled:.6g} with one: batches of "
                    f"clients with fewer examples are filled up; what looks at other rows of "
                    f"its batch must leave out those where batch[{EXAMPLE_MASK!r}] is false"
                )


def _shift_constants(params: Params) -> Params | None:
    """Parameters with small numbers in the leaves that start as one number, such as zero.

    There, all rows of a batch may have equal values, which agree with their mean and every other statistic.

    Returns:
        The parameters; None where no leaf starts as one number.
    """
    changed = []

    def shift(leaf: Any) -> Any:
        values = np.asarray(leaf)
        flat = values.reshape(-1)[:_LOOKED_AT]
        if not flat.size or not jnp.issubdtype(values.dtype, jnp.floating) or np.any(flat != flat[0]):
            return leaf
        changed.append(True)
        # By NumPy, since each operation of JAX would be compiled first.
        return values + (0.1 * np.cos(np.arange(values.size))).astype(values.dtype).reshape(values.shape)

    shifted = jax.tree.map(shift, params)
    return shifted if changed else None


def _all_finite(values: Mapping[str, Any]) -> bool:
    return all(np.isfinite(np.asarray(x, float)).all() for x in jax.tree.leaves(dict(values)))


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[str, int, float, float]]:
    """The first example of each value of which two results differ: name, place and the two numbers."""
    differences = []
    for what, mean in one.items():
        if not isinstance(mean, Mean):
            continue
        for x, y in zip(mean, other[what], strict=True):
            a = np.asarray(x, float)
            b = np.asarray(y, float)[: len(a)]
            wrong = np.flatnonzero(~(np.abs(a - b) <= _SAME * max(1.0, np.abs(a).max(initial=0))))
            if wrong.size:
                differences.append((what, int(wrong[0]), float(a[wrong[0]]), float(b[wrong[0]])))
                break
    return differences


def _size_matters(fn: Callable[..., Any], global_params: Params, *batches: Batch) -> bool:
    """Whether a number in a function's program depends on the length of its batch, as in a division by it."""
    programs = [jax.make_jaxpr(fn)(global_params, batch) for batch in batches]
    one, other = ({_content(x) for x in _numbers(closed.jaxpr, closed.consts)} for closed in programs)
    return one != other


def _numbers(program: core.Jaxpr, constants: Any) -> Iterator[Any]:
    """The numbers and arrays in a program that do not come from its arguments, shapes aside."""
    yield from constants
    for equation in program.eqns:
        yield from (x.val for x in equation.invars if isinstance(x, core.Literal))
        for value in equation.params.values():
            for part in value if isinstance(value, list | tuple) else (value,):
                if isinstance(part, core.ClosedJaxpr):
                    yield from _numbers(part.jaxpr, part.consts)
                elif isinstance(part, core.Jaxpr):
                    yield from _numbers(part, ())
                elif isinstance(part, float):
                    yield part


def _content(x: Any) -> tuple[Any, ...]:
    """A number or an array as something that can be compared and hashed."""
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    array = np.asarray(x)
    return array.dtype.str, array.shape, array.tobytes()
