"""An algorithm of your own: reconstruction from a start that the server learns, beside the paper's."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from fedrecon import Algorithm, AlternateBatches, Solver, fedavg, fedrecon, optimizer, train
from fedrecon.algorithms import solve_params, subkeys, update_of
from fedrecon.core import on_global, on_local
from fedrecon.datasets.ratings import synthetic
from fedrecon.models import matrix_factorization


def learned_start(model: Any, reconstruct: Any, update: Any, server_optimizer: Any, split: Any) -> Algorithm:
    """Global are (g, s): a client reconstructs l from s, updates g, and sends l - s with the update."""
    base = fedavg(model, update, server_optimizer)  # its server holds (g, s), one s for all clients

    def fit(broadcast: Any, client_state: Any, support: Any, key: Any) -> Any:
        g, start = broadcast.global_params
        return solve_params(reconstruct, on_local(model, g), start, support, key, broadcast.round)[0]

    def client_update(broadcast: Any, client_state: Any, examples: Any, key: Any) -> Any:
        (g, start), (k_split, k_local, k_global) = broadcast.global_params, subkeys(key, 3)
        support, query = split(examples, k_split)
        local = fit(broadcast, client_state, support, k_local)
        new, metrics = solve_params(update, on_global(model, local), g, query, k_global, broadcast.round)
        return update_of(jax.tree.map(jnp.subtract, (new, local), (g, start)), {}, metrics), client_state

    served = replace(model, metrics=lambda params, local, x: model.metrics(params[0], local, x), tables=())
    return replace(base, personal_model=served, client_update=client_update, personalize=fit, name="mine")


users = synthetic(600, 300, seed=0)[0].split({"train": 0.8, "test": 0.2}, seed=0)
sgd, step = Solver(optimizer("sgd", learning_rate=0.1), 5), optimizer("sgd", learning_rate=1.0)
for make in (learned_start, fedrecon):
    algorithm = make(matrix_factorization(300, 8), sgd, sgd, step, AlternateBatches(5))
    print(algorithm.name, train(algorithm, users["train"], 150, clients_per_round=50, test=users["test"]))
