"""What one update, and a sum of updates, of MovieLens 1M gives away: the table of docs/privacy.md.

python experiments/attacks.py path/to/ml-1m --users 600
python experiments/attacks.py path/to/ml-1m --users 600 --clip 1   # what the server gets before it adds noise
python experiments/attacks.py path/to/ml-1m --users 600 --bits 4   # or 8; --top 0.1: a tenth of the entries
"""

import argparse
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fedrecon as fr
from fedrecon.core import Examples
from fedrecon.datasets.ratings import load
from fedrecon.models import matrix_factorization
from fedrecon.privacy import attacks

CAP = 300
SPLIT = fr.RandomFraction(0.5)


def algorithm_of(
    num_items: int, mean: float, clip: float | None, num_clients: int, bits: int = 32, top: float = 1.0
) -> fr.Algorithm:
    """The recipe of movielens-newton.toml; with a bound, as it is before the server adds noise."""
    model = matrix_factorization(
        num_items,
        50,
        item_bias=True,
        user_bias=True,
        global_bias=mean,
        init="normal",
        init_scale=0.1,
        user_penalty=20.0,
        user_bias_penalty=5.0,
    )
    sgd = fr.optimizer("sgd", learning_rate=1.0)
    update = fr.Solver(sgd, None, reduction="sum")
    plain = fr.fedrecon(model, fr.Newton(), update, sgd, SPLIT, client_weight=fr.algorithms.uniform)
    if (bits, top) != (32, 1.0):
        plain = fr.privacy.compressed(plain, bits, top)
    if clip is None:
        return plain
    return fr.privacy.user_level_dp(
        plain, clip=clip, rounds=1, sampling=fr.Everyone(), num_clients=num_clients, delta=1e-5, epsilon=1.0
    )


def main() -> None:
    """Attacks the updates of the first round and prints what is found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path, help="the folder of MovieLens 1M")
    parser.add_argument("--users", type=int, default=600, help="training users that are attacked")
    parser.add_argument("--clip", type=float, help="bound on the norm of their deltas; none by default")
    parser.add_argument(
        "--bits", type=int, default=32, help="bits of an entry of their deltas; 32 by default"
    )
    parser.add_argument("--top", type=float, default=1.0, help="share of the entries that they send")
    arguments = parser.parse_args()
    train = load(arguments.path, seed=0, cap=CAP, fractions={"train": 0.8})["train"]
    mean = float(train.column("rating").mean(dtype=np.float64))
    algorithm = algorithm_of(
        len(train.vocabularies["item"]), mean, arguments.clip, len(train), arguments.bits, arguments.top
    )
    params = algorithm.init(jax.random.key(0)).global_params
    item = {name: np.asarray(x) for name, x in params["item"].items()}

    @jax.jit
    def sent(data: Any, count: Any, key: Any) -> Any:
        given = Examples(data, jnp.arange(CAP) < count)
        broadcast = fr.Broadcast(params, jnp.int32(0))
        update = algorithm.client_update(broadcast, (), given, key)[0]
        k_split, _ = fr.algorithms.subkeys(key, 2)  # as the algorithm draws its split
        support, query = SPLIT(given, k_split)
        vector = algorithm.personalize(broadcast, (), support, key)["user"]["factors"]
        return update.delta.value()["item"], update.rows, query, vector

    recovered, items, ratings, vectors = [], [], [], []
    for number, user in enumerate(list(train.ids)[: arguments.users]):
        data = train[user]
        count = len(data["rating"])
        padded = {f: np.pad(data[f], (0, CAP - count)) for f in ("item", "rating")}
        delta, rows, query, vector = jax.device_get(sent(padded, count, jax.random.key(number)))
        tables = {}
        for name, value in delta.items():
            ids = rows.get(f"item/{name}")
            tables[name] = value if ids is None else np.zeros_like(item[name])
            if ids is not None:
                np.add.at(tables[name], ids, value)
        found = attacks.ItemDelta(tables["factors"], tables["bias"])
        known = attacks.ItemDelta(item["factors"], item["bias"])
        recovered.append(attacks.recover_user(found, known, step=2.0, global_bias=mean))
        items.append(query.data["item"][query.mask])
        ratings.append(query.data["rating"][query.mask])
        vectors.append(vector)
    print(attacks.findings(recovered, items, ratings, vectors))
    for clients in (10, 50, 200):
        print(
            f"of {clients} summed: {attacks.pure_share(items, clients):.1%} of the pairs in rows of their own"
        )


if __name__ == "__main__":
    main()
