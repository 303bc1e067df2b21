"""The benchmarks run at tiny sizes, and what they compare is the same round."""

import copy
import json
import math
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from benchmarks import (
    blocks,
    command,
    dense_by_hand,
    fedjax_round,
    library_round,
    numba_round,
    recipe,
    torch_round,
)
from benchmarks.kernel import Kernel
from benchmarks.options import Options, Row

from fedrecon import Simulation, Uniform
from fedrecon.federation.blocks import Plan, Slot

SMALL = Options(rounds=2, clients=60, items=120, clients_per_round=8)
FLAGS = ["--rounds=2", "--clients=60", "--items=120", "--clients-per-round=8"]


def test_command_prints_a_table_and_writes_json(tmp_path, capsys):
    path = tmp_path / "results.json"
    assert command.main(["round", "ranking", *FLAGS, "--json", str(path)]) == 0
    found = json.loads(path.read_text())
    assert found["options"]["clients_per_round"] == 8 and found["environment"]["devices"]
    rows = {row["what"]: row for row in found["rows"] if row["benchmark"] == "round"}
    assert rows["library over kernel"]["value"] > 0 and rows["compilations"]["value"] == 2
    assert 0 < rows["padding"]["value"] < 100
    (peers,) = (row for row in found["rows"] if row["benchmark"] == "ranking")
    assert peers["value"] is None and peers["note"] == "needs --data"
    shown = capsys.readouterr().out
    assert "library over kernel" in shown and "needs --data" in shown


def test_one_that_fails_leaves_the_others_results(tmp_path, capsys):
    """The first cannot have so many clients per round, the second needs none."""
    path = tmp_path / "results.json"
    flags = ["--clients=20", "--items=30", "--clients-per-round=1000"]
    assert command.main(["round", "ranking", *flags, "--json", str(path)]) == 1
    failed, other = json.loads(path.read_text())["rows"]
    assert failed["benchmark"] == "round" and failed["what"] == "failed" and failed["value"] is None
    assert failed["note"].startswith("ValueError: clients_per_round must be at most")
    assert other["benchmark"] == "ranking"
    shown = capsys.readouterr()
    assert "ValueError: clients_per_round" in shown.out and "Traceback" in shown.err


@pytest.mark.parametrize(
    "name", ["breakdown", "blocks", "cohort", "dense", "torch", "fedjax", "personalize", "population"]
)
def test_benchmark_gives_finite_numbers(name):
    rows = command.run(name, SMALL)
    assert all(isinstance(row, Row) for row in rows)
    optional = f"{name} is not installed" if name in ("torch", "fedjax") else None
    assert all(row.note == optional for row in rows if row.value is None)
    assert all(math.isfinite(row.value) for row in rows if row.value is not None)
    assert all(row.value > 0 for row in rows if row.unit in ("ms", "x") and row.value is not None)


def test_ratios_are_of_the_times_in_the_same_table():
    rows = {row.what.strip(): row.value for row in command.run("dense", SMALL)}
    for name in ("whole tables", "whole tables by hand"):
        assert rows[f"{name} over the library"] == pytest.approx(rows[name] / rows["the library"])
        assert rows[f"{name} over the library, in CPU time"] > 0
    assert rows["compilations"] == 2 and 0 < rows["padding"] < 100 and rows["peak memory"] > 0


def test_list_names_every_benchmark(capsys):
    assert command.main(["--list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in command.BENCHMARKS)


def test_unknown_name_is_refused(capsys):
    with pytest.raises(SystemExit):
        command.main(["rounds"])
    assert "NAME must be one of round, breakdown" in capsys.readouterr().err


def test_padding_is_what_the_slots_leave_free():
    clients = recipe.training_clients(SMALL)
    longest = -(-int(clients.num_examples.max()) // 10) * 10
    plan = Plan((Slot(2, 4, longest),))
    simulation = Simulation(recipe.algorithm(recipe.model(clients)), clients, Uniform(7), plan=plan)
    cohorts = [simulation.sampling.indices(number, clients.num_examples, 0) for number in (0, 1)]
    real = sum(int(clients.num_examples[cohort].sum()) for cohort in cohorts)
    assert library_round.padding(simulation, 2) == pytest.approx(1 - real / (2 * 8 * longest))


def test_price_of_a_place_is_recovered():
    clients = recipe.training_clients(SMALL)
    simulations = [recipe.simulation(clients, 24, clients_per_block=width) for width in (2, 4, 8, 24)]

    def milliseconds(simulation: Simulation) -> float:
        return sum(s.length * s.blocks * (0.1 * s.clients + 0.7) for s in simulation.plan.slots)

    assert blocks.overhead(simulations, [milliseconds(s) for s in simulations]) == pytest.approx(7, rel=1e-6)


def test_library_kernel_and_dense_round_are_the_same_round():
    clients, sampling = recipe.training_clients(SMALL), Uniform(8)
    random = np.random.default_rng(0)
    table = random.uniform(-0.3, 0.3, (120, recipe.FACTORS)).astype(np.float32)
    user = random.uniform(-0.3, 0.3, recipe.FACTORS).astype(np.float32)

    same_start = replace(
        recipe.model(clients), init_local=lambda *_: {"user": {"factors": jnp.asarray(user)}}
    )
    simulation = Simulation(recipe.algorithm(same_start), clients, sampling)
    (last,) = simulation.rounds(simulation.init({"item": {"factors": table}}), 1)

    cohort = sampling.indices(0, clients.num_examples, 0)
    kernel, by_kernel = Kernel(clients, sampling), table.copy()
    work = numba_round.scratch(*table.shape)
    numba_round.round_kernel(by_kernel, *kernel.cohort(cohort), user, work)

    longest = -(-int(clients.num_examples.max()) // 10) * 10
    items, ratings = (clients.padded(field, cohort, longest) for field in ("item", "rating"))
    users = np.tile(user, (8, 1))
    by_hand = dense_by_hand.round_by_hand(table, users, items, ratings, clients.num_examples[cohort])

    np.testing.assert_allclose(last.state.global_params["item"]["factors"], by_kernel, rtol=0, atol=1e-5)
    np.testing.assert_allclose(by_hand, by_kernel, rtol=0, atol=1e-5)
    assert np.abs(by_kernel - table).max() > 0.01


def test_the_round_for_fedjax_is_the_same_round():
    """Driven as FedJAX's documentation says it drives it: steps one by one, clients one after the other."""

    def for_each_client(start, step, end):
        step = jax.jit(step)

        def run(shared, clients):
            for name, batches, given in clients:
                state = start(shared, given)
                for batch in batches:
                    state = step(state, batch)
                yield name, end(shared, state)

        return run

    clients, sampling = recipe.training_clients(SMALL), Uniform(4)
    loop = fedjax_round.Loop(SimpleNamespace(for_each_client=for_each_client), clients, sampling)
    before, random = loop.table, copy.deepcopy(loop._random)
    after = loop.round()

    cohort = sampling.indices(0, clients.num_examples, recipe.SEED)
    longest = -(-int(clients.num_examples.max()) // 10) * 10
    items, ratings = (clients.padded(field, cohort, longest) for field in ("item", "rating"))
    users = random.uniform(-recipe.INIT_SCALE, recipe.INIT_SCALE, (4, recipe.FACTORS)).astype(np.float32)
    by_hand = dense_by_hand.round_by_hand(before, users, items, ratings, clients.num_examples[cohort])
    np.testing.assert_allclose(after, by_hand, rtol=0, atol=1e-6)
    assert np.abs(after - before).max() > 0.01


def test_the_round_in_pytorch_is_the_same_round():
    torch = pytest.importorskip("torch")
    clients = recipe.training_clients(SMALL)
    loop = torch_round.Loop(torch, clients, Uniform(8))
    name = clients.ids[int(np.argmax(clients.num_examples))]
    fields, count = clients[name], int(clients.num_examples.max())
    user = np.random.default_rng(0).uniform(-0.3, 0.3, recipe.FACTORS).astype(np.float32)
    delta, weight = loop.client(torch.from_numpy(user.copy()), fields["item"], fields["rating"])

    longest = -(-count // 10) * 10
    padded = (np.pad(fields[field], (0, longest - count)) for field in ("item", "rating"))
    batches = tuple(x.reshape(-1, 5) for x in (*padded, np.arange(longest) < count))
    table = jnp.asarray(loop.table.weight.detach().numpy())
    by_hand, total = dense_by_hand.client(table, user, batches)
    np.testing.assert_allclose(weight * delta.numpy(), by_hand, rtol=0, atol=1e-4)
    assert weight == total and np.abs(delta.numpy()).max() > 0.01
