"""A network whose last layer is every client's own, first trained with one last layer for all.

Beyond `fedrecon_in_50_lines.py` it shows a model without tables, exact reconstruction by Newton's method,
training that starts from given global parameters, a callback, and the distribution over clients.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedrecon import Clients, Mean, Newton, Solver, fedavg, fedrecon, is_local, optimizer, partition, train

INPUTS, HIDDEN = 6, 16


def homes(count: int, seed: int = 0) -> Clients:
    """Homes whose consumption depends on the same few features of the weather, each home's in its own way."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(INPUTS, 4))
    found = {}
    for home in range(count):
        weather = rng.normal(size=(rng.integers(31, 41), INPUTS))
        consumption = np.tanh(weather @ shared) @ rng.normal(size=4) + 0.1 * rng.normal(size=len(weather))
        found[home] = {"weather": weather, "consumption": consumption}
    return Clients.from_arrays(found)


def init(key: Any) -> Any:
    """A hidden layer and a linear head."""
    hidden = jax.random.normal(key, (INPUTS, HIDDEN)) / jnp.sqrt(INPUTS)
    return {"hidden": {"kernel": hidden, "bias": jnp.zeros(HIDDEN)}, "head": jnp.zeros(HIDDEN)}


def predict(params: Any, batch: Any) -> Any:
    """The consumption of each example, `[example]`."""
    hidden = jnp.tanh(batch["weather"] @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return hidden @ params["head"]


def loss(params: Any, batch: Any, key: Any = None) -> Mean:
    """Squared errors, one per example."""
    return Mean.of(jnp.square(predict(params, batch) - batch["consumption"]))


def penalty(params: Any) -> Any:
    """Keeps a head small that is fitted to few examples."""
    return 0.1 * jnp.sum(jnp.square(params["head"]))


def main() -> None:
    """Trains one head for all homes, then, from there, a head for each."""
    sets = homes(400).split({"train": 0.8, "test": 0.2}, seed=0)
    model = partition(
        init,
        loss,
        lambda params, batch: {"mse": loss(params, batch)},
        local=is_local("head"),
        penalty=penalty,
    )
    sgd, adam = (
        Solver(optimizer("sgd", learning_rate=0.1), batch_size=5),
        optimizer("adam", learning_rate=0.01),
    )

    one_for_all = train(fedavg(model, sgd, adam), sets["train"], rounds=50, test=sets["test"])
    print("one head for all: ", one_for_all)

    # FedAvg's global parameters are `(global_params, local_params)` of the model: the body and the one head.
    body, _ = one_for_all.global_params
    own = train(
        fedrecon(model, Newton(), sgd, adam),  # the loss is quadratic in the head: one Newton step is exact
        sets["train"],
        rounds=200,
        evaluate=sets["test"].take(range(40)),
        evaluate_every=100,
        test=sets["test"].take(range(40, len(sets["test"]))),
        initial_global_params=body,
        callbacks=[lambda now: print(f"round {now.round}: ", now.evaluations["validation"])],
    )
    print("a head of its own:", own)
    deciles = own.evaluations["test"].distribution()["rmse"]
    print(f"RMSE of the best tenth of the homes: at most {deciles['p10']:.3f}")
    print(f"RMSE of the worst tenth of the homes: at least {deciles['p90']:.3f}")


if __name__ == "__main__":
    main()
