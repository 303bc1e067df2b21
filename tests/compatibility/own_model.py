"""A model of a user's own, trained from Python: public names of the package only."""

from typing import Any

import jax
import numpy as np

import fedrecon as fr

ITEMS, FACTORS = 30, 3
ROUNDS, EVERY = 8, 3


def init(key: Any) -> dict[str, Any]:
    of_items, of_user = jax.random.split(key)
    return {
        "item": 0.5 * jax.random.normal(of_items, (ITEMS, FACTORS)),
        "user": 0.5 * jax.random.normal(of_user, (FACTORS,)),
    }


def predict(params: Any, batch: Any) -> Any:
    return params["item"][batch["item"]] @ params["user"]


def loss(params: Any, batch: Any, key: Any) -> fr.Mean:
    return fr.Mean.of((predict(params, batch) - batch["rating"]) ** 2)


def algorithm() -> fr.Algorithm:
    """Federated Reconstruction of a matrix factorisation, as the README shows it."""
    model = fr.partition(
        init,
        loss,
        lambda params, batch: {"mse": loss(params, batch, None)},
        local=fr.is_local("user"),
        predict=predict,
        tables=(fr.Table("item", ("item",)),),
    )
    sgd = fr.optimizer("sgd", learning_rate=0.1)
    server = fr.optimizer("adam", learning_rate=0.1)
    return fr.fedrecon(model, fr.Solver(sgd, batch_size=4, epochs=2), fr.Solver(sgd, batch_size=4), server)


def clients(seed: int, count: int) -> fr.Clients:
    """Clients with ratings around 0 of items of their own choice."""
    random = np.random.default_rng(seed)
    arrays = {}
    for i in range(count):
        item = random.choice(ITEMS, random.integers(6, 16), replace=False).astype(np.int32)
        taste = random.normal(size=2)
        rating = taste[0] * np.cos(item) + taste[1] * np.sin(item) + 0.1 * random.normal(size=len(item))
        arrays[f"{seed}-{i}"] = {"item": item, "rating": rating.astype(np.float32)}
    return fr.Clients.from_arrays(arrays)


def train(out: Any) -> fr.Result:
    """Trains it, or goes on with what `out` holds.

    Args:
        out: The run folder.

    Returns:
        The result after the last round.
    """
    return fr.train(
        algorithm(),
        clients(0, 24),
        ROUNDS,
        clients_per_round=6,
        seed=7,
        evaluate=clients(1, 8),
        test=clients(2, 8),
        evaluate_every=2,
        select="best",
        checkpoint_every=EVERY,
        out=out,
    )
