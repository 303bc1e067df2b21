"""Recommends to users that training has never seen: reconstruct, then predict.

What a server would do with `result.state`, or a phone with the item table and its own ratings.
"""

import numpy as np

from fedrecon import Clients, Newton, Personalization, Solver, TopK, fedrecon, optimizer, train
from fedrecon.models import matrix_factorization

FILMS, TASTES = 60, 3


def users(count: int, seed: int) -> Clients:
    """Users who rate some films by a taste of their own."""
    films = np.random.default_rng(0).normal(size=(FILMS, TASTES))
    rng = np.random.default_rng(seed)
    found = {}
    for user in range(count):
        seen = rng.choice(FILMS, size=20, replace=False)
        ratings = 3 + films[seen] @ rng.normal(size=TASTES) / TASTES**0.5 + 0.1 * rng.normal(size=20)
        found[f"{seed}-{user}"] = {"item": seen, "rating": ratings.astype(np.float32)}
    return Clients.from_arrays(found)


def main() -> None:
    """Trains, then serves 5 new users."""
    model = matrix_factorization(FILMS, TASTES, item_bias=True, user_bias=True, user_penalty=0.1)
    update = Solver(optimizer("sgd", learning_rate=0.2), batch_size=5)
    algorithm = fedrecon(model, Newton(), update, optimizer("sgd", learning_rate=1.0))
    result = train(algorithm, users(400, seed=1), rounds=300, test=users(50, seed=2))
    print(result)

    new = users(5, seed=3)
    vectors = Personalization(algorithm, result.state, new.num_examples)(new)
    print("local parameters:", {name: values.shape for name, values in vectors.items()})

    top = TopK(3, field="item", items=FILMS)  # the best three that a user has not rated
    best = Personalization(algorithm, result.state, new.num_examples, top=top)(new)
    for user, films, scores in zip(new.ids, best["item"], best["score"], strict=True):
        print(f"user {user}:", "  ".join(f"film {i} ({s:.1f})" for i, s in zip(films, scores, strict=True)))


if __name__ == "__main__":
    main()
