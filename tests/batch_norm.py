"""A network with batch normalisation in plain JAX, and its loss and gradients by hand in NumPy."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrecon.core._mean import Mean
from fedrecon.core._model import Model, leaves_of
from fedrecon.core._partition import is_local, partition
from fedrecon.data._clients import Clients

LENGTHS = (0, 1, 2, 3, 5, 6, 7, 9, 12, 5, 6)
FEATURES, HIDDEN = 4, 3
MOMENTUM, EPSILON = 0.8, 1e-3


def homes() -> dict[int, dict[str, np.ndarray]]:
    """Examples of clients of unequal lengths, whose inputs have different means and deviations."""
    rng = np.random.default_rng(0)
    return {
        i: {"x": (1 + i / 5) * rng.normal(size=(n, FEATURES)) + i / 3, "y": rng.normal(size=n)}
        for i, n in enumerate(LENGTHS)
    }


def clients() -> Clients:
    return Clients.from_arrays(homes())


def start() -> dict[str, Any]:
    return {
        "w": np.cos(np.arange(FEATURES * HIDDEN)).reshape(FEATURES, HIDDEN),
        "norm": {"mean": np.zeros(HIDDEN), "var": np.ones(HIDDEN)},
        "head": np.array([0.3, -0.2, 0.1]),
    }


def moments(x: Any, mask: Any) -> tuple[Any, Any]:
    """Mean and variance over the rows that are no padding."""
    count = jnp.maximum(jnp.sum(mask), 1)
    mean = jnp.sum(jnp.where(mask[:, None], x, 0), 0) / count
    return mean, jnp.sum(jnp.where(mask[:, None], jnp.square(x - mean), 0), 0) / count


def model(*local: str, **others: Any) -> Model:
    """The network, trained by the statistics of a batch and measured by the running ones.

    Args:
        local: Paths of the local leaves.
        others: Further arguments of `partition`, or others in place of those here.
    """

    def error(params: Any, batch: Any, mean: Any, var: Any) -> Any:
        normal = (batch["x"] @ params["w"] - mean) / jnp.sqrt(var + EPSILON)
        return jnp.square(normal @ params["head"] - batch["y"])

    def loss(params: Any, batch: Any, key: Any = None) -> Mean:
        return Mean.of(error(params, batch, *moments(batch["x"] @ params["w"], batch["example_mask"])))

    def next_state(params: Any, batch: Any, key: Any = None) -> Any:
        mean, var = moments(batch["x"] @ params["w"], batch["example_mask"])
        old = params["norm"]
        moved = {
            "mean": MOMENTUM * old["mean"] + (1 - MOMENTUM) * mean,
            "var": MOMENTUM * old["var"] + (1 - MOMENTUM) * var,
        }
        return {**params, "norm": moved}

    def metrics(params: Any, batch: Any) -> dict[str, Mean]:
        return {"mse": Mean.of(error(params, batch, params["norm"]["mean"], params["norm"]["var"]))}

    def init(key: Any) -> Any:
        params = start()
        return {
            "w": jnp.asarray(params["w"], jnp.float32),
            "norm": {name: jnp.asarray(x, jnp.float32) for name, x in params["norm"].items()},
            "head": jnp.asarray(params["head"], jnp.float32),
        }

    given: dict[str, Any] = {"local": is_local(*local), "state": ("norm",), "next_state": next_state} | others
    return partition(init, loss, metrics, **given)


def measured(made: Model) -> dict[str, np.ndarray]:
    """Loss, metric, gradient and next state of a model at its start on a padded batch, by their last names.

    Args:
        made: A model of this network, however it is written.
    """
    key = jax.random.key(0)
    params = made.init_global(key), made.init_local(made.init_global(key), key)
    home = homes()[9]
    batch: Any = {name: jnp.asarray(np.concatenate([x, x[:2]]), jnp.float32) for name, x in home.items()}
    batch["example_mask"] = jnp.arange(len(batch["y"])) < len(home["y"])
    assert made.next_state is not None, "the network has state"

    def total(params: Any) -> Any:
        return made.loss(params[0], params[1], batch, key).where(batch["example_mask"]).total.sum()

    gradient = leaves_of(jax.grad(total)(params))
    state = leaves_of(made.next_state(*params, batch, key))
    results = {
        "loss": made.loss(*params, batch, key).total,
        "mse": made.metrics(*params, batch)["mse"].total,
        "body": next(x for name, x in gradient.items() if "body" in name or name.endswith("/w")),
        "head": next(x for name, x in gradient.items() if "head" in name),
        **{name.rpartition("/")[2]: x for name, x in state.items() if name in made.state},
    }
    return {name: np.asarray(x).reshape(-1) for name, x in results.items()}


class Network(NamedTuple):
    """The same network in float64, with its gradients written out."""

    w: np.ndarray
    head: np.ndarray
    mean: np.ndarray
    var: np.ndarray

    @staticmethod
    def at_start() -> "Network":
        params = start()
        return Network(params["w"], params["head"], params["norm"]["mean"], params["norm"]["var"])

    def step(
        self, x: np.ndarray, y: np.ndarray, rate: float, trained: tuple[str, ...], moves: bool
    ) -> "Network":
        """A gradient step on the mean loss of a batch, without padding.

        Args:
            x: The inputs, `[example, feature]`.
            y: The targets, `[example]`.
            rate: The learning rate.
            trained: Which of `"w"` and `"head"` take the step.
            moves: Whether the running statistics move as well.
        """
        hidden = x @ self.w
        mean, var = hidden.mean(0), hidden.var(0)
        scale = 1 / np.sqrt(var + EPSILON)
        normal = (hidden - mean) * scale
        residual = 2 * (normal @ self.head - y) / len(y)
        by_normal = np.outer(residual, self.head)
        by_hidden = scale * (by_normal - by_normal.mean(0) - normal * (by_normal * normal).mean(0))
        new = self
        if "w" in trained:
            new = new._replace(w=self.w - rate * x.T @ by_hidden)
        if "head" in trained:
            new = new._replace(head=self.head - rate * normal.T @ residual)
        if moves:
            new = new._replace(
                mean=MOMENTUM * self.mean + (1 - MOMENTUM) * mean,
                var=MOMENTUM * self.var + (1 - MOMENTUM) * var,
            )
        return new

    def mse(self, x: np.ndarray, y: np.ndarray) -> float:
        """The mean squared error by the running statistics."""
        normal = (x @ self.w - self.mean) / np.sqrt(self.var + EPSILON)
        return float(np.mean(np.square(normal @ self.head - y)))
