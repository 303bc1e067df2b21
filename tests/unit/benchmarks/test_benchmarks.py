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
    inference,
    inference_command,
    library_round,
    next_word,
    next_word_fedjax,
    next_word_peers,
    next_word_recipe,
    next_word_torch,
    numba_round,
    privacy_cost,
    recipe,
    torch_round,
)
from benchmarks.kernel import Kernel
from benchmarks.options import Options, Row

from fedrecon import Clients, Simulation, Uniform
from fedrecon.core._model import leaves_of
from fedrecon.simulation._block_plan import Plan, Slot

SMALL = Options(rounds=2, clients=60, items=120, clients_per_round=8)
SENTENCES = next_word_recipe.Size(
    words=40, buckets=6, embedding=5, hidden=7, batch=2, length=4, epochs=2, side_by_side=2, blocks=1
)
FLAGS = ["--rounds=2", "--clients=60", "--items=120", "--clients-per-round=8"]


def test_command_prints_a_table_and_writes_json(tmp_path, capsys):
    path = tmp_path / "results.json"
    assert command.main(["round", "ranking", *FLAGS, "--json", str(path)]) == 0
    found = json.loads(path.read_text())
    assert found["options"]["clients_per_round"] == 8 and found["environment"]["devices"]
    rows = {row["what"]: row for row in found["rows"] if row["benchmark"] == "round"}
    assert "8 to 10 s" in rows["TensorFlow Federated"]["note"]
    assert rows["library over kernel"]["value"] > 0 and rows["compilations"]["value"] == 1
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
    "name",
    [
        pytest.param("breakdown", marks=pytest.mark.slow),
        "trace",
        "blocks",
        "cohort",
        "dense",
        "torch",
        "fedjax",
        "personalize",
        "population",
        pytest.param("privacy", marks=pytest.mark.slow),
        "wire",
    ],
)
def test_benchmark_gives_finite_numbers(name, monkeypatch):
    monkeypatch.setattr(inference_command, "rows", lambda *_: [])  # below
    monkeypatch.setattr(privacy_cost, "_apart", lambda *_: 1e6)  # below, without a process for each
    rows = command.run(name, SMALL)
    assert all(isinstance(row, Row) for row in rows)
    optional = f"{name} is not installed" if name in ("torch", "fedjax") else None
    assert all(row.note == optional for row in rows if row.value is None)
    assert all(math.isfinite(row.value) for row in rows if row.value is not None)
    assert all(row.value > 0 for row in rows if row.unit in ("ms", "x") and row.value is not None)


def test_memory_with_privacy_is_that_of_rounds_that_were_run():
    assert privacy_cost._peak("newton", SMALL, True) > 1e6


def test_ratios_are_of_the_times_in_the_same_table():
    rows = {row.what.strip(): row.value for row in command.run("dense", SMALL)}
    for name in ("whole tables", "whole tables by hand"):
        assert rows[f"{name} over the library"] == pytest.approx(rows[name] / rows["the library"])
        assert rows[f"{name} over the library, in CPU time"] > 0
    assert rows["compilations"] == 1 and 0 < rows["padding"] < 100 and rows["peak memory"] > 0


@pytest.mark.parametrize("benchmark", [next_word, pytest.param(next_word_peers, marks=pytest.mark.slow)])
def test_next_word_benchmark_gives_finite_numbers(benchmark):
    rows = benchmark.run(Options(rounds=1), SENTENCES)
    missing = {row.what for row in rows if row.value is None}
    assert missing <= {"PyTorch", "FedJAX"}
    assert all(row.note.endswith("is not installed") for row in rows if row.what in missing)
    assert all(math.isfinite(row.value) for row in rows if row.what not in missing)
    assert all(row.value > 0 for row in rows if row.what not in missing and row.unit != "%")
    assert {"compilations", "peak memory"} <= {row.what for row in rows}


@pytest.mark.slow
def test_the_command_that_personalises_says_what_it_took():
    rows = inference_command.rows(inference._clients(60, 120), inference.PENALTY)
    kinds = [row for row in rows if row.what.startswith("command, ")]
    assert [row.what.split(":")[0] for row in kinds] == [
        "command, local parameters",
        "command, the best 20 items",
    ]
    assert len(rows) == 10 and all(row.value is None or row.value > 0 for row in rows)
    memory = [row.value for row in rows if row.what.strip() == "peak memory"]
    assert len(memory) == 2 and all(50 < x < 5000 for x in memory)


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


def for_each_client(start, step, end):
    """As FedJAX's documentation says it drives rounds: steps one by one, clients one after the other."""
    step = jax.jit(step)

    def run(shared, clients):
        for name, batches, given in clients:
            state = start(shared, given)
            for batch in batches:
                state = step(state, batch)
            yield name, end(shared, state)

    return run


def test_the_round_for_fedjax_is_the_same_round():
    clients, sampling = recipe.training_clients(SMALL), Uniform(4)
    loop = fedjax_round.TrainingLoop(SimpleNamespace(for_each_client=for_each_client), clients, sampling)
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
    loop = torch_round.TrainingLoop(torch, clients, Uniform(8))
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


def sentences():
    """Clients of unequal length, sentences of unequal length, and many words of the clients' own."""
    fields = next_word_recipe.clients(SENTENCES)
    ends = np.random.default_rng(1).integers(
        1, SENTENCES.length + 1, (SENTENCES.batches * SENTENCES.batch, 1)
    )
    real = np.arange(SENTENCES.length) < ends

    def client(name: int, count: int) -> dict[str, np.ndarray]:
        word, target = fields[name]["word"], np.where(real, fields[name]["target"], 0)
        bucket = np.where(word % 2, word % SENTENCES.buckets, -1).astype(np.int32)
        return {k: x[:count] for k, x in {"word": word, "bucket": bucket, "target": target}.items()}

    return Clients.from_arrays({0: client(0, 8), 1: client(1, 5)})


def next_word_round(model, clients, start, own):
    """The library's leaves after a round in which every client's local embeddings start from `own`."""
    same_start = replace(model, init_local=lambda *_: {"embedding": jnp.asarray(own)})
    algorithm = next_word_recipe.algorithm(SENTENCES, same_start, server="sgd", rate=1.0)
    simulation = next_word_recipe.simulation(SENTENCES, algorithm, clients)
    (last,) = simulation.rounds(simulation.init(start), 1)
    return leaves_of(last.state.global_params)


def assert_same_change(found, wanted, start):
    """All leaves have moved, and alike."""
    for leaf, before in leaves_of(start).items():
        change = np.asarray(wanted[leaf]) - np.asarray(before)
        assert np.abs(change).max() > 5e-4
        np.testing.assert_allclose(np.asarray(found[leaf]) - before, change, rtol=0, atol=2e-6)


@pytest.fixture(scope="module")
def next_words():
    """A model, clients, where global and local parameters start, and the library's round from there."""
    model, clients = next_word_recipe.model(SENTENCES), sentences()
    start = jax.tree.map(lambda x: 3 * np.asarray(x), model.init_global(jax.random.key(0)))
    own = 10 * next_word_recipe.starts(SENTENCES)()
    return model, clients, start, own, next_word_round(model, clients, start, own)


def test_the_next_word_round_in_pytorch_is_the_same_round(next_words):
    torch = pytest.importorskip("torch")
    _, clients, start, own, wanted = next_words
    loop = next_word_torch.TrainingLoop(torch, SENTENCES, clients, start, own.copy)
    loop.round()
    assert_same_change(loop.global_params(), wanted, start)


def test_the_next_word_round_for_fedjax_is_the_same_round(next_words):
    model, clients, start, own, wanted = next_words
    fedjax = SimpleNamespace(for_each_client=for_each_client)
    loop = next_word_fedjax.TrainingLoop(fedjax, SENTENCES, model, clients, start, own.copy)
    assert_same_change(leaves_of(loop.round()), wanted, start)


def test_a_file_that_cannot_be_written_is_told_before_the_minutes(tmp_path, capsys):
    with pytest.raises(SystemExit):
        command.main(["round", "--json", str(tmp_path / "nowhere" / "x.json")])
    assert "--json: there is no folder" in capsys.readouterr().err
