"""What a model promises, tried on a few examples of a client before the first round."""

from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import jax
import jax.numpy as jnp
import numpy as np

from fedrecon._kernels.rows import groups
from fedrecon.algorithms._base import Algorithm
from fedrecon.core._costs import COSTS
from fedrecon.core._examples import EXAMPLE_MASK
from fedrecon.core._mean import Mean
from fedrecon.core._model import Model, check_loss, leaf_at, leaves_of
from fedrecon.core._types import Batch, Params, PRNGKey
from fedrecon.data._clients import Clients
from fedrecon.errors import did_you_mean
from fedrecon.simulation._compilation import quick_options
from fedrecon.solvers._validate_tables import Found, Trial, check_lookups, check_no_look

_EXAMPLES = 8
_SAME = 1e-3  # sums of other lengths are rounded otherwise, and by low-precision products by as much
_KNOWN_ROWWISE: WeakSet[Model] = WeakSet()  # models whose padding was tried in this process
_RESERVED = ("loss", "dropped", "empty", *COSTS)  # what the library reports beside a model's metrics


def check_model(algorithm: Algorithm, clients: Clients, global_params: Params, key: PRNGKey) -> None:
    """Tries an algorithm's model on some examples of the first client that has any.

    The loss and the metrics must have an entry per example and be finite at the start, and so must the
    gradient of the loss; a row of padding in the batch must change neither; the fields of tables may index
    their rows and nothing else.

    Args:
        algorithm: The algorithm whose `model` is tried.
        clients: The training clients, of which examples are drawn.
        global_params: The global parameters from which training starts.
        key: Random key for the local parameters and the loss.

    Raises:
        TypeError: The loss or a metric is no `Mean`.
        ValueError: A promise is broken; the message names the client, the leaf or the field, and the value.
    """
    model = algorithm.model
    _check_tables(model, clients, global_params)
    filled = np.flatnonzero(clients.num_examples)
    if not filled.size:
        return
    client = clients.take(filled[:1]).cap(_EXAMPLES)
    name, count = f"client {client.ids.tolist()[0]!r}", int(client.num_examples[0])
    examples = {field: client.column(field) for field in client.fields}
    for f in {f for t in (*model.tables, *model.local_tables) for f in t.fields}:
        examples[f] = examples[f].astype(np.int32)  # as rounds have them
    if EXAMPLE_MASK in examples:
        raise ValueError(
            f"clients must not have the field {EXAMPLE_MASK!r}: batches have the mask of their padding there"
        )
    _check_shapes(model, global_params, {**examples, EXAMPLE_MASK: np.ones(count, bool)}, count, key)
    # With a row of padding, as most clients have: it must not spoil the gradient.
    batch = {f: np.concatenate([x, np.zeros_like(x[:1])]) for f, x in examples.items()}
    tables = groups(model.tables)
    for group in tables:
        for f in group.fields:
            batch[f][-1] = batch[f][0]
    batch[EXAMPLE_MASK] = np.arange(count + 1) < count
    # One key for both: nothing hangs on these draws, and each split of a key is one more program to compile.
    local = _quickly(model.init_local)(global_params, key)
    run = _quickly(lambda params, batch: _evaluate(model, params, local, batch, count, key))
    start = run(global_params, batch)
    _check_finite({f"local parameter {leaf!r}": x for leaf, x in leaves_of(local).items()}, name)
    _check_finite(start.values, name)
    _check_finite({f"gradient by {leaf!r}": x for leaf, x in start.gradients.items()}, name)
    if model not in _KNOWN_ROWWISE:
        _check_padding(model, global_params, local, batch, start, name, key)
        _KNOWN_ROWWISE.add(model)
    if tables:
        check_no_look(model.init_local, "init_local", global_params, tables, key)
        check_lookups(Trial(run, global_params, batch, tables, start))


def _check_padding(
    model: Model, global_params: Params, local: Params, padded: Any, start: Found, name: str, key: PRNGKey
) -> None:
    """Holds the loss and the metrics of an example to be the same with and without padding in its batch."""
    count = int(padded[EXAMPLE_MASK].sum())

    def measure(params: Params, batch: Any) -> dict[str, Mean]:
        both = model.loss_and_metrics
        loss = model.loss(params, local, batch, key) if both is None else both(params, local, batch, key)[0]
        metrics = model.metrics(params, local, batch)
        return {"loss": loss, **{f"metric {name!r}": mean for name, mean in metrics.items()}}

    def tried(params: Params, batch: Any) -> tuple[dict[str, Mean], dict[str, Mean]]:
        # A row of zeros hardly shows where large numbers outweigh it: a copy of the first row does.
        copied = {f: jnp.concatenate([x[:count], x[:1]]) for f, x in batch.items()}
        copied[EXAMPLE_MASK] = batch[EXAMPLE_MASK]
        return measure(params, {f: x[:count] for f, x in batch.items()}), measure(params, copied)

    alone, copied = _quickly(tried)(global_params, padded)
    for what, mean in alone.items():
        halves = zip((*mean, *mean), (*start.values[what], *copied[what]), strict=True)
        pairs = [(x, y[:count]) for x, y in halves]
        for a, b in [(np.asarray(x, float), np.asarray(y, float)) for x, y in pairs]:
            wrong = np.flatnonzero(~(np.abs(a - b) <= _SAME * max(1.0, np.abs(a).max(initial=0))))
            if wrong.size:
                where, bare, filled = wrong[0], a[wrong[0]], b[wrong[0]]
                raise ValueError(
                    f"the {what} of an example must not depend on rows of padding in its batch, but that of "
                    f"example {where} of {name} is {bare:.6g} without and {filled:.6g} with one: batches of "
                    f"clients with fewer examples are filled up; what looks at other rows of "
                    f"its batch must leave out those where batch[{EXAMPLE_MASK!r}] is false"
                )


def _quickly(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn`, compiled with as little effort as it is used."""
    return jax.jit(fn, compiler_options=quick_options())


def _evaluate(
    model: Model, global_params: Params, local_params: Params, batch: Batch, count: int, key: PRNGKey
) -> Found:
    """The model on a batch of which the first `count` examples are real."""

    def objective(params: tuple[Params, Params]) -> Any:
        both = model.loss_and_metrics
        loss = model.loss(*params, batch, key) if both is None else both(*params, batch, key)[0]
        penalty = model.penalty(*params)
        real = jnp.arange(count + 1) < count
        return loss.where(real).total.sum() + penalty, (loss, penalty)

    gradients, (loss, penalty) = jax.grad(objective, has_aux=True)((global_params, local_params))
    metrics = model.metrics(global_params, local_params, batch)
    means = {"loss": loss, **{f"metric {name!r}": mean for name, mean in metrics.items()}}
    values: dict[str, Any] = {name: jax.tree.map(lambda x: x[:count], mean) for name, mean in means.items()}
    values["penalty"] = jnp.asarray(penalty, jnp.float32)
    values |= {f"gradient by the local {leaf!r}": x for leaf, x in leaves_of(gradients[1]).items()}
    return Found(values, leaves_of(gradients[0]))


def _check_tables(model: Model, clients: Clients, global_params: Params) -> None:
    for table in model.tables:
        if isinstance(table.fields, str) or not table.fields:
            raise ValueError(
                f"the fields of the table {table.leaf!r} must be a tuple of names, got {table.fields!r}"
            )
        leaf_at(global_params, table.leaf)
        for field in table.fields:
            if field not in clients.fields:
                raise ValueError(
                    f"the table {table.leaf!r} is indexed by the field {field!r}, but the clients have "
                    f"{sorted(clients.fields)}{did_you_mean(field, clients.fields)}"
                )


def _check_shapes(model: Model, global_params: Params, examples: Batch, count: int, key: PRNGKey) -> None:
    def shapes(fn: Callable[..., Any], *args: Any) -> Any:
        try:
            return jax.eval_shape(fn, *args)
        except KeyError as error:
            missing = error.args[0]
            if not isinstance(missing, str) or missing in examples:
                raise
            raise ValueError(
                f"the model looks up {missing!r}, but a batch has the fields "
                f"{sorted(set(examples) - {EXAMPLE_MASK})}"
                f"{did_you_mean(missing, examples)}"
            ) from error

    local = jax.eval_shape(model.init_local, global_params, key)
    loss = shapes(model.loss, global_params, local, examples, key)
    metrics = shapes(model.metrics, global_params, local, examples)
    _check_measured(loss, metrics, count)
    if model.loss_and_metrics is not None:
        both = shapes(model.loss_and_metrics, global_params, local, examples, key)
        if isinstance(both, Mean) or not (isinstance(both, tuple) and len(both) == 2):
            kind = type(both).__name__
            raise TypeError(f"a model's loss_and_metrics must return a pair of a Mean and a dict, got {kind}")
        _check_measured(*both, count)
    penalty = jax.eval_shape(model.penalty, global_params, local)
    if jnp.shape(penalty) != ():
        raise ValueError(f"a model's penalty must be a scalar, got the shape {jnp.shape(penalty)}")


def _check_measured(loss: object, metrics: object, count: int) -> None:
    check_loss(loss, count)
    if not isinstance(metrics, dict):
        raise TypeError(f"a model's metrics must be a dict of Mean, got {type(metrics).__name__}")
    for name, mean in metrics.items():
        if name in _RESERVED:
            raise ValueError(f"a model's metric must not be called {name!r}: the library reports its own")
        rule = f"metric {name!r} must be a Mean with one entry per example"
        if not isinstance(mean, Mean):
            raise TypeError(f"{rule}, got {type(mean).__name__}")
        for part, x in (("total", mean.total), ("weight", mean.weight)):
            if jnp.shape(x) != (count,):
                raise ValueError(f"{rule}, {part} of shape ({count},); got {jnp.shape(x)}")


def _check_finite(values: dict[str, Any], client: str) -> None:
    for what, x in values.items():
        total = np.asarray(x.total if isinstance(x, Mean) else x)
        bad = np.flatnonzero(~np.isfinite(total))
        if bad.size:
            example = f"example {bad[0]} of " if isinstance(x, Mean) else ""
            raise ValueError(
                f"the {what} must be finite at the start, got {total.flat[bad[0]]} at {example}{client}; "
                "look for missing values in its fields, and in the model for logarithms, roots and divisions "
                "of 0, which all fields hold in rows of padding; or start from smaller parameters"
            )
