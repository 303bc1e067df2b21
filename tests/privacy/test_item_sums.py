"""Item biases from one release of clipped sums, by hand and on generated ratings."""

import jax
import numpy as np
import pytest
from tests.small import ITEMS, federation, rating_model, sgd, solver

import fedrecon as fr
from fedrecon.core._model import leaves_of
from fedrecon.data._clients import Clients
from fedrecon.data._sampling import Everyone
from fedrecon.datasets.ratings._catalogue import Catalogue
from fedrecon.errors import DataError
from fedrecon.privacy._item_biases import item_biases, item_parameters, private_item_sums
from fedrecon.privacy._item_sums import item_sums
from fedrecon.privacy._user_level import user_level_dp
from fedrecon.simulation._simulation import Simulation

MOVIES = (
    "7::Toy Story (1995)::Animation|Comedy\n"
    "3::Metropolis (1927)::Sci-Fi\n"
    "9::2001: A Space Odyssey (1968)::Drama|Sci-Fi\n"
)


def sums_by_hand(clients, bound, indicator=0.8, middle=3.0, shrink=3.0):
    sums, counts = np.zeros(ITEMS), np.zeros(ITEMS)
    for client in clients.ids:
        data = clients[client]
        above = data["rating"] - middle
        above = above - above.sum() / (len(above) + shrink)
        a, b = np.zeros(ITEMS), np.zeros(ITEMS)
        np.add.at(a, data["item"], above)  # an item that comes twice is one row
        np.add.at(b, data["item"], indicator)
        norm = np.sqrt(np.sum(a**2 + b**2))
        weight = min(1, bound / norm) if norm else 0
        sums += weight * a
        counts += weight * b
    return sums, counts


@pytest.mark.parametrize("repeats", [False, True])
def test_sums_are_those_of_residuals_clipped_by_client(repeats):
    clients = federation(repeats=repeats)
    algorithm = user_level_dp(
        item_sums(ITEMS, middle=3.0),
        clip=2.0,
        delta=1e-3,
        rounds=1,
        sampling=Everyone(),
        num_clients=len(clients),
        noise_multiplier=1e-9,
    )
    simulation = Simulation(algorithm, clients, Everyone())
    (round,) = simulation.rounds(simulation.init(), 1)
    sums, counts = sums_by_hand(clients, 2.0)
    released = leaves_of(round.state.global_params)
    np.testing.assert_allclose(released["item/sum"] * len(clients), sums, atol=1e-4)
    np.testing.assert_allclose(released["item/count"] * len(clients), counts, atol=1e-4)


def ratings(users=3000, items=60, seed=0):
    """Users' own means plus item biases that a feature explains in part; popular items are rated more."""
    rng = np.random.default_rng(seed)
    features = rng.integers(0, 2, (items, 2)).astype(np.float32)
    bias = 0.6 * features[:, 0] + 0.3 * rng.normal(size=items)
    popularity = rng.dirichlet(np.ones(items))
    chosen = np.stack([rng.choice(items, 12, replace=False, p=popularity) for _ in range(users)]).astype(
        np.int32
    )
    rating = 3 + rng.normal(0, 0.4, (users, 1)) + bias[chosen] + rng.normal(0, 0.8, chosen.shape)
    arrays = {i: {"item": chosen[i], "rating": rating[i].astype(np.float32)} for i in range(users)}
    return Clients.from_arrays(arrays), bias - bias.mean(), features


def error(found, bias):
    centred = found.bias - found.bias.mean()
    return float(np.sqrt(np.mean((centred - bias) ** 2)))


def test_more_epsilon_and_more_knowledge_make_better_biases():
    clients, bias, features = ratings()

    def released(algorithm):
        result = fr.train(algorithm, clients, 1, sampling=Everyone())
        return result, item_biases(algorithm, result.global_params, features, len(clients))

    errors = {}
    for epsilon in (0.1, 1.0, 8.0):
        algorithm = private_item_sums(
            60, len(clients), epsilon=epsilon, delta=1e-5, scale=(1.0, 5.0), public_inputs={"items": "a list"}
        )
        result, found = released(algorithm)
        errors[epsilon] = error(found, bias)
        assert result.privacy.releases == 1
        assert 0.999 * epsilon <= result.privacy.epsilon <= epsilon
        assert result.privacy.public_inputs == {"items": "a list"}
    exact = error(released(item_sums(60, middle=3.0))[1], bias)
    # From epsilon 1 on, noise and clipping move an estimate about alike, so that only 0.1 can be told apart.
    assert max(exact, errors[8.0], errors[1.0]) < 0.7 * errors[0.1] < 0.7 * bias.std()
    assert exact < 0.15 and errors[8.0] < 0.15
    without = item_biases(algorithm, result.global_params)
    assert without.bias.shape == (60,) and np.isfinite(without.bias).all()


def test_item_parameters_are_those_of_matrix_factorisation():
    clients, _, features = ratings(users=50)
    algorithm = private_item_sums(60, 50, epsilon=8.0, delta=1e-3, scale=(1.0, 5.0))
    result = fr.train(algorithm, clients, 1, sampling=Everyone())
    params = item_parameters(item_biases(algorithm, result.global_params, features), features)
    model = fr.models.matrix_factorization(60, 2, item_bias=True)
    shapes = jax.eval_shape(model.init_global, jax.random.key(0))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), params) == jax.tree.map(
        lambda x: (x.shape, x.dtype), shapes
    )


def test_biases_of_another_algorithm_are_refused():
    with pytest.raises(ValueError, match="num_clients must be given"):
        item_biases(item_sums(3, middle=3.0), {})
    with pytest.raises(ValueError, match="must be one of item_sums"):
        item_biases(fr.fedavg(rating_model(), solver(), sgd()), {})
    with pytest.raises(ValueError, match="must not select rows"):
        item_biases(protected(select_rows=fr.privacy.RowSelection()), {})


def protected(**others):
    return user_level_dp(
        item_sums(60, middle=3.0),
        clip=2.0,
        delta=1e-3,
        rounds=1,
        sampling=Everyone(),
        num_clients=50,
        noise_multiplier=1.0,
        **others,
    )


def test_noise_is_taken_for_what_it_is_where_counts_have_some_of_the_privacy_loss():
    """The same release under a bound that follows the norms has more noise: counts are shrunk further."""
    generator = np.random.default_rng(0)
    counts = generator.exponential(0.2, 60).astype(np.float32)
    params = {"item": {"sum": 0.1 * counts, "count": counts}}
    spreads = []
    for algorithm in (protected(), protected(clip_quantile=0.5)):
        noise = algorithm.privacy.noise_deviation(0) / 0.8
        estimated = counts.astype(np.float64) * algorithm.privacy.accounting.divisor / 0.8
        share = 1 - noise**2 / estimated.var()
        assert 0 < share < 1
        shrunk = np.maximum(estimated.mean() + share * (estimated - estimated.mean()), 0)
        np.testing.assert_allclose(item_biases(algorithm, params).counts, shrunk, rtol=1e-5)
        spreads.append(share)
    assert spreads[1] < spreads[0]


def test_catalogue_knows_genres_and_periods(tmp_path):
    (tmp_path / "movies.dat").write_text(MOVIES, encoding="latin-1")
    catalogue = Catalogue.read(tmp_path)
    assert catalogue.ids.tolist() == [7, 3, 9]
    assert catalogue.names[:4] == ("Animation", "Comedy", "Drama", "Sci-Fi")
    np.testing.assert_allclose(catalogue.features[0, :4], [0.5**0.5, 0.5**0.5, 0, 0])
    assert catalogue.features[:, 4:].argmax(1).tolist() == [3, 0, 1]
    clients = Clients.from_columns([5, 6], [0, 2, 3], {"item": np.array([0, 1, 1])}, {"item": [9, 7]})
    moved = catalogue.rows_of(clients)
    assert moved.column("item").tolist() == [2, 0, 0]
    assert moved.vocabularies["item"].tolist() == [7, 3, 9]
    unknown = Clients.from_columns([5], [0, 1], {"item": np.array([0])}, {"item": [8]})
    with pytest.raises(DataError, match="it lacks 8"):
        catalogue.rows_of(unknown)


def test_catalogue_must_be_there_and_whole(tmp_path):
    with pytest.raises(DataError, match=r"movies\.dat: the public list of items"):
        Catalogue.read(tmp_path / "ratings.dat")
    (tmp_path / "movies.dat").write_text(MOVIES + "4::No year::Drama\n", encoding="latin-1")
    with pytest.raises(DataError, match=r"movies\.dat:4: a line must be"):
        Catalogue.read(tmp_path)
