"""What a training run is asked to do, and by what it is told from others."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from fedrecon.algorithm import Algorithm
from fedrecon.federation.clients import Clients


@dataclass(frozen=True, eq=False)
class Job:
    """A training run.

    Attributes:
        algorithm: What is trained.
        clients: The training clients.
        rounds: How many.
        sampling: Of the cohorts.
        seed: Of all draws.
        validation: Unseen clients to evaluate while training, by the name of their split.
        test: Unseen clients to evaluate once at the end; None for none.
        split: Support and query set in evaluation.
        evaluate_every: Rounds between evaluations; the last round is always evaluated.
        select: Whether the `"final"` parameters meet the test clients, or those of the `"best"` validation.
        checkpoint_every: Rounds between checkpoints; the last round always has one.
        initial_global_params: Where training starts; None for the model's own start.
        settings: What to write as the run folder's configuration; `{}` for what is above.
    """

    algorithm: Algorithm
    clients: Clients
    rounds: int
    sampling: Any
    seed: int
    validation: Mapping[str, Clients]
    test: Clients | None
    split: Any
    evaluate_every: int
    select: str
    checkpoint_every: int
    initial_global_params: Any = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("rounds", "evaluate_every", "checkpoint_every"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        if self.select not in ("final", "best"):
            raise ValueError(f"select must be 'final' or 'best', got {self.select!r}")
        if self.select == "best" and not self.validation:
            raise ValueError("select='best' needs clients to evaluate, got none")
        for name, clients in (*self.validation.items(), ("test", self.test)):
            if clients is not None and not len(clients):
                raise ValueError(f"the clients to evaluate must be at least 1, got 0 in {name!r}")
        for name in ("train", "test"):
            if name in self.validation:
                raise ValueError(f"clients that are evaluated while training cannot be called {name!r}")

    def fingerprint(self) -> dict[str, Any]:
        """What is equal in two runs only if they compute the same, as JSON values."""
        clients = {"train": self.clients, **self.validation}
        if self.test is not None:
            clients["test"] = self.test
        return {
            "algorithm": repr(self.algorithm),
            "sampling": repr(self.sampling),
            "seed": self.seed,
            "rounds": self.rounds,
            "evaluation": {"split": repr(self.split), "every": self.evaluate_every, "select": self.select},
            "clients": {name: digest(x) for name, x in clients.items()},
            "initial_global_params": arrays_digest(self.initial_global_params),
        }

    def configuration(self) -> Mapping[str, Any]:
        """The settings to write in the run folder."""
        if self.settings:
            return self.settings
        marks = self.fingerprint()
        return {
            **{name: marks[name] for name in ("algorithm", "sampling", "seed", "rounds", "evaluation")},
            "checkpoint_every": self.checkpoint_every,
        }


def digest(clients: Clients) -> str:
    """Tells clients with other examples apart, in 16 hexadecimal digits."""
    state = hashlib.blake2b(digest_size=8)
    state.update(np.ascontiguousarray(clients.keys).tobytes())
    state.update(np.asarray(clients.num_examples, np.int64).tobytes())
    for name in sorted(clients.fields):
        column = np.ascontiguousarray(clients.column(name))
        state.update(f"{name} {column.dtype} {column.shape}".encode())
        state.update(column.tobytes())
    return state.hexdigest()


def arrays_digest(tree: Any) -> str:
    """Tells pytrees of arrays apart; `""` for None."""
    if tree is None:
        return ""
    state = hashlib.blake2b(digest_size=8)
    for path, leaf in jax.tree.leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)
        state.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        state.update(array.tobytes())
    return state.hexdigest()
