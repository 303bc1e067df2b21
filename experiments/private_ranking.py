"""HR@10 and NDCG@10 of the latest item on MovieLens 1M, from one private release: a table of docs/results.md.

The release is the one of `private_ratings.py`, of clipped sums per item. Its noised counts and the public
genres and years make an item's row; a user's vector is fitted on the user's own device, as for implicit
feedback.

    python -m experiments.private_ranking path/to/ml-1m
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from experiments.private_ratings import DELTA, MIDDLE, PUBLIC, SCALE, Split

import fedrecon as fr
from fedrecon.datasets.ratings import Catalogue
from fedrecon.evaluation import Ranking
from fedrecon.models import implicit_factorization
from fedrecon.simulation import TrainedState

# Chosen on the validation users of split 0, of three powers, two weights and two penalties.
POWER, UNOBSERVED, PENALTY = 0.5, 0.2, 0.003
# The recipe of ranking-unseen.toml, which is not private.
FACTORS, LEARNING_RATE, ROUNDS, COHORT = 128, 0.02, 200, 200


def item_rows(counts: np.ndarray | None, features: np.ndarray | None) -> np.ndarray:
    """Rows of the item table, whose length grows with the root of how often an item was rated.

    Args:
        counts: The released count of each item, `[item]`; None for items that are all alike.
        features: Public features of each item, `[item, feature]`; None for popularity alone.
    """
    num_items = len(features) if counts is None else len(counts)  # type: ignore[arg-type]
    columns = np.ones((num_items, 1), np.float32)
    if features is not None:
        columns = np.concatenate([columns, features - features.mean(0)], 1)
    if counts is None:
        return columns
    often = np.maximum(counts, 0) + 1
    return ((often / often.max()) ** POWER)[:, None] * columns


def latest_held_out(clients: fr.Clients) -> fr.Clients:
    """Clients whose latest example is marked as the one to be found."""
    latest = clients.positions() == clients.num_examples[clients.owners()] - 1
    return clients.with_columns(held_out=latest.astype(np.int8)).select("item", "held_out")


def recommender(num_items: int, factors: int, unobserved: float, penalty: float) -> fr.Algorithm:
    """Federated Reconstruction for implicit feedback; served by one exact solve on the device."""
    model = implicit_factorization(num_items, factors, unobserved=unobserved, penalty=penalty)
    schedule = fr.solvers.schedule("cosine_decay_schedule", init_value=LEARNING_RATE, decay_steps=ROUNDS)
    update = fr.Solver(fr.optimizer("sgd", learning_rate=1.0), None, reduction="sum")
    adam = fr.optimizer("adam", learning_rate=schedule)
    uniform = fr.algorithms.uniform
    return fr.fedrecon(model, fr.Newton(), update, adam, fr.splits.NoSplit(), client_weight=uniform)


def scored(algorithm: fr.Algorithm, params: Any, clients: fr.Clients, num_items: int) -> dict[str, float]:
    """HR@10 and NDCG@10 over clients, in the whole catalogue and among 99 drawn items."""
    state = TrainedState.of(
        fr.ServerState(params, (), (), jnp.zeros((), jnp.int32)), dict(clients.vocabularies)
    )
    scoring = Ranking(num_items, negatives=99)
    return fr.evaluate(algorithm, state, clients, split=fr.splits.HeldOut(), scoring=scoring).over_clients()


def rows(path: Path, number: int, keys: int, epsilons: list[float]) -> Iterator[dict[str, Any]]:
    """One measurement after the other, on the test users of a split."""
    catalogue = Catalogue.read(path)
    split = Split.of(path, number, catalogue)
    test, features, num_items = latest_held_out(split.test), split.features, len(catalogue.ids)

    def served(table: np.ndarray) -> dict[str, float]:
        algorithm = recommender(num_items, table.shape[1], UNOBSERVED, PENALTY)
        return scored(algorithm, {"item": {"factors": jnp.asarray(table, jnp.float32)}}, test, num_items)

    def released(algorithm: fr.Algorithm) -> Iterator[dict[str, Any]]:
        result = fr.train(algorithm, split.train, 1, sampling=fr.Everyone())
        counts = fr.privacy.item_biases(algorithm, result.global_params, None, len(split.train)).counts
        spent = None if result.privacy is None else result.privacy.epsilon
        for name, known in (("popularity", None), ("popularity and features", features)):
            yield {"model": name, "spent": spent, **served(item_rows(counts, known))}

    yield {"release": "none", "model": "features", **served(item_rows(None, features))}
    for epsilon in epsilons:
        private = fr.privacy.private_item_sums(
            num_items, len(split.train), epsilon=epsilon, delta=DELTA, scale=SCALE, public_inputs=PUBLIC
        )
        for key in range(keys):
            for row in released(private):
                yield {"release": "private", "epsilon": epsilon, "key": key, **row}
    for row in released(fr.privacy.item_sums(num_items, middle=MIDDLE)):
        yield {"release": "not private", **row}
    algorithm = recommender(num_items, FACTORS, 0.13, 0.008)
    trained = fr.train(algorithm, split.train.select("item"), ROUNDS, sampling=fr.Passes(COHORT))
    metrics = scored(algorithm, trained.global_params, test, num_items)
    yield {"release": "not private", "model": f"{FACTORS} factors, {ROUNDS} rounds", **metrics}


def main() -> None:
    """Measures, prints and writes one line of JSON for each number."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path, help="the folder of MovieLens 1M, with movies.dat")
    parser.add_argument("--split", type=int, default=0, help="the seed of the split of the users")
    parser.add_argument("--keys", type=int, default=5, help="noise keys for each epsilon")
    parser.add_argument("--epsilon", type=float, action="append", help="may be given several times")
    parser.add_argument("--out", type=Path, default=Path("private_ranking.jsonl"))
    arguments = parser.parse_args()
    epsilons = arguments.epsilon or [8.0, 4.0, 1.0]
    with open(arguments.out, "w") as file:
        for row in rows(arguments.path, arguments.split, arguments.keys, epsilons):
            file.write(json.dumps(row) + "\n")
            file.flush()
            print(row, flush=True)


if __name__ == "__main__":
    main()
