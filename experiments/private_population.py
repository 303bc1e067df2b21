"""How much privacy costs as the population grows, on generated ratings: a table of docs/results.md.

Ratings have the long tails of MovieLens 1M and as many items. One release of clipped sums per item gives item
biases; test users, who are never trained on, fit their own bias on their devices. Beside each private RMSE
stands that of the same biases without clipping and noise, from the same population.

    python -m experiments.private_population
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from experiments.private_ratings import MIDDLE, SCALE, rmse, serving

import fedrecon as fr
from fedrecon.datasets.ratings import arrange, synthetic

DELTA, ITEMS, TEST, CAP = 1e-6, 3_706, 2_000, 300
PUBLIC = {"items": "their number", "scale": "1 to 5 stars", "clients": "their number"}


def federation(users: int, seed: int) -> tuple[fr.Clients, fr.Clients]:
    """Training users and test users, at most 300 ratings of each."""
    everybody, _ = synthetic(users + TEST, ITEMS, seed=seed)
    capped = arrange(everybody, seed=seed, cap=CAP, fractions={"all": 1.0})["all"]
    columns = {name: np.array(capped.column(name)) for name in ("item", "rating")}
    # Without original ids: the numbers of the items are the rows of the tables.
    numbered = fr.Clients.from_columns(capped.ids, capped.offsets, columns)
    return numbered.take(range(users)), numbered.take(range(users, users + TEST))


def measured(algorithm: fr.Algorithm, train: fr.Clients, test: fr.Clients) -> dict[str, Any]:
    """What a release over all training users is worth to the test users."""
    result = fr.train(algorithm, train, 1, sampling=fr.Everyone())
    biases = fr.privacy.item_biases(algorithm, result.global_params, num_clients=len(train))
    params = fr.privacy.item_parameters(biases, np.zeros((ITEMS, 1), np.float32))
    spent = None if result.privacy is None else result.privacy.epsilon
    return {"rmse": rmse(serving(ITEMS, 1), params, test), "spent": spent}


def rows(
    populations: Sequence[int], epsilons: Sequence[float], keys: int, seed: int
) -> Iterator[dict[str, Any]]:
    """One measurement after the other; smaller populations are the first users of the largest one."""
    train, test = federation(max(populations), seed)
    for count in sorted(populations):
        some = train.take(range(count))
        plain = measured(fr.privacy.item_sums(ITEMS, middle=MIDDLE), some, test)
        yield {"users": count, "epsilon": None, **plain}
        for epsilon in epsilons:
            private = fr.privacy.private_item_sums(
                ITEMS, count, epsilon=epsilon, delta=DELTA, scale=SCALE, public_inputs=PUBLIC
            )
            found = [measured(private, some, test) for _ in range(keys)]
            values = np.array([row["rmse"] for row in found])
            yield {
                "users": count,
                "epsilon": epsilon,
                "spent": found[0]["spent"],
                "rmse": float(values.mean()),
                "loss": float(values.mean()) - plain["rmse"],
                "deviation": float(values.std(ddof=1)) if keys > 1 else None,
            }


def main() -> None:
    """Measures and prints one line of JSON for each number."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--users", type=int, action="append", help="training users; may be given several times"
    )
    parser.add_argument("--epsilon", type=float, action="append", help="may be given several times")
    parser.add_argument("--keys", type=int, default=5, help="noise keys for each")
    parser.add_argument("--seed", type=int, default=0, help="of the generated ratings")
    arguments = parser.parse_args()
    populations = arguments.users or [2_500, 5_000, 10_000, 20_000, 50_000, 100_000]
    for row in rows(populations, arguments.epsilon or [8.0, 4.0, 1.0], arguments.keys, arguments.seed):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
