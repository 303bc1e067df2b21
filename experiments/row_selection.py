"""What selecting rows by noised counts is worth on a table of 100,000 items: a table of docs/results.md.

Ratings are generated: item i is rated in proportion to (i + 1)^-1.1, so that half of the items have no
rating. The model has one factor and item biases, trained by Adam, under which noise alone moves a row as far
as ratings do.

    python -m experiments.row_selection
"""

import argparse
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

import fedrecon as fr
from fedrecon.models import matrix_factorization

MIDDLE, DELTA, CLIP, DRAWS = 3.5, 1e-5, 2.0, 30
RULES = (None, (0.1, 3.0), (0.4, 2.0))


def ratings(num_items: int, num_clients: int, seed: int) -> fr.Clients:
    """Clients with up to 30 ratings each: item bias + user bias + product of two factors + noise of .7."""
    truth, generator = np.random.default_rng(99), np.random.default_rng(seed)
    bias, factor = truth.normal(0, 0.5, num_items), truth.normal(0, 0.6, num_items)
    popularity = np.cumsum(np.arange(1, num_items + 1) ** -1.1)
    items, values, offsets = [], [], [0]
    for _ in range(num_clients):
        places = np.searchsorted(popularity, generator.random(DRAWS) * popularity[-1])
        drawn = generator.permutation(np.unique(np.minimum(places, num_items - 1)))
        rating = MIDDLE + bias[drawn] + generator.normal(0, 0.4) + factor[drawn] * generator.normal()
        items.append(drawn)
        values.append(rating + generator.normal(0, 0.7, len(drawn)))
        offsets.append(offsets[-1] + len(drawn))
    columns = {
        "item": np.concatenate(items).astype(np.int32),
        "rating": np.concatenate(values).astype(np.float32),
    }
    names = np.array([f"{seed}/{i}" for i in range(num_clients)])
    return fr.Clients.from_columns(names, np.array(offsets), columns)


def algorithm_of(num_items: int) -> fr.Algorithm:
    """Federated Reconstruction by exact solves, with Adam at the server."""
    model = matrix_factorization(
        num_items,
        1,
        item_bias=True,
        user_bias=True,
        global_bias=MIDDLE,
        init="normal",
        init_scale=0.1,
        user_penalty=1.0,
        user_bias_penalty=1.0,
        accuracy_within=None,
    )
    update = fr.Solver(fr.optimizer("sgd", learning_rate=0.5), None, reduction="sum")
    adam, split = fr.optimizer("adam", learning_rate=0.1), fr.splits.RandomFraction(0.5)
    return fr.fedrecon(model, fr.Newton(), update, adam, split, client_weight=fr.algorithms.uniform)


def rows(
    num_items: int, num_clients: int, rounds: int, epsilons: list[float], keys: int
) -> Iterator[dict[str, Any]]:
    """One trained model after the other, with the share of rows that changed and the test RMSE."""
    train, test = ratings(num_items, num_clients, 1), ratings(num_items, 1000, 2)
    plain, everyone = algorithm_of(num_items), fr.Everyone()

    def measured(algorithm: fr.Algorithm) -> dict[str, float]:
        result = fr.train(algorithm, train, rounds, sampling=everyone)
        changed = float(np.mean(np.asarray(result.global_params["item"]["bias"]) != 0))
        return {
            "changed": changed,
            "rmse": fr.evaluate(algorithm, result.state, test).over_examples()["rmse"],
        }

    start = fr.Simulation(plain, train, everyone).init()
    untrained = fr.evaluate(plain, start, test).over_examples()["rmse"]
    yield {"release": "not trained", "changed": 0.0, "rmse": untrained}
    yield {"release": "not private", **measured(plain)}
    for epsilon in epsilons:
        for rule in RULES:
            private = fr.privacy.user_level_dp(
                plain,
                clip=CLIP,
                epsilon=epsilon,
                delta=DELTA,
                rounds=rounds,
                sampling=everyone,
                num_clients=num_clients,
                select_rows=None if rule is None else fr.privacy.RowSelection(*rule),
            )
            for key in range(keys):
                yield {
                    "release": "private",
                    "epsilon": epsilon,
                    "rule": rule,
                    "key": key,
                    **measured(private),
                }


def main() -> None:
    """Measures and prints one line of JSON for each number."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=100_000, help="rows of the table")
    parser.add_argument("--clients", type=int, default=20_000, help="training clients")
    parser.add_argument("--rounds", type=int, default=12, help="rounds over all clients")
    parser.add_argument("--epsilon", type=float, action="append", help="may be given several times")
    parser.add_argument("--keys", type=int, default=3, help="noise keys for each")
    arguments = parser.parse_args()
    epsilons = arguments.epsilon or [8.0, 2.0, 1.0]
    for row in rows(arguments.items, arguments.clients, arguments.rounds, epsilons, arguments.keys):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
