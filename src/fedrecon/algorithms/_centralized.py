"""Centralised training on the pooled data of all clients, for comparison."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedrecon.algorithms._base import Algorithm, Broadcast, Update
from fedrecon.algorithms._building_blocks import (
    WeightedMean,
    server,
    solve_delta,
    stateless,
    subkeys,
    update_of,
)
from fedrecon.core._examples import Examples
from fedrecon.core._model import Model, Table, on_global, on_local
from fedrecon.core._pooled_view import ROW, pooled
from fedrecon.core._types import ClientState, Params, PRNGKey
from fedrecon.solvers._gradient import Solver
from fedrecon.solvers._local_solver import LocalSolver


def centralized(
    model: Model,
    num_clients: int,
    reconstruct: LocalSolver,
    server_optimizer: optax.GradientTransformation,
    field: str = ROW,
) -> Algorithm:
    """Mini-batch training on the pooled data of all clients, with which federated algorithms are compared.

    Its "clients" are mini-batches of examples of all clients, each of which sends its gradient; their mean is
    one step of the server's optimiser. A seen client is served its own row of the server's parameters; an
    unseen one reconstructs its local parameters, the global ones frozen.

    Args:
        model: Any model without a penalty and without state; it is trained through `pooled`, which refuses
            others.
        num_clients: The number of clients whose examples are pooled.
        reconstruct: Fits the local parameters of an unseen client to its support set.
        server_optimizer: The Optax optimiser of the pooled parameters.
        field: The batch field that holds the client's row among the pooled clients, -1 for an unseen client;
            `"row"` by default.

    Returns:
        The algorithm. Its updates have the same form as federated ones, but are made of pooled examples.

    Raises:
        ValueError: The model has a penalty or state.
    """
    view = pooled(model, num_clients, field)
    init, server_update = server(view, server_optimizer, WeightedMean())
    gradient = Solver(optax.sgd(1.0), batch_size=None)

    def client_update(
        broadcast: Broadcast, client_state: ClientState, examples: Examples, key: PRNGKey
    ) -> tuple[Update, Any]:
        old, objective = broadcast.global_params, on_global(view, ())
        delta, rows, metrics = solve_delta(gradient, objective, old, examples, key, broadcast.round)
        return update_of(delta, rows, metrics), client_state

    def personalize(
        broadcast: Broadcast, client_state: ClientState, support: Examples, key: PRNGKey
    ) -> Params:
        global_params, everyone = broadcast.global_params
        k_init, k_solve = subkeys(key, 2, first=2)
        fresh = model.init_local(global_params, k_init)
        fitted, _ = reconstruct(on_local(model, global_params), fresh, support, k_solve, broadcast.round)
        row = support.data[field][0]
        # The field of a client without examples is padding, whose 0 is not the number of its row.
        seen = (row >= 0) & support.mask[0]
        return jax.tree.map(lambda table, x: jnp.where(seen, table[row], x), everyone, fitted)

    predict = model.predict
    personal = Model(
        init_global=view.init_global,
        init_local=lambda params, key: model.init_local(params[0], key),
        loss=lambda params, local, batch, key: model.loss(params[0], local, batch, key),
        metrics=lambda params, local, batch: model.metrics(params[0], local, batch),
        predict=predict and (lambda params, local, features: predict(params[0], local, features)),
        tables=tuple(Table(f"0/{t.leaf}", t.fields) for t in model.tables),
    )
    settings = {"num_clients": num_clients, "reconstruct": reconstruct, "server_optimizer": server_optimizer}
    return Algorithm(
        model=view,
        personal_model=personal,
        init=init,
        init_client_state=stateless,
        client_update=client_update,
        server_update=server_update,
        personalize=personalize,
        name="centralized",
        hyperparameters=settings,
        exchanges="examples",
    )
