"""The next-word round on FedJAX's engine: a loop over clients for each phase, with the library's model."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.next_word_recipe import RATE, Size
from fedrecon import Clients, Model


class TrainingLoop:
    """Runs rounds of all clients on and on; the server adds the weighted mean of their deltas.

    Attributes:
        global_params: Of the model.

    Args:
        global_params: Where the first round starts.
        draw: Where a client's local embeddings start.
    """

    def __init__(
        self,
        fedjax: Any,
        size: Size,
        model: Model,
        clients: Clients,
        global_params: Any,
        draw: Callable[[], np.ndarray],
    ):
        self._size, self._clients, self._draw = size, clients, draw
        self.global_params = global_params
        reconstruct, update = _steps(model)
        self._reconstructed = fedjax.for_each_client(_start, reconstruct, _local)
        self._deltas = fedjax.for_each_client(_start, update, _delta)

    def round(self) -> Any:
        """One round; the global parameters after it."""
        parts = {name: self._batches(name) for name in self._clients.ids.tolist()}
        support = [
            (name, batches[: _half(batches)] * self._size.epochs, {"embedding": self._draw()})
            for name, batches in parts.items()
        ]
        query = [
            (name, parts[name][_half(parts[name]) :], local)
            for name, local in self._reconstructed(self.global_params, support)
        ]
        total, weights = jax.tree.map(jnp.zeros_like, self.global_params), 0.0
        for _, (delta, weight) in self._deltas(self.global_params, query):
            total = jax.tree.map(lambda t, d, w=weight: t + w * d, total, delta)
            weights = weights + weight
        mean = jax.tree.map(lambda t: t / jnp.maximum(weights, 1), total)
        self.global_params = jax.tree.map(jnp.add, self.global_params, mean)
        return self.global_params

    def _batches(self, name: Any) -> list[dict[str, np.ndarray]]:
        """A client's batches; what fills up the last one has no target and weighs nothing."""
        fields, size = self._clients[name], self._size.batch
        count = len(fields["target"])
        full = -(-count // size) * size
        padded = {k: np.pad(fields[k], [(0, full - count), (0, 0)]) for k in ("word", "bucket", "target")}
        return [{k: x[i : i + size] for k, x in padded.items()} for i in range(0, full, size)]


def _steps(model: Model) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """A step of reconstruction and one of the update: gradient descent on a batch."""

    def loss(g: Any, x: Any, batch: Any) -> tuple[Any, Any]:
        """The mean over the batch's tokens, and their number."""
        mean = model.loss(g, x, batch, jax.random.key(0)).sum()  # it draws nothing
        return mean.value(), mean.weight

    def reconstruct(state: dict[str, Any], batch: Any) -> dict[str, Any]:
        slope, _ = jax.grad(loss, 1, has_aux=True)(state["global"], state["local"], batch)
        return {**state, "local": _descended(state["local"], slope)}

    def update(state: dict[str, Any], batch: Any) -> dict[str, Any]:
        slope, tokens = jax.grad(loss, has_aux=True)(state["global"], state["local"], batch)
        weight = state["weight"] + tokens
        return {**state, "global": _descended(state["global"], slope), "weight": weight}

    return reconstruct, update


def _half(batches: list[Any]) -> int:
    return (len(batches) + 1) // 2


def _start(global_params: Any, local: Any) -> dict[str, Any]:
    return {"global": global_params, "local": local, "weight": jnp.zeros(())}


def _descended(params: Any, slope: Any) -> Any:
    return jax.tree.map(lambda x, s: x - RATE * s, params, slope)


def _local(global_params: Any, state: dict[str, Any]) -> Any:
    return state["local"]


def _delta(global_params: Any, state: dict[str, Any]) -> tuple[Any, Any]:
    return jax.tree.map(jnp.subtract, state["global"], global_params), state["weight"]
