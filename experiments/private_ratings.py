"""MovieLens 1M under user-level differential privacy: the table of docs/results.md.

Every number that is taken from training clients is in the ledger: there is one release, of clipped sums per
item, and what is computed from it. Items, their genres and years, and the scale are public.

    python experiments/private_ratings.py path/to/ml-1m --splits 5 --keys 5
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

import fedrecon as fr
from fedrecon.core import Model
from fedrecon.datasets.ratings import Catalogue, load
from fedrecon.models import matrix_factorization

SCALE, DELTA = (1.0, 5.0), 1e-5
MIDDLE = sum(SCALE) / 2
PUBLIC = {"items, genres, years": "movies.dat", "scale": "1 to 5 stars", "clients": "their number"}


def serving(num_items: int, features: int, penalty: float = 12.0) -> fr.Algorithm:
    """How users are served: their bias and their taste for public features, by ridge regression."""
    model = matrix_factorization(
        num_items,
        features,
        item_bias=True,
        user_bias=True,
        global_bias=MIDDLE,
        user_penalty=penalty,
        user_bias_penalty=1.0,
    )
    sgd = fr.optimizer("sgd", learning_rate=1.0)  # of rounds that are not run: the tables are given
    return fr.fedrecon(_from_zero(model), fr.Newton(), fr.Solver(sgd, None), sgd)


def _from_zero(model: Model) -> Model:
    def start(params: Any, key: Any) -> Any:
        return {"user": {"factors": jnp.zeros(params["item"]["factors"].shape[1]), "bias": jnp.zeros(())}}

    return replace(model, init_local=start)


def rmse(algorithm: fr.Algorithm, params: Any, clients: fr.Clients) -> float:
    """ReconEval's RMSE over examples."""
    state = fr.ServerState(params, (), (), jnp.zeros((), jnp.int32))
    return fr.evaluate(algorithm, state, clients).over_examples()["rmse"]


class Split(NamedTuple):
    """Training and test clients of a random split, and what is public of the items."""

    number: int
    train: fr.Clients
    test: fr.Clients
    features: np.ndarray

    @staticmethod
    def of(path: Path, number: int, catalogue: Catalogue) -> "Split":
        """Reads the ratings, whose items become rows of the public list."""
        sets = load(path, seed=number, cap=300, fractions={"train": 0.8, "validation": 0.1, "test": 0.1})
        train, test = (catalogue.rows_of(sets[name]).select("item", "rating") for name in ("train", "test"))
        return Split(number, train, test, catalogue.features)


def measured(split: Split, algorithm: fr.Algorithm) -> Iterator[dict[str, Any]]:
    """What one release is worth, with biases alone and with the public features."""
    result = fr.train(algorithm, split.train, 1, sampling=fr.Everyone())
    spent = None if result.privacy is None else result.privacy.epsilon
    num_items = len(split.features)
    for kind in ("biases", "features"):
        known = split.features if kind == "features" else None
        table = np.zeros((num_items, 1), np.float32) if known is None else known
        found = fr.privacy.item_biases(algorithm, result.global_params, known, len(split.train))
        params = fr.privacy.item_parameters(found, table)
        value = rmse(serving(num_items, table.shape[1]), params, split.test)
        yield {"split": split.number, "model": kind, "spent": spent, "rmse": value}


def rows(path: Path, splits: int, keys: int, epsilons: list[float]) -> Iterator[dict[str, Any]]:
    """One measurement after the other."""
    catalogue = Catalogue.read(path)
    num_items = len(catalogue.ids)
    for number in range(splits):
        split = Split.of(path, number, catalogue)
        for row in measured(split, fr.privacy.item_sums(num_items, middle=MIDDLE)):
            yield {"release": "not private", **row}
        for epsilon in epsilons:
            private = fr.privacy.private_item_sums(
                num_items, len(split.train), epsilon=epsilon, delta=DELTA, scale=SCALE, public_inputs=PUBLIC
            )
            for key in range(keys):
                for row in measured(split, private):
                    yield {"release": "private", "epsilon": epsilon, "key": key, **row}


def main() -> None:
    """Measures, prints and writes one line of JSON for each number."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path, help="the folder of MovieLens 1M, with movies.dat")
    parser.add_argument("--splits", type=int, default=5, help="random splits of the users, from seed 0 on")
    parser.add_argument("--keys", type=int, default=5, help="noise keys for each")
    parser.add_argument("--epsilon", type=float, action="append", help="may be given several times")
    parser.add_argument("--out", type=Path, default=Path("private_ratings.jsonl"))
    arguments = parser.parse_args()
    epsilons = arguments.epsilon or [8.0, 4.0, 1.0]
    with open(arguments.out, "w") as file:
        for row in rows(arguments.path, arguments.splits, arguments.keys, epsilons):
            file.write(json.dumps(row) + "\n")
            file.flush()
            print(row, flush=True)


if __name__ == "__main__":
    main()
