"""LG-FedAvg: the body is the client's own representation, and the head is shared."""

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

    The paper serves an unseen client by an ensemble of the other clients' bodies, which here never leave
    them: it fits a body of its own to its support set instead.

    Args:
        model: The model to train; which of its leaves are local is decided by this algorithm.
        update: The solver that changes the body and the head together.
        reconstruct: The solver that fits the body of a client that is served.
        server_optimizer: Applied to the negative weighted mean of the deltas.
        body: Paths of the body's leaves, as `part` in `with_local`; None for what the model has local.
        local_rate: The factor on the steps of the body, above 0; 1 by default.
        client_weight: A client's weight in the mean, from the mean of its loss.
        aggregator: The aggregator that turns the sum of the cohort's updates into the server's
            pseudo-gradient; the weighted mean by default.

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
