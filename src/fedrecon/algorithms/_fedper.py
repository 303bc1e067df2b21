"""FedPer: the head is local to each client, and all layers are trained at once."""

from dataclasses import replace

import optax

from fedrecon.algorithms._base import Aggregator, Algorithm, ClientWeightFn
from fedrecon.algorithms._building_blocks import WeightedMean, by_examples
from fedrecon.algorithms._fedsim import fedsim
from fedrecon.core._model import Model
from fedrecon.core._partition import with_local
from fedrecon.solvers._local_solver import LocalSolver


def fedper(
    model: Model,
    update: LocalSolver,
    reconstruct: LocalSolver,
    server_optimizer: optax.GradientTransformation,
    head: tuple[str, ...] | None = None,
    local_rate: float = 1.0,
    client_weight: ClientWeightFn = by_examples,
    aggregator: Aggregator = WeightedMean(),
) -> Algorithm:
    """`fedsim` with a local head: the base layers are averaged, the personalisation layers are kept.

    Args:
        model: The model to train, whose local parameters this algorithm chooses.
        update: The solver that changes the base and the head together.
        reconstruct: The solver that fits the head of a served client to its support set; the paper names
            none.
        server_optimizer: The server's Optax optimiser, applied to the negative weighted mean of the deltas.
        head: Paths of the head's leaves, which become local, as `part` in `with_local`; None, the default,
            for the model's own local parameters.
        local_rate: The factor on the steps of the head, above 0; 1 by default.
        client_weight: Computes a client's weight in the mean of the deltas from its mean loss; by default the
            number of examples that the update phase processed.
        aggregator: Turns the sum of the cohort's updates into the server's pseudo-gradient; by default the
            weighted mean of the deltas.

    Returns:
        The algorithm; its clients keep the head.

    Raises:
        ValueError: `head` names no leaf, or `local_rate` is not above 0; see `with_local` and `fedsim`.

    References:
        Arivazhagan et al., Federated Learning with Personalization Layers, 2019.
    """
    view = with_local(model, head)
    made = fedsim(view, update, reconstruct, server_optimizer, local_rate, client_weight, aggregator)
    return replace(made, name="fedper", hyperparameters={**made.hyperparameters, "head": head})
