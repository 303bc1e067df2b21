"""FedPer: the head is the client's own, and all layers are trained at once."""

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
        model: The model to train; which of its leaves are local is decided by this algorithm.
        update: The solver that changes the base and the head together.
        reconstruct: Fits the head of who is served, on which the paper is silent.
        server_optimizer: Applied to the negative weighted mean of the deltas.
        head: Paths of the head's leaves, as `part` in `with_local`; None for what the model has local.
        local_rate: The factor on the steps of the head, above 0; 1 by default.
        client_weight: A client's weight in the mean, from the mean of its loss.
        aggregator: The aggregator that turns the sum of the cohort's updates into the server's
            pseudo-gradient; the weighted mean by default.

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
