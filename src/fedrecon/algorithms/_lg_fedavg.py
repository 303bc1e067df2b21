"""LG-FedAvg: the body, a representation, is local to each client, and the head is shared."""

from dataclasses import replace

import optax

from fedrecon.algorithms._base import Aggregator, Algorithm, ClientWeightFn
from fedrecon.algorithms._building_blocks import WeightedMean, by_examples
from fedrecon.algorithms._fedsim import fedsim
from fedrecon.core._model import Model
from fedrecon.core._partition import with_local
from fedrecon.solvers._local_solver import LocalSolver


def lg_fedavg(
    model: Model,
    update: LocalSolver,
    reconstruct: LocalSolver,
    server_optimizer: optax.GradientTransformation,
    body: tuple[str, ...] | None = None,
    local_rate: float = 1.0,
    client_weight: ClientWeightFn = by_examples,
    aggregator: Aggregator = WeightedMean(),
) -> Algorithm:
    """`fedsim` with a local body: the head is averaged, the representation below it is kept.

    The paper serves an unseen client by an ensemble of the other clients' bodies. Here bodies never leave
    their clients, and an unseen client fits one to its support set instead.

    Args:
        model: The model to train, whose local parameters this algorithm chooses.
        update: The solver that changes the body and the head together.
        reconstruct: The solver that fits the body of a client that is served.
        server_optimizer: The server's Optax optimiser, applied to the negative weighted mean of the deltas.
        body: Paths of the body's leaves, which become local, as `part` in `with_local`; None, the default,
            for the model's own local parameters.
        local_rate: The factor on the steps of the body, above 0; 1 by default.
        client_weight: Computes a client's weight in the mean of the deltas from its mean loss; by default the
            number of examples that the update phase processed.
        aggregator: Turns the sum of the cohort's updates into the server's pseudo-gradient; by default the
            weighted mean of the deltas.

    Returns:
        The algorithm; its clients keep the body.

    Raises:
        ValueError: `body` names no leaf, or `local_rate` is not above 0; see `with_local` and `fedsim`.

    References:
        Liang et al., Think Locally, Act Globally: Federated Learning with Local and Global
        Representations, 2020, Algorithm 1.
    """
    view = with_local(model, body)
    made = fedsim(view, update, reconstruct, server_optimizer, local_rate, client_weight, aggregator)
    return replace(made, name="lg_fedavg", hyperparameters={**made.hyperparameters, "body": body})
