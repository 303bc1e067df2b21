"""A run that starts from what a private run released takes over its ledger."""

from dataclasses import replace

import pytest
from tests.small import LENGTHS, federation, rating_model, sgd, solver

import fedrecon as fr
from fedrecon.algorithms._building_blocks import uniform
from fedrecon.core._splits import AlternateBatches
from fedrecon.data._sampling import Everyone, Passes, Poisson
from fedrecon.privacy._ledger import Ledger
from fedrecon.privacy._user_level import user_level_dp

CLIENTS, N = federation(), len(LENGTHS)


def private(**changed):
    base = fr.fedrecon(
        rating_model(), solver(), solver(), sgd(1.0), AlternateBatches(2), client_weight=uniform
    )
    settings = {"rounds": 6, "sampling": Everyone(), "num_clients": N, "delta": 1e-3, **changed}
    if "epsilon" not in settings:
        settings["noise_multiplier"] = 3.0
    return user_level_dp(base, clip=0.3, **settings)


def test_two_runs_are_as_one_of_all_their_releases():
    earlier = private().privacy.ledger(6)
    both, whole = private(earlier=earlier).privacy, private(rounds=12).privacy
    assert both.epsilon(0) == pytest.approx(earlier.epsilon, rel=1e-6)
    for rounds in (1, 3, 6):
        assert both.epsilon(rounds) == pytest.approx(whole.epsilon(6 + rounds), rel=1e-6)
    ledger = both.ledger(6)
    assert (ledger.releases, ledger.accountant) == (12, "gaussian")
    assert "after 6 releases of the run before" in ledger.mechanism


def test_noise_is_calibrated_for_both():
    earlier = private().privacy.ledger(6)
    target = earlier.epsilon + 1
    algorithm = private(epsilon=target, earlier=earlier)
    assert 0.999 * target < algorithm.privacy.epsilon(6) <= target
    with pytest.raises(ValueError, match=r"epsilon must be above the .* that the run before has spent"):
        private(epsilon=0.9 * earlier.epsilon, earlier=earlier)
    with pytest.raises(ValueError, match="budget must be above the"):
        private(budget=0.9 * earlier.epsilon, earlier=earlier)


def test_epsilons_and_deltas_of_other_accountants_are_added():
    pytest.importorskip("dp_accounting", reason="needs the extra 'privacy'")
    earlier = private(delta=2e-4).privacy.ledger(6)
    sampling = Poisson(probability=0.2)
    alone = private(sampling=sampling, delta=8e-4).privacy
    both = private(sampling=sampling, delta=1e-3, earlier=earlier).privacy
    assert both.epsilon(6) == pytest.approx(earlier.epsilon + alone.epsilon(6), rel=1e-3)
    with pytest.raises(ValueError, match=r"delta must be above the 0\.001 of the earlier run's ledger"):
        private(sampling=sampling, earlier=private().privacy.ledger(6)).privacy.epsilon(1)


def test_ledgers_of_other_neighbours_are_refused():
    with pytest.raises(ValueError, match="neighbours are those of the earlier run's ledger, 'zero_out'"):
        private(earlier=private(sampling=Passes(4)).privacy.ledger(6))


def test_training_takes_the_ledger_over():
    first = fr.train(private(rounds=2), CLIENTS, 2, sampling=Everyone())
    second = private(rounds=2, earlier=first.privacy)
    result = fr.train(second, CLIENTS, 2, sampling=Everyone(), initial_global_params=first.global_params)
    assert result.privacy.releases == 4
    assert result.privacy.epsilon == pytest.approx(private(rounds=4).privacy.epsilon(4), rel=1e-6)


def test_ledger_comes_back_from_its_values():
    ledger = replace(private().privacy.ledger(3), public_inputs={"items": "a list"})
    assert Ledger.from_values(ledger.values()) == ledger
