"""A model of Keras with batch normalisation, whose last layer is every client's own.

It needs Keras, whose backend must be JAX: pip install 'fedrecon[keras]'.
"""

import os
from collections.abc import Callable
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"  # read when Keras is imported

import jax.numpy as jnp
import keras
import numpy as np

import fedrecon as fr


def homes(count: int) -> fr.Clients:
    """Homes whose answers depend on the same three features, combined in each home's own way."""
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(4, 3))
    found = {}
    for home in range(count):
        x = rng.normal(size=(24, 4))
        y = np.tanh(x @ shared) @ rng.normal(size=3) + 0.1 * rng.normal(size=24)
        found[home] = {"x": x, "y": y}
    return fr.Clients.from_arrays(found)


def network() -> Any:
    """A hidden layer, normalised, and a linear head."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(16, name="body"),
            keras.layers.BatchNormalization(momentum=0.9, name="norm"),
            keras.layers.Activation("tanh"),
            keras.layers.Dense(1, name="head"),
        ]
    )


def squared(call: Callable[..., Any], batch: Any, training: bool) -> fr.Mean:
    """Squared errors, one per example; the mask keeps padding out of the statistics."""
    scores = call(batch["x"], training=training, mask=batch["example_mask"])[..., 0]
    return fr.Mean.of(jnp.square(scores - batch["y"]))


def main() -> None:
    """Trains the body and its statistics over all homes, and fits a head to each unseen home."""
    sets = homes(200).split({"train": 0.8, "test": 0.2}, seed=0)
    model = fr.models.from_keras(
        network(),
        loss=lambda call, batch: squared(call, batch, training=True),
        metrics=lambda call, batch: {"mse": squared(call, batch, training=False)},
        local=fr.is_local("head"),
        penalty=lambda params: 0.1 * sum(jnp.sum(jnp.square(x)) for x in params["head"].values()),
    )
    print(fr.describe(model))
    algorithm = fr.fedrecon(
        model,
        reconstruct=fr.Newton(),
        update=fr.Solver(fr.optimizer("sgd", learning_rate=0.1), batch_size=6),
        server_optimizer=fr.optimizer("adam", learning_rate=0.02),
        split=fr.AlternateBatches(6),
    )
    print(fr.train(algorithm, sets["train"], rounds=60, clients_per_round=40, test=sets["test"]))


if __name__ == "__main__":
    main()
