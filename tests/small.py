"""A federation and models so small that they compile in a moment and can be computed by hand."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedrecon.core._examples import Examples
from fedrecon.core._mean import Mean
from fedrecon.core._model import Model, Table
from fedrecon.data._clients import Clients
from fedrecon.solvers._gradient import Solver
from fedrecon.solvers._optimizers import optimizer

ITEMS, FACTORS = 40, 2
LENGTHS = (0, 1, 2, 3, 5, 6, 7, 9, 12, 5, 6)


def sgd(learning_rate: float = 0.1, **others: Any) -> Any:
    return optimizer("sgd", learning_rate=learning_rate, **others)


def solver(learning_rate: float = 0.1, batch_size: int | None = 2, **others: Any) -> Solver:
    return Solver(sgd(learning_rate), batch_size, **others)


def rating_model(
    *, two_fields: bool = False, scale: bool = False, fused: bool = False, seen: set[int] | None = None
) -> Model:
    """Matrix factorisation with item biases, in plain JAX.

    Args:
        two_fields: Whether `previous` indexes the factors beside `item`, which indexes the biases too.
        scale: Whether there is a global parameter that is no table, and the local ones start at random.
        fused: Whether loss and metrics are measured by one function, too.
        seen: Gets the number of rows of the tables that the loss is given, while it is traced.
    """

    def predict(g: Any, x: Any, batch: Any) -> Any:
        if seen is not None:
            seen.add(g["item"]["factors"].shape[0])
        vectors = g["item"]["factors"][batch["item"]]
        if two_fields:
            vectors = vectors - 0.5 * g["item"]["factors"][batch["previous"]]
        scores = vectors @ x["user"] + g["item"]["bias"][batch["item"]]
        return scores * g["scale"] if scale else scores

    def init_global(key: Any) -> Any:
        # Not drawn: hashes take most of the time that such small programs take to compile.
        factors = jnp.cos(jnp.arange(ITEMS * FACTORS, dtype=jnp.float32)).reshape(ITEMS, FACTORS)
        params = {"item": {"factors": factors, "bias": factors[:, 0] ** 2}}
        return params | {"scale": jnp.ones(())} if scale else params

    def init_local(g: Any, key: Any) -> Any:
        return {"user": jax.random.uniform(key, (FACTORS,)) if scale else jnp.array([0.5, -0.2])}

    def penalty(g: Any, x: Any) -> Any:
        return 0.1 * jnp.sum(jnp.square(x["user"])) + (0.05 * jnp.square(g["scale"]) if scale else 0.0)

    def metrics(g: Any, x: Any, batch: Any) -> dict[str, Mean]:
        error = predict(g, x, batch) - batch["rating"]
        return {
            "mse": Mean.of(jnp.square(error)),
            "hits": Mean.of((jnp.abs(error) < 1.5).astype(jnp.float32)),
        }

    def loss_and_metrics(g: Any, x: Any, batch: Any, key: Any) -> tuple[Mean, dict[str, Mean]]:
        found = metrics(g, x, batch)
        return found["mse"], found

    fields = ("item", "previous") if two_fields else ("item",)
    return Model(
        init_global=init_global,
        init_local=init_local,
        loss=lambda g, x, batch, key: Mean.of(jnp.square(predict(g, x, batch) - batch["rating"])),
        metrics=metrics,
        predict=predict,
        penalty=penalty,
        tables=(Table("item/factors", fields), Table("item/bias", ("item",))),
        loss_and_metrics=loss_and_metrics if fused else None,
    )


def federation(*, repeats: bool = False, lengths: Sequence[int] = LENGTHS, seed: int = 0) -> Clients:
    """Clients `c0`, `c1`, … of these lengths; the first and the last item are among their examples.

    Args:
        repeats: Whether items come several times at a client.
        lengths: Of the clients.
        seed: Of the draws.
    """
    rng = np.random.default_rng(seed)
    arrays = {}
    for i, n in enumerate(lengths):
        item = rng.choice([0, 1, 5, 7, ITEMS - 1], n) if repeats else rng.choice(ITEMS, n, replace=False)
        if n > 5 and not repeats:
            item[[1, 4]] = 0, ITEMS - 1
            item[2:4] = 2 + i, 20 + i
            item[[0, 5]] = 15, 16
            item[6:] = 30 + np.arange(n - 6)
        arrays[f"c{i}"] = {
            "item": item.astype(np.int32),
            "previous": rng.choice([0, 1, 8, ITEMS - 1], n).astype(np.int32),
            "rating": rng.integers(1, 6, n).astype(np.float32),
        }
    return Clients.from_arrays(arrays)


def examples(clients: Clients, client: Any, size: int) -> Examples:
    """A client's examples followed by padding of another user's making: the last item, a rating of 9."""
    data = clients[client]
    short = size - len(data["rating"])
    fill = {"item": ITEMS - 1, "previous": ITEMS - 1, "rating": 9.0}
    padded = {f: np.concatenate([x, np.full(short, fill[f], x.dtype)]) for f, x in data.items()}
    return Examples(padded, np.arange(size) < size - short)


@dataclass
class Given:
    """Cohorts as they are told; the same in every round if there is one."""

    cohorts: Sequence[Any]

    def indices(self, round: int, num_examples: Any, seed: int) -> Any:
        return np.asarray(self.cohorts[min(round, len(self.cohorts) - 1)])

    def most(self, num_clients: int) -> int:
        return max(len(c) for c in self.cohorts)

    def check(self, num_clients: int) -> None:
        pass
