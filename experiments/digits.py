"""Personalised algorithms with batch normalisation on scikit-learn's digits, in clients of three classes.

    python -m experiments.digits

150 clients share the 1,797 images of 8 x 8 pixels, each image at one client: about twelve, of three digits.
30 clients are never trained on. The network is one of Flax NNX with two normalised layers and a local head;
where not said otherwise its statistics are averaged over the clients. A seen client is scored on a quarter of
its images, which training did not have, an unseen one on every other image, after it fitted its head to the
rest. The command can be interrupted and goes on; it needs Flax and scikit-learn.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from scipy.stats import t
from sklearn.datasets import load_digits

import fedrecon as fr
from fedrecon._files import write_atomically
from fedrecon.algorithms import fedalt, fedrep
from fedrecon.core import HeldOut
from fedrecon.experiment.reporting.tables import markdown
from fedrecon.experiment.training.run_experiment import console

CLIENTS, UNSEEN, CLASSES_EACH, CLASSES = 150, 30, 3, 10
COHORT, ROUNDS, HEAD_STEPS = 40, 100, 20
TUNING_SEED = 100  # of the split on which the learning rates were chosen
RATES = (0.03, 0.1, 0.3, 1.0, 3.0)


class Network(nnx.Module):
    """Two normalised layers and a head that starts at zero."""

    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Linear(64, 64, rngs=rngs)
        self.norm1 = nnx.BatchNorm(64, momentum=0.8, rngs=rngs)
        self.second = nnx.Linear(64, 32, rngs=rngs)
        self.norm2 = nnx.BatchNorm(32, momentum=0.8, rngs=rngs)
        self.head = nnx.Linear(32, CLASSES, kernel_init=nnx.initializers.zeros, rngs=rngs)

    def __call__(self, x: Any, mask: Any) -> Any:
        x = nnx.relu(self.norm1(self.first(x), mask=mask[:, None]))
        x = nnx.relu(self.norm2(self.second(x), mask=mask[:, None]))
        return self.head(x)


def loss(net: Any, batch: Any) -> fr.Mean:
    """The cross-entropy of the digit."""
    scores = net(batch["image"], batch["example_mask"])
    return fr.Mean.of(optax.softmax_cross_entropy_with_integer_labels(scores, batch["digit"]))


def metrics(net: Any, batch: Any) -> dict[str, fr.Mean]:
    """The share of images whose digit has the highest score, among all ten."""
    best = jnp.argmax(net(batch["image"], batch["example_mask"]), -1)
    return {"accuracy": fr.Mean.of((best == batch["digit"]).astype(jnp.float32))}


def model(*local: Any) -> fr.Model:
    """The network as a model whose head is local, and what else is named."""
    return fr.models.from_nnx(Network, loss=loss, metrics=metrics, local=(fr.is_local("head"), *local))


def sgd(rate: float, epochs: int = 1) -> fr.Solver:
    """Steps on all examples of a client at once."""
    return fr.Solver(fr.optimizer("sgd", learning_rate=rate), None, epochs=epochs)


class Approach(NamedTuple):
    """A row of the table.

    Attributes:
        name: Its name.
        folder: The name of its results' files.
        make: Makes the algorithm of the learning rates of the update phase and of the local parameters.
        rates: These rates, which had the best accuracy on unseen clients of the split for tuning.
    """

    name: str
    folder: str
    make: Callable[[float, float], fr.Algorithm]
    rates: tuple[float, float]


def server() -> Any:
    """The optimiser of the server: the mean of the clients' changes."""
    return fr.optimizer("sgd", learning_rate=1.0)


def averaged(rate: float) -> fr.Algorithm:
    """Federated averaging of all parameters."""
    return fr.fedavg(model(), sgd(rate, 5), server())


APPROACHES = (
    Approach("FedAvg", "fedavg", lambda a, b: averaged(a), (1.0, 0.03)),
    Approach(
        "FedAvg, then fine-tuning of all parameters",
        "finetuning",
        lambda a, b: fr.finetuning(averaged(a), sgd(b, 5)),
        (3.0, 0.3),
    ),
    Approach(
        "FedRep", "fedrep", lambda a, b: fedrep(model(), sgd(b, HEAD_STEPS), sgd(a), server()), (3.0, 0.03)
    ),
    Approach(
        "FedAlt", "fedalt", lambda a, b: fedalt(model(), sgd(b, HEAD_STEPS), sgd(a, 5), server()), (3.0, 0.1)
    ),
    Approach(
        "FedRecon",
        "fedrecon",
        lambda a, b: fr.fedrecon(model(), sgd(b, HEAD_STEPS), sgd(a, 5), server(), fr.AlternateExamples()),
        (1.0, 0.1),
    ),
    Approach(
        "FedAlt, statistics local",
        "fedalt-local",
        lambda a, b: fedalt(model(nnx.BatchStat), sgd(b, HEAD_STEPS), sgd(a, 5), server()),
        (3.0, 0.03),
    ),
    Approach(
        "FedRecon, statistics local",
        "fedrecon-local",
        lambda a, b: fr.fedrecon(
            model(nnx.BatchStat), sgd(b, HEAD_STEPS), sgd(a, 5), server(), fr.AlternateExamples()
        ),
        (0.3, 0.3),
    ),
)


def homes(seed: int) -> list[dict[str, np.ndarray]]:
    """The images of each client, in random order, each image at one client.

    Every class goes to as many clients as every other, and its images are dealt out to them in turn.
    """
    digits, rng = load_digits(), np.random.default_rng(seed)
    places = _classes(rng)
    owner = np.zeros(len(digits.target), int)
    for digit in range(CLASSES):
        images = rng.permutation(np.flatnonzero(digits.target == digit))
        owner[images] = np.resize(rng.permutation(np.flatnonzero((places == digit).any(1))), len(images))
    cut = []
    for client in range(CLIENTS):
        own = rng.permutation(np.flatnonzero(owner == client))
        held_out = np.arange(len(own)) >= len(own) - len(own) // 4
        image = (digits.data[own] / 16).astype(np.float32)
        cut.append({"image": image, "digit": digits.target[own].astype(np.int32), "held_out": held_out})
    return cut


def _classes(rng: np.random.Generator) -> np.ndarray:
    """Three different classes for each client, `[client, 3]`, each class as often as every other."""
    while True:
        places = np.array([rng.permutation(CLASSES) for _ in range(CLIENTS * CLASSES_EACH // CLASSES)])
        dealt = places.reshape(CLIENTS, CLASSES_EACH)
        if all(len(set(row)) == CLASSES_EACH for row in dealt.tolist()):
            return dealt
        # Three in a row of a permutation differ; where a client's go over an end they may not: deal again.


def run(approach: Approach, seed: int, rates: tuple[float, float], rounds: int) -> dict[str, float]:
    """Trains an algorithm, and measures its accuracy on seen and on unseen clients."""
    whole = dict(enumerate(homes(seed)))
    seen = {i: x for i, x in whole.items() if i >= UNSEEN}
    kept = {
        i: {name: x[name][~x["held_out"]] for name in ("image", "digit", "held_out")} for i, x in seen.items()
    }
    algorithm, started = approach.make(*rates), time.monotonic()
    simulation = fr.Simulation(algorithm, fr.Clients.from_arrays(kept), fr.Uniform(COHORT), seed=seed)
    state = simulation.init()
    for each in simulation.rounds(state, rounds):
        state = each.state
    unseen = fr.Clients.from_arrays({i: x for i, x in whole.items() if i < UNSEEN})
    states = simulation.client_states
    scores = {
        "seen": fr.evaluate(
            algorithm, state, fr.Clients.from_arrays(seen), split=HeldOut(), client_states=states, seed=seed
        ),
        "unseen": fr.evaluate(algorithm, state, unseen, split=fr.AlternateExamples(), seed=seed),
    }
    measured = {name: score.over_examples()["accuracy"] for name, score in scores.items()}
    return {**measured, "seconds": time.monotonic() - started}


def interval(values: list[float]) -> str:
    """Mean and half the width of its 95 % confidence interval (Student's t), in percent."""
    mean, count = np.mean(values), len(values)
    if count < 2:
        return f"{100 * mean:.1f}"
    half = t.ppf(0.975, count - 1) * np.std(values, ddof=1) / np.sqrt(count)
    return f"{100 * mean:.1f} ± {100 * half:.1f}"


def main() -> int:
    """Runs what is left to run, and prints the table."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--seeds", type=int, default=5, help="of the clients and of all draws (default: 5)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"of each run (default: {ROUNDS})")
    parser.add_argument("--only", nargs="+", help="folders of the approaches to run (default: all)")
    parser.add_argument("--tune", action="store_true", help="compare learning rates on another split")
    parser.add_argument("--out", type=Path, default=Path("runs/digits"), help="default: runs/digits")
    options = parser.parse_args()
    screen = console()
    chosen = [x for x in APPROACHES if not options.only or x.folder in options.only]
    options.out.mkdir(parents=True, exist_ok=True)

    def measured(approach: Approach, seed: int, rates: tuple[float, float]) -> dict[str, float]:
        name = f"{approach.folder}-{seed}-{options.rounds}-{rates[0]}-{rates[1]}.json"
        path = options.out / name
        if not path.exists():
            result = run(approach, seed, rates, options.rounds)
            write_atomically(path, json.dumps(result) + "\n")
            screen.print(f"{name}: {result}", markup=False)
        stored: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
        return stored

    if options.tune:
        for approach in chosen:
            # One rate after the other: that of the update phase with the second at its middle, then that one.
            first = max(RATES, key=lambda a: measured(approach, TUNING_SEED, (a, 0.3))["unseen"])
            second = max(RATES, key=lambda b: measured(approach, TUNING_SEED, (first, b))["unseen"])
            screen.print(f"{approach.name}: {first}, {second}", markup=False)
        return 0
    results = {x.folder: [measured(x, seed, x.rates) for seed in range(options.seeds)] for x in chosen}
    base = results.get("fedrecon")
    rows = [["approach", "seen accuracy %", "unseen accuracy %", "unseen, less FedRecon"]]
    for approach in chosen:
        runs = results[approach.folder]
        less = [x["unseen"] - y["unseen"] for x, y in zip(runs, base, strict=True)] if base else []
        rows.append(
            [
                approach.name,
                interval([x["seen"] for x in runs]),
                interval([x["unseen"] for x in runs]),
                interval(less) if less and approach.folder != "fedrecon" else "",
            ]
        )
    table = markdown(rows)
    write_atomically(options.out / "digits.md", table + "\n")
    screen.print(table, markup=False)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
