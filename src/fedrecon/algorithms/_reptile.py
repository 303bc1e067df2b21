"""Reptile: meta-learning of a start for fine-tuning, without second derivatives."""

from dataclasses import replace

import optax

from fedrecon.algorithms._base import Aggregator, Algorithm, ClientWeightFn
from fedrecon.algorithms._building_blocks import WeightedMean, uniform
from fedrecon.algorithms._fedavg import fedavg
from fedrecon.algorithms._finetuning import finetuning
from fedrecon.core._model import Model
from fedrecon.solvers._local_solver import LocalSolver


def reptile(
    model: Model,
    tune: LocalSolver,
    server_optimizer: optax.GradientTransformation,
    client_weight: ClientWeightFn = uniform,
    aggregator: Aggregator = WeightedMean(),
) -> Algorithm:
    """Moves the global parameters towards those that clients have tuned.

    g <- g + e mean(tune(g) - g), which is federated averaging with a server learning rate e; every
    client then tunes a copy of g, by the same solver as in training.

    Args:
        model: The model to train, all of whose parameters become global, as by `fedrecon.core.fully_global`.
        tune: The solver that fits all parameters, in training to all of a client's examples and in serving to
            the support set.
        server_optimizer: The server's Optax optimiser: `sgd(e)`, whose step e decays to 0 in Reptile.
        client_weight: Computes a client's weight in the mean of the deltas from its mean loss; by default 1
            for every client with an example, as Reptile weighs tasks.
        aggregator: Turns the sum of the cohort's updates into the server's pseudo-gradient; by default the
            weighted mean of the deltas.

    Returns:
        The algorithm; `personalize` returns local parameters of the view
        `personal_copy(fully_global(model))`.

    References:
        Nichol, Achiam and Schulman, On First-Order Meta-Learning Algorithms, 2018; Jiang et al., Improving
        Federated Learning Personalization via Model Agnostic Meta Learning, 2019.
    """
    trained = fedavg(model, tune, server_optimizer, client_weight, aggregator)
    settings = {"tune": tune, "server_optimizer": server_optimizer}
    settings |= {"client_weight": client_weight, "aggregator": aggregator}
    return replace(finetuning(trained, tune), name="reptile", hyperparameters=settings)
