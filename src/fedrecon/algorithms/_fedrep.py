"""FedRep: the head is local to each client, and is fitted before the representation takes its step."""

from dataclasses import replace

import optax

from fedrecon.algorithms._base import Aggregator, Algorithm, ClientWeightFn
from fedrecon.algorithms._building_blocks import WeightedMean, by_examples
from fedrecon.algorithms._fedalt import fedalt
from fedrecon.core._model import Model
from fedrecon.core._partition import with_local
from fedrecon.solvers._local_solver import LocalSolver


def fedrep(
    model: Model,
    reconstruct: LocalSolver,
    update: LocalSolver,
    server_optimizer: optax.GradientTransformation,
    head: tuple[str, ...] | None = None,
    client_weight: ClientWeightFn = by_examples,
    aggregator: Aggregator = WeightedMean(),
) -> Algorithm:
    """`fedalt` with a local head: many steps on the head, then few on the shared representation.

    Args:
        model: The model to train, whose local parameters this algorithm chooses.
        reconstruct: The solver that fits the head; the paper's takes several epochs.
        update: The solver that changes the representation; the paper's takes one epoch.
        server_optimizer: The server's Optax optimiser, applied to the negative weighted mean of the deltas.
        head: Paths of the head's leaves, which become local, as `part` in `with_local`; None, the default,
            for the model's own local parameters.
        client_weight: Computes a client's weight in the mean of the deltas from its mean loss; by default the
            number of examples that the update phase processed.
        aggregator: Turns the sum of the cohort's updates into the server's pseudo-gradient; by default the
            weighted mean of the deltas.

    Returns:
        The algorithm; its clients keep the head, and an unseen one fits it to its support set.

    Raises:
        ValueError: `head` names no leaf of the model, see `with_local`.

    References:
        Collins et al., Exploiting Shared Representations for Personalized Federated Learning, ICML 2021,
        Algorithm 1.
    """
    view = with_local(model, head)
    made = fedalt(view, reconstruct, update, server_optimizer, client_weight, aggregator)
    return replace(made, name="fedrep", hyperparameters={**made.hyperparameters, "head": head})
