"""The next-word round as most people write it: PyTorch's layers, a loop over clients, a copy for each."""

import copy
import os
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import numpy as np

from benchmarks.next_word_recipe import RATE, Size
from fedrecon import Clients
from fedrecon.core import leaf_at

# The library's leaves, and what PyTorch calls them; its matrices are the transposes, embeddings apart.
NAMES = {
    "embedding": "embedding.weight",
    "lstm/kernel": "lstm.weight_ih_l0",
    "lstm/recurrent": "lstm.weight_hh_l0",
    "lstm/bias": "lstm.bias_ih_l0",
    "dense/kernel": "dense.weight",
    "dense/bias": "dense.bias",
    "output/kernel": "output.weight",
    "output/bias": "output.bias",
}
UNUSED = "lstm.bias_hh_l0"


def pytorch() -> Any:
    """PyTorch, in as many threads as it chooses; to be called before anything else imports it."""
    # Threads that wait turn round and round otherwise: on a busy machine they hold the cores of those they
    # wait for, and take thirty times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    return import_module("torch")


class TrainingLoop:
    """Runs rounds of all clients on and on; the server adds the weighted mean of their deltas.

    Attributes:
        layers: The global parameters, a module.

    Args:
        global_params: The library's, where the first round starts.
        draw: Where a client's local embeddings start.
    """

    def __init__(
        self, torch: Any, size: Size, clients: Clients, global_params: Any, draw: Callable[[], np.ndarray]
    ):
        self.torch, self._size, self._clients, self._draw = torch, size, clients, draw
        nn = torch.nn
        self.layers = nn.ModuleDict(
            {
                "embedding": nn.Embedding(size.rows, size.embedding),
                "lstm": nn.LSTM(size.embedding, size.hidden, batch_first=True),
                "dense": nn.Linear(size.hidden, size.embedding),
                "output": nn.Linear(size.embedding, size.classes),
            }
        ).requires_grad_(False)
        parameters = dict(self.layers.named_parameters())
        for leaf, name in NAMES.items():
            values = np.array(leaf_at(global_params, leaf))
            parameters[name].copy_(torch.from_numpy(_turned(leaf, values)))
        parameters[UNUSED].zero_()

    def round(self) -> None:
        """One round; `layers` are changed in place."""
        torch = self.torch
        parameters = dict(self.layers.named_parameters())
        total, weights = {name: torch.zeros_like(x) for name, x in parameters.items()}, 0
        for name in self._clients.ids.tolist():
            delta, weight = self.client(self._clients[name])
            for leaf, change in delta.items():
                total[leaf] += weight * change
            weights += weight
        for leaf, x in parameters.items():
            x += total[leaf] / max(weights, 1)

    def client(self, fields: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], int]:
        """One client's delta and its weight, the number of query tokens."""
        torch, nn = self.torch, self.torch.nn
        columns = (torch.from_numpy(fields[n].astype(np.int64)) for n in ("word", "bucket", "target"))
        batches = list(zip(*(x.split(self._size.batch) for x in columns), strict=True))
        half = (len(batches) + 1) // 2
        support, query = batches[:half], batches[half:]
        own = nn.Embedding.from_pretrained(torch.from_numpy(self._draw()), freeze=False)
        self._descend(self.layers, own, own.parameters(), support * self._size.epochs)
        own.requires_grad_(False)
        layers = copy.deepcopy(self.layers).requires_grad_(True)
        # PyTorch adds two biases: with both trained, the gates' would move twice as far.
        layers["lstm"].bias_hh_l0.requires_grad_(False)
        self._descend(layers, own, layers.parameters(), query)
        before = dict(self.layers.named_parameters())
        delta = {name: x.detach() - before[name] for name, x in layers.named_parameters()}
        return delta, sum(int((target > 0).sum()) for _, _, target in query)

    def global_params(self) -> dict[str, np.ndarray]:
        """The library's leaves by their paths."""
        parameters = dict(self.layers.named_parameters())
        return {leaf: _turned(leaf, parameters[name].detach().numpy()) for leaf, name in NAMES.items()}

    def _descend(self, layers: Any, own: Any, trained: Any, batches: list[Any]) -> None:
        optimizer = self.torch.optim.SGD(trained, lr=RATE)
        for batch in batches:
            optimizer.zero_grad()
            self._loss(layers, own, *batch).backward()
            optimizer.step()

    def _loss(self, layers: Any, own: Any, word: Any, bucket: Any, target: Any) -> Any:
        inputs = self.torch.where(
            (bucket >= 0)[..., None], own(bucket.clamp(min=0)), layers["embedding"](word)
        )
        h, _ = layers["lstm"](inputs)
        scores = layers["output"](layers["dense"](h))
        entropy = self.torch.nn.functional.cross_entropy
        return entropy(scores.flatten(0, 1), target.flatten(), ignore_index=0)


def _turned(leaf: str, x: np.ndarray) -> np.ndarray:
    return x.T if leaf.endswith(("kernel", "recurrent")) else x
