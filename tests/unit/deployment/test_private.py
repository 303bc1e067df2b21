"""A server of a private algorithm: noise at every step, cohorts from a secret, the accounting's rounds."""

import jax
import numpy as np
import pytest
from tests.small import federation, rating_model, sgd, solver

from fedrecon.algorithms._building_blocks import uniform
from fedrecon.algorithms._fedrecon import fedrecon
from fedrecon.core._splits import AlternateBatches
from fedrecon.data._sampling import Everyone, Passes, Poisson
from fedrecon.deployment._endpoint import Endpoint
from fedrecon.deployment._node import Node
from fedrecon.deployment._rounds import STATE, run_rounds
from fedrecon.deployment._server import Server
from fedrecon.deployment._store import Store
from fedrecon.privacy._secret import Secret
from fedrecon.privacy._user_level import user_level_dp
from fedrecon.simulation._simulation import Simulation

pytest.importorskip("dp_accounting")
CLIENTS = federation(repeats=True)
NAMES = CLIENTS.ids.tolist()
SECRET = Secret(bytes(range(32)))
MODEL = rating_model(two_fields=True, scale=True)
BASE = fedrecon(MODEL, solver(), solver(), sgd(1.0), AlternateBatches(2), client_weight=uniform)


def private(sampling=Everyone(), **changed):  # noqa: B008
    settings = {"clip": 0.3, "rounds": 3, "delta": 1e-3, "noise_multiplier": 1.0, **changed}
    return user_level_dp(BASE, sampling=sampling, num_clients=len(NAMES), **settings)


def trained(algorithm, folder, rounds=2):
    """The state after rounds over messages."""
    node = Node(algorithm, Store(CLIENTS), seed=3, run="trial")

    class Direct:
        def exchange(self, messages, seconds):
            return (node.handle(data) for _, data in messages)

    server = Server(algorithm, NAMES, algorithm.privacy.sampling, seed=3, run="trial", secret=SECRET)
    list(run_rounds(Endpoint(server), Direct(), rounds, folder))
    return server


def difference(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.max(np.abs(np.asarray(x) - np.asarray(y)), initial=0)) for x, y in pairs)


def test_with_next_to_no_noise_it_is_the_simulation(tmp_path):
    algorithm = private(noise_multiplier=1e-9)
    simulation = Simulation(algorithm, CLIENTS, Everyone(), seed=3, secret=SECRET)
    *_, last = simulation.rounds(simulation.init(), 2)
    server = trained(algorithm, tmp_path)
    assert difference(server.state.global_params, last.state.global_params) <= 1e-5
    assert int(server.state.privacy.releases) == 2


def test_noise_has_the_size_of_the_accounting_and_comes_anew(tmp_path):
    algorithm = private(noise_multiplier=1000.0)
    one, other = trained(algorithm, tmp_path / "1", 1), trained(algorithm, tmp_path / "2", 1)
    without = trained(private(noise_multiplier=1e-9), tmp_path / "3", 1)
    deviation = 1000.0 * 0.3 / len(NAMES)
    flat = [
        np.concatenate([np.ravel(x) for x in jax.tree.leaves(s.state.global_params)])
        for s in (one, other, without)
    ]
    count = flat[0].size
    assert np.std(flat[0] - flat[2]) == pytest.approx(deviation, rel=6 / np.sqrt(2 * count))
    assert np.corrcoef(flat[0] - flat[2], flat[1] - flat[2])[0, 1] < 6 / np.sqrt(count)
    # The key of the noise is in no file.
    assert not np.any(np.asarray(one.state.privacy.noise_key))
    server = Server(algorithm, NAMES, Everyone(), seed=3, run="trial", secret=SECRET)
    server.restore(tmp_path / "1" / STATE)
    assert int(server.state.privacy.releases) == 1


def test_cohorts_follow_from_the_secret_and_not_from_the_seed():
    sampling = Poisson(probability=0.5)
    algorithm = private(sampling)

    def cohorts(seed, secret):
        servers = Server(algorithm, NAMES, sampling, seed=seed, secret=secret)
        return [
            servers._sampling.indices(i, servers._num_examples, servers._cohort_seed).tolist()
            for i in range(20)
        ]

    assert cohorts(3, SECRET) == cohorts(4, SECRET)
    assert cohorts(3, SECRET) != cohorts(3, Secret(bytes(32)))
    assert cohorts(3, None) != cohorts(3, None)


def test_what_the_accounting_does_not_cover_is_refused(tmp_path):
    algorithm = private()
    with pytest.raises(ValueError, match="num_clients must be what user_level_dp accounts for"):
        Server(algorithm, NAMES[:-1], Everyone())
    with pytest.raises(ValueError, match="sampling must be what user_level_dp accounts for"):
        Server(algorithm, NAMES, Poisson(probability=0.5))
    fixed = Passes(3, order="fixed")
    for other, cohorts in ((private(fixed, noise_bands=2), fixed), (private(clip_quantile=0.5), Everyone())):
        with pytest.raises(ValueError, match="neither correlated noise nor an adaptive clipping bound yet"):
            Server(other, NAMES, cohorts)
    with pytest.raises(ValueError, match="rounds must be at most the 3 that"):
        trained(algorithm, tmp_path, 4)


def test_late_updates_are_refused():
    algorithm = private()
    with pytest.raises(ValueError, match="max_staleness must be 0 for a private algorithm, got 1"):
        Server(algorithm, NAMES, algorithm.privacy.sampling, secret=SECRET, max_staleness=1)
