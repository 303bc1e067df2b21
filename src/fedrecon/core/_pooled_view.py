"""The view of a model in which the server holds the local parameters of all clients."""

from collections.abc import Callable
from typing import Any

import jax

from fedrecon.core._mean import Mean
from fedrecon.core._model import Model, Table, leaves_of
from fedrecon.core._types import Batch, Metrics, Params, PRNGKey
from fedrecon.errors import whole_number

ROW = "row"


def pooled(model: Model, num_clients: int, field: str = ROW) -> Model:
    """The view of a model in which the local parameters of all clients are tables on the server.

    Its global parameters are `(global_params, local_params)`, the latter with a leading axis `[client]`, and
    it has no local ones. A batch may mix the examples of any clients; `field` holds the client of each.

    Args:
        model: A model whose loss of an example depends on no other example of its batch.
        num_clients: The number of clients, which is the number of rows of the tables of local parameters.
        field: Name of the batch field that holds the client's row, `[example]`, whole numbers below
            `num_clients`; `"row"` by default.

    Returns:
        The view, whose tables are those of the model and one for each leaf of the local parameters.

    Raises:
        ValueError: `num_clients` is not a whole number of at least 1; or the model has a penalty, which
            belongs to a client and not to examples, or state, which a batch of one client changes.
    """
    num_clients = whole_number("num_clients", num_clients, 1)
    if model.state:
        raise ValueError(
            f"a pooled model must have no state, since its batches mix examples of several clients; got "
            f"{model.state}"
        )
    shapes = jax.eval_shape(model.init_global, jax.random.key(0))
    local_shapes = jax.eval_shape(model.init_local, shapes, jax.random.key(0))
    _check_no_penalty(model, shapes, local_shapes)

    def init_global(key: PRNGKey) -> Params:
        k_global, k_local = jax.random.split(key)
        global_params = model.init_global(k_global)
        keys = jax.random.split(k_local, num_clients)
        return global_params, jax.vmap(lambda k: model.init_local(global_params, k))(keys)

    def by_example(fn: Callable[..., Metrics | Mean], params: Params, batch: Batch) -> Any:
        """`fn` of each example alone under its client's parameters: Means with an entry per example."""
        global_params, everyone = params
        rest = {name: x[:, None] for name, x in batch.items() if name != field}
        own = jax.tree.map(lambda x: x[batch[field]], everyone)
        results = jax.vmap(lambda local, example: fn(global_params, local, example))(own, rest)
        return jax.tree.map(lambda x: x[:, 0], results)

    def loss(params: Params, _: Params, batch: Batch, key: PRNGKey) -> Mean:
        losses: Mean = by_example(lambda g, local, x: model.loss(g, local, x, key), params, batch)
        return losses

    def metrics(params: Params, _: Params, batch: Batch) -> dict[str, Mean]:
        means: dict[str, Mean] = by_example(model.metrics, params, batch)
        return means

    of_clients = (
        Table("/".join(["1", name] if name else ["1"]), (field,)) for name in leaves_of(local_shapes)
    )
    return Model(
        init_global=init_global,
        init_local=lambda params, key: (),
        loss=loss,
        metrics=metrics,
        tables=(*(Table(f"0/{t.leaf}", t.fields) for t in model.tables), *of_clients),
    )


def _check_no_penalty(model: Model, global_params: Params, local_params: Params) -> None:
    graph = jax.make_jaxpr(model.penalty)(global_params, local_params).jaxpr
    if graph.eqns:
        raise ValueError(
            "a pooled model must have no penalty, since its batches mix examples of several clients; put it "
            "into the loss of every example"
        )
