"""Every attack finds what is there to find without a protection, and fails under it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon.algorithms._base import Broadcast
from fedrecon.algorithms._building_blocks import uniform
from fedrecon.algorithms._fedrecon import fedrecon
from fedrecon.core._examples import Examples
from fedrecon.core._splits import NoSplit
from fedrecon.data._sampling import Everyone
from fedrecon.models._matrix_factorization import matrix_factorization
from fedrecon.privacy import attacks
from fedrecon.privacy._gaussian import gaussian_noise_multiplier
from fedrecon.privacy._user_level import user_level_dp
from fedrecon.solvers._gradient import Solver
from fedrecon.solvers._newton import Newton
from fedrecon.solvers._optimizers import optimizer

ITEMS, FACTORS, USERS, RATED, RATE = 200, 5, 60, 20, 1.0
MODEL = matrix_factorization(
    ITEMS, FACTORS, item_bias=True, user_bias=True, global_bias=3.6, user_penalty=5.0, user_bias_penalty=5.0
)
SGD = optimizer("sgd", learning_rate=RATE)
PLAIN = fedrecon(MODEL, Newton(), Solver(SGD, None, reduction="sum"), SGD, NoSplit(), client_weight=uniform)


@pytest.fixture(scope="module")
def users():
    """Items and ratings of every user, from planted tastes."""
    rng = np.random.default_rng(0)
    params = {"item": {"factors": rng.normal(size=(ITEMS, FACTORS)), "bias": 0.3 * rng.normal(size=ITEMS)}}
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    items = np.stack([rng.choice(ITEMS, RATED, replace=False) for _ in range(USERS)])
    tastes = 0.5 * rng.normal(size=(USERS, FACTORS))
    scores = 3.6 + np.einsum("urf,uf->ur", np.asarray(params["item"]["factors"])[items], tastes)
    ratings = np.clip(np.rint(scores + 0.5 * rng.normal(size=scores.shape)), 1, 5)
    return params, items, ratings


def attacked(algorithm, users):
    """What is recovered from each user's update, and the true vectors."""
    params, items, ratings = users
    old = attacks.ItemDelta(*(np.asarray(params["item"][name]) for name in ("factors", "bias")))

    @jax.jit
    def sent(item, rating):
        broadcast, key = Broadcast(params, jnp.int32(0)), jax.random.key(0)
        given = Examples({"item": item, "rating": rating}, jnp.ones(RATED, bool))
        update = algorithm.client_update(broadcast, (), given, key)[0]
        dense = algorithm.privacy is not None or not update.rows
        local = algorithm.personalize(broadcast, (), given, key)["user"]["factors"]
        return update.delta.total["item"], update.rows if not dense else {}, local

    recovered, vectors = [], []
    for item, rating in zip(items, ratings, strict=True):
        delta, rows, vector = jax.device_get(
            sent(jnp.asarray(item, jnp.int32), jnp.asarray(rating, jnp.float32))
        )
        whole = {}
        for name, value in delta.items():
            table = np.zeros_like(np.asarray(params["item"][name]))
            ids = rows.get(f"item/{name}")
            if ids is None:
                table = value
            else:
                np.add.at(table, ids, value)
            whole[name] = table
        found = attacks.ItemDelta(whole["factors"], whole["bias"])
        recovered.append(attacks.recover_user(found, old, step=2 * RATE, global_bias=3.6))
        vectors.append(vector)
    return attacks.findings(recovered, list(items), list(ratings), vectors)


def test_an_unprotected_update_gives_the_user_away(users):
    found = attacked(PLAIN, users)
    assert found.item_precision == 1.0
    assert found.item_recall > 0.99
    assert found.vector_cosine > 0.999
    assert found.users_ratings_exact >= 0.85


def test_clipping_alone_protects_nothing(users):
    """Noise is added by the server: whoever sees an update before must be trusted."""
    algorithm = user_level_dp(
        PLAIN, clip=0.5, rounds=1, delta=1e-3, sampling=Everyone(), num_clients=USERS, epsilon=1.0
    )
    found = attacked(algorithm, users)
    assert found.item_precision == 1.0
    assert found.vector_cosine > 0.999
    assert found.users_ratings_exact >= 0.85


def test_a_noised_sum_hides_which_items_a_user_has(users):
    """The rows of a noised sum tell no better than popularity whether a user has an item."""
    _, items, _ = users
    rng = np.random.default_rng(1)
    counts = np.bincount(items.ravel(), minlength=ITEMS).astype(float)
    member = np.zeros((USERS, ITEMS), bool)
    np.put_along_axis(member, items, True, axis=1)
    noise = gaussian_noise_multiplier(1.0, 1e-3) * np.sqrt(RATED) * rng.normal(size=ITEMS)
    popular = np.broadcast_to(counts, member.shape)
    noisy = np.broadcast_to(counts + noise, member.shape)
    by_popularity = attacks.membership_auc(popular.ravel(), member.ravel())
    assert attacks.membership_auc(noisy.ravel(), member.ravel()) <= by_popularity + 0.02
    own = np.where(member, 1.0, 0.0) + 1e-3 * rng.normal(size=member.shape)  # each user's own row
    assert attacks.membership_auc(own.ravel(), member.ravel()) > 0.99


def test_auc_is_that_of_the_rank_statistic():
    rng = np.random.default_rng(0)
    scores, member = rng.integers(0, 5, 200).astype(float), rng.random(200) < 0.3
    pairs = scores[member][:, None] - scores[~member][None]
    assert attacks.membership_auc(scores, member) == pytest.approx(np.mean((pairs > 0) + 0.5 * (pairs == 0)))
    with pytest.raises(ValueError, match="member must hold both kinds"):
        attacks.membership_auc(scores, np.ones(200, bool))


def test_pure_rows_become_few_in_large_sums():
    rng = np.random.default_rng(0)
    popularity = rng.dirichlet(np.full(ITEMS, 0.3))
    items = [rng.choice(ITEMS, 10, p=popularity) for _ in range(400)]
    shares = [attacks.pure_share(items, m) for m in (1, 10, 50, 200)]
    assert shares[0] == 1.0
    assert shares == sorted(shares, reverse=True) and shares[-1] < 0.1


@pytest.mark.parametrize(
    ("bound", "trials", "least"),
    [(attacks.gaussian_epsilon_lower_bound, 200, 0.4), (attacks.epsilon_lower_bound, 20, 0.3)],
)
def test_lower_bound_notices_too_little_noise_and_accuses_nobody_else(bound, trials, least):
    """A canary of the full norm, 10,000 noised sums, half of them with it: right in 95% of the trials."""
    epsilon, delta = 4.0, 1e-5
    noise, rng = gaussian_noise_multiplier(epsilon, delta), np.random.default_rng(0)

    def bounds(deviation):
        draws = (deviation * rng.normal(size=(2, 5_000)) for _ in range(trials))
        return np.array([bound(scores + 1, others, delta) for scores, others in draws])

    honest = bounds(noise)
    assert np.mean(honest > epsilon) <= 21 / 200
    assert np.median(honest) >= least * epsilon
    if bound is attacks.gaussian_epsilon_lower_bound:
        assert np.mean(bounds(noise / 3) > epsilon) >= 190 / 200
    else:
        assert np.median(bounds(noise / 3)) > np.median(honest)
