"""The check of a model's next state, and state in rounds, in serving and under privacy."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.batch_norm import clients, model

import fedrecon as fr
from fedrecon.core import fully_global, leaves_of
from fedrecon.core._model import view_of
from fedrecon.privacy import user_level_dp


def sgd(rate: float) -> Any:
    return fr.optimizer("sgd", learning_rate=rate)


def algorithm(made: Any, server: Any = None, **others: Any) -> Any:
    solver = fr.Solver(sgd(0.1), 3)
    return fr.fedrecon(made, solver, solver, server or sgd(1.0), fr.AlternateBatches(3), **others)


def whole_mean(params: Any, batch: Any, key: Any) -> Any:
    norm = {**params["norm"], "mean": (batch["x"] @ params["w"]).mean(0)}
    return {**params, "norm": norm}


def other(change: Any) -> Any:
    return lambda params, batch, key: {**params, "norm": change(params["norm"])}


@pytest.mark.parametrize(
    ("next_state", "message"),
    [
        (whole_mean, r"must not depend on rows of padding.*'0/norm/mean' differs.*client 1"),
        (
            other(lambda norm: {**norm, "var": norm["var"] / 0}),
            "must return finite numbers, got inf for",
        ),
        (other(lambda norm: {"mean": norm["mean"]}), r"they differ in \['0/norm/var'\]"),
        (
            other(lambda norm: {**norm, "var": norm["var"][:2]}),
            r"var' is \(3,\) of float32; got \(2,\)",
        ),
        (other(lambda norm: jax.tree.map(lambda x: x.astype(jnp.int32), norm)), "got .* of int32"),
    ],
)
def test_what_next_state_must_not_do_is_refused_before_training(next_state, message):
    simulation = fr.Simulation(algorithm(model("head", next_state=next_state)), clients(), fr.Everyone())
    with pytest.raises(ValueError, match=message):
        simulation.init()


def test_a_view_that_loses_the_state_is_refused():
    whole = fully_global(model("head"))
    view = view_of(whole, replace(whole, state=(), next_state=None))
    made = replace(fr.fedavg(model("head"), fr.Solver(sgd(0.1), 3), sgd(1.0)), model=view)
    with pytest.raises(ValueError, match=r"has the state .*, but the view of it that is trained has none"):
        fr.Simulation(made, clients(), fr.Everyone()).init()


def one_round(made: Any) -> dict[str, Any]:
    simulation = fr.Simulation(made, clients(), fr.Everyone())
    (round,) = simulation.rounds(simulation.init(), 1)
    return leaves_of(round.state.global_params)


def test_the_servers_optimiser_takes_no_part_in_the_mean_of_states():
    plain = one_round(algorithm(model("head")))
    for server in (fr.optimizer("adam", learning_rate=0.5), fr.optimizer("lamb", learning_rate=0.5)):
        leaves = one_round(algorithm(model("head"), server))
        np.testing.assert_allclose(leaves["norm/mean"], plain["norm/mean"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(leaves["norm/var"], plain["norm/var"], rtol=1e-5, atol=1e-6)
        assert np.any(np.abs(leaves["w"] - plain["w"]) > 0.1)


def test_averaged_state_is_clipped_with_the_rest_and_local_state_is_not_sent():
    norm = 0.01
    for local in (("head",), ("head", "norm")):
        private = user_level_dp(
            algorithm(model(*local), client_weight=fr.algorithms.uniform),
            clip=norm,
            rounds=1,
            sampling=fr.Everyone(),
            num_clients=len(clients()),
            delta=1e-3,
            noise_multiplier=1e-3,
        )
        simulation = fr.Simulation(private, clients(), fr.Everyone())
        start = simulation.init()
        (round,) = simulation.rounds(start, 1)
        before, after = (leaves_of(state.global_params) for state in (start, round.state))
        moved = np.sqrt(sum(np.sum(np.square(after[name] - before[name])) for name in before))
        assert 0 < moved <= norm * 1.01
        assert ("norm/mean" in before) == (local == ("head",))


def test_state_is_served_with_the_local_parameters():
    for local, leaves in ((("head",), {"head"}), (("head", "norm"), {"head", "norm/mean", "norm/var"})):
        made = algorithm(model(*local))
        state = fr.Simulation(made, clients(), fr.Everyone()).init()
        served = fr.Personalization(made, state, clients().num_examples)(clients())
        assert set(served) == leaves
        if "norm/mean" in leaves:
            assert np.any(served["norm/mean"][-1] != 0) and not np.any(served["norm/mean"][0])


def test_draws_differ_by_client_and_round():
    def drawn(params: Any, batch: Any, key: Any) -> Any:
        return {**params, "norm": {name: jax.random.uniform(key, (3,)) for name in ("mean", "var")}}

    made = model("head", "norm", next_state=drawn)
    update = fr.Solver(sgd(0.1), None)
    kept = fr.algorithms.fedalt(made, update, update, sgd(1.0))
    simulation = fr.Simulation(kept, clients(), fr.Everyone(), clients_per_block=4)
    draws = []
    for _ in simulation.rounds(simulation.init(), 2):
        keys = simulation.clients.keys
        draws.append(leaves_of(simulation.client_states.get(keys, len(keys)).value)["norm/mean"][1:])
    assert len(np.unique(np.concatenate(draws)[:, 0])) == 2 * (len(clients()) - 1)
