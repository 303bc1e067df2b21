"""Checks a model's promises on a few examples of a client before the first round."""

from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import jax
import jax.numpy as jnp
import numpy as np

from fedrecon._kernels.rows import groups
from fedrecon.algorithms._base import Algorithm
from fedrecon.core._check_parameters import check_model_parameters
from fedrecon.core._costs import COSTS
from fedrecon.core._examples import EXAMPLE_MASK
from fedrecon.core._mean import Mean
from fedrecon.core._model import Model, check_loss, leaf_at, leaves_of, origin_of
from fedrecon.core._types import Batch, Params, PRNGKey
from fedrecon.data._clients import Clients
from fedrecon.errors import did_you_mean
from fedrecon.simulation._compilation import quickly
from fedrecon.simulation._validation.padding import check_padding
from fedrecon.simulation._validation.state import check_state
from fedrecon.simulation._validation.untrained_leaves import check_untrained
from fedrecon.solvers._validate_tables import Found, Trial, check_lookups, check_no_look

_EXAMPLES = 8
_KNOWN_ROWWISE: WeakSet[Model] = WeakSet()  # models that passed the check of padding in this process
_KNOWN_TRAINED: WeakSet[Model] = WeakSet()  # models whose leaves without a gradient were reported
_LOCAL_GRADIENT = "gradient by the local "
_RESERVED = ("loss", "dropped", "empty", *COSTS)  # metrics that the library reports itself


def check_model(algorithm: Algorithm, clients: Clients, global_params: Params, key: PRNGKey) -> None:
    """Checks an algorithm's model on up to eight examples of the first client that has any.

    The loss and the metrics must have an entry per example and be finite at the start, and so must the
    gradient of the loss. A row of padding in the batch must change none of them. The fields of tables may
    index the tables' rows and be used for nothing else. The parameters must be floating-point arrays, without
    undeclared state; the next state must keep shapes and types and not depend on padding.

    Args:
        algorithm: The algorithm whose `model` is tried.
        clients: The training clients, from which the examples are taken.
        global_params: The global parameters from which training starts.
        key: Random key for the local parameters and the loss.

    Warns:
        RuntimeWarning: A leaf has no gradient, and the model does not declare it frozen.

    Raises:
        TypeError: The loss or a metric is not a `Mean`.
        ValueError: A promise is broken; the message names the client, the leaf or the field, and the value.
    """
    model = algorithm.model
    check_model_parameters(model)
    _check_tables(model, clients, global_params)
    filled = np.flatnonzero(clients.num_examples)
    if not filled.size:
        return
    client = clients.take(filled[:1]).cap(_EXAMPLES)
    name, count = f"client {client.ids.tolist()[0]!r}", int(client.num_examples[0])
    examples = {field: client.column(field) for field in client.fields}
    for f in {f for t in (*model.tables, *model.local_tables) for f in t.fields}:
        examples[f] = examples[f].astype(np.int32)  # the type of ids in rounds
    if EXAMPLE_MASK in examples:
        raise ValueError(
            f"clients must not have the field {EXAMPLE_MASK!r}: batches have the mask of their padding there"
        )
    _check_shapes(model, global_params, {**examples, EXAMPLE_MASK: np.ones(count, bool)}, count, key)
    # A row of padding is added, as most clients have one: its loss counts nothing, but a NaN in its gradient
    # would still make the whole gradient NaN.
    batch = {f: np.concatenate([x, np.zeros_like(x[:1])]) for f, x in examples.items()}
    tables = groups(model.tables)
    for group in tables:
        for f in group.fields:
            batch[f][-1] = batch[f][0]
    batch[EXAMPLE_MASK] = np.arange(count + 1) < count
    # One key for all draws: their values do not matter here, and each split is one more program to compile.
    local = quickly(model.init_local)(global_params, key)
    run = quickly(lambda params, batch: _evaluate(model, params, local, batch, count, key))
    start = run(global_params, batch)
    _check_finite({f"local parameter {leaf!r}": x for leaf, x in leaves_of(local).items()}, name)
    _check_finite(start.values, name)
    _check_finite({f"gradient by {leaf!r}": x for leaf, x in start.gradients.items()}, name)
    _check_trained(model, start, batch, key)
    if origin_of(model) not in _KNOWN_ROWWISE:
        check_padding(model, run, global_params, local, batch, start, name, key)
        _KNOWN_ROWWISE.add(origin_of(model))
    check_state(model, global_params, local, batch, name, key)
    if tables:
        check_no_look(model.init_local, "init_local", global_params, tables, key)
        check_lookups(Trial(run, global_params, batch, tables, start))


def _check_trained(model: Model, start: Found, batch: Any, key: PRNGKey) -> None:
    """Looks for leaves that no gradient reaches, where a gradient is zero at the start."""
    model = origin_of(model)
    if model in _KNOWN_TRAINED:
        return
    local = [x for what, x in start.values.items() if what.startswith(_LOCAL_GRADIENT)]
    # On the host: `np.any` of a JAX array would compile a program for each shape.
    if model.frozen or not all(np.any(np.asarray(x)) for x in [*start.gradients.values(), *local]):
        check_untrained(model, batch, key)
    _KNOWN_TRAINED.add(model)


def _evaluate(
    model: Model, global_params: Params, local_params: Params, batch: Batch, count: int, key: PRNGKey
) -> Found:
    """The model's loss, metrics, penalty and gradients on a batch whose first `count` examples are real."""

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
    values |= {f"{_LOCAL_GRADIENT}{leaf!r}": x for leaf, x in leaves_of(gradients[1]).items()}
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
