"""The models of next words: gradients, padding, metrics, and what reconstruction computes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters import partial_eval as pe

from fedrecon.algorithms._base import Broadcast
from fedrecon.algorithms._fedrecon import fedrecon
from fedrecon.core._examples import Examples
from fedrecon.core._model import fully_global, on_both, on_global, on_local, personal_copy
from fedrecon.core._splits import AlternateBatches
from fedrecon.data._clients import Clients
from fedrecon.data._sampling import Uniform
from fedrecon.datasets.text._dataset import arrange
from fedrecon.datasets.text._synthetic import synthetic
from fedrecon.models.next_word import _output_layer as output
from fedrecon.models.next_word._lstm import lstm
from fedrecon.models.next_word._metrics import in_chunks, readings
from fedrecon.models.next_word._model import next_word_lstm
from fedrecon.models.next_word._transformer import next_word_transformer
from fedrecon.simulation._simulation import Simulation
from fedrecon.solvers._gradient import Solver
from fedrecon.solvers._optimizers import optimizer

WORDS, BUCKETS = 6, 4
LSTM = next_word_lstm(WORDS, BUCKETS, embedding=4, hidden=5)
TRANSFORMER = next_word_transformer(WORDS, BUCKETS, embedding=8, heads=2, layers=1, rank=2)
MODELS = {"lstm": LSTM, "transformer": TRANSFORMER}


def quickly(fn):
    """Compiled as a whole, with little effort: operation by operation takes ten times as long."""
    return jax.jit(fn, compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def params_of(name):
    """Larger than a start, so that differences show."""

    def made():
        g = MODELS[name].init_global(jax.random.key(0))
        g = jax.tree.map(lambda x: x + 0.3 * jnp.sin(7.0 * jnp.arange(x.size)).reshape(x.shape), g)
        x = MODELS[name].init_local(g, jax.random.key(1))
        return g, jax.tree.map(lambda x: x + 0.2 * jnp.cos(3.0 * jnp.arange(x.size)).reshape(x.shape), x)

    return quickly(made)()


def batch_of(sentences=3, length=5, seed=0):
    rng = np.random.default_rng(seed)
    bucket = np.where(
        rng.random((sentences, length)) < 0.4, rng.integers(BUCKETS, size=(sentences, length)), -1
    )
    word = np.where(bucket < 0, rng.integers(1, WORDS + 3, (sentences, length)), 0)
    target = rng.integers(2, WORDS + 3 + BUCKETS, (sentences, length))
    ends = rng.integers(2, length + 1, sentences)
    target[np.arange(length) >= ends[:, None]] = 0
    return {k: np.asarray(x, np.int32) for k, x in (("word", word), ("bucket", bucket), ("target", target))}


def total(model, g, x, batch):
    return jnp.sum(model.loss(g, x, batch, None).total)


def test_gradients_are_those_of_one_dense_table_and_a_plain_softmax():
    g, x = params_of("lstm")
    batch = jax.tree.map(jnp.asarray, batch_of())

    def dense(table, layers):
        ids = jnp.where(batch["bucket"] >= 0, WORDS + 3 + batch["bucket"], batch["word"])
        inputs = jnp.swapaxes(jax.nn.one_hot(ids, len(table)) @ table, 0, 1)
        h = lstm(g["lstm"]["kernel"], g["lstm"]["recurrent"], g["lstm"]["bias"], inputs)
        for layer in ("dense", "output"):
            h = h @ layers[layer]["kernel"] + layers[layer]["bias"]
        scores = jax.nn.log_softmax(jnp.swapaxes(h, 0, 1))
        picked = jnp.take_along_axis(scores, batch["target"][..., None], -1)[..., 0]
        return -jnp.sum(jnp.where(batch["target"] > 0, picked, 0))

    table, layers = np.concatenate([g["embedding"], x["embedding"]]), {k: g[k] for k in ("dense", "output")}
    wanted, by_layers = quickly(jax.grad(dense, argnums=(0, 1)))(table, layers)
    by_global, by_local = quickly(jax.grad(lambda g, x: total(LSTM, g, x, batch), argnums=(0, 1)))(g, x)
    assert np.abs(wanted[WORDS + 3 :]).max() > 1e-3
    np.testing.assert_allclose(by_local["embedding"], wanted[WORDS + 3 :], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(by_global["embedding"], wanted[: WORDS + 3], rtol=1e-5, atol=1e-6)
    for layer, leaves in by_layers.items():
        for name, gradient in leaves.items():
            np.testing.assert_allclose(by_global[layer][name], gradient, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(by_global["embedding"][0], 0)  # read where there is a bucket, and not used


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("piece", [1, 40, 10**6])  # an id at a time, several, all at once
@pytest.mark.parametrize("scale", [1, 100])  # of scores; far apart, their highest is searched for
def test_the_output_layer_is_the_same_in_pieces(monkeypatch, scale, piece, dtype):
    monkeypatch.setattr(output, "_PIECE", piece)
    monkeypatch.setattr(output, "_FIRST", 2)
    tokens, width, ids = 12, 5, 10
    assert output.pieces(tokens, ids) == {1: 10, 40: 3, 10**6: 1}[piece]
    rng = np.random.default_rng(0)
    kernel, bias, x = (
        jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((width, ids), (ids,), (tokens, width))
    )
    x, target = (scale * x).astype(dtype), jnp.asarray(rng.integers(ids, size=tokens))
    weights = jnp.asarray(rng.normal(size=tokens), jnp.float32)

    def value(kernel, bias, x):
        loss, hits = output.scored(kernel, bias, x, target)
        return jnp.sum(weights * loss), (loss, hits)

    def plain(kernel, bias, x):
        scores = x.astype(jnp.float32) @ kernel.astype(dtype).astype(jnp.float32) + bias
        loss = -jax.nn.log_softmax(scores)[jnp.arange(tokens), target]
        return jnp.sum(weights * loss), (loss, scores.argmax(-1) == target)

    @quickly
    def run(*args):
        # By `x` alone, as in reconstruction, the scores are read in pieces; by all, as in an update, at once.
        ways = [(fn, which) for fn in (value, plain) for which in ((2,), (0, 1, 2))]
        return value(*args)[1], [jax.grad(fn, which, has_aux=True)(*args) for fn, which in ways]

    bare, (alone, every, alone_plainly, every_plainly) = run(kernel, bias, x)
    small = 1e-5 if dtype == "float32" else 0.03
    exact = {"rtol": small, "atol": small * scale}
    for gradients, (loss, hits) in (([], bare), alone, every):
        np.testing.assert_allclose(loss, every_plainly[1][0], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(hits, every_plainly[1][1])
        wanted = alone_plainly[0] if len(gradients) == 1 else every_plainly[0]
        for found, known in zip(gradients, wanted, strict=bool(gradients)):
            assert found.dtype == known.dtype
            np.testing.assert_allclose(found.astype(np.float32), known.astype(np.float32), **exact)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("trained", [False, True])
def test_the_gradient_of_what_is_almost_certain_keeps_its_digits(monkeypatch, trained, dtype):
    monkeypatch.setattr(output, "_PIECE", 1000)
    tokens, width, ids = 200, 8, 100
    rng = np.random.default_rng(0)
    columns = rng.normal(size=(width, ids))
    columns *= 3 / np.linalg.norm(columns, axis=0)
    kernel = jnp.asarray(columns, dtype).astype(jnp.float32)
    target = jnp.asarray(rng.integers(ids, size=tokens))
    x = jnp.asarray(np.linspace(2, 8, tokens)[:, None] * columns[:, target].T, dtype)
    bias = jnp.asarray(0.1 * rng.normal(size=ids), jnp.float32)

    def total(kernel, bias, x):
        return jnp.sum(output.scored(kernel, bias, x, target)[0])

    found = quickly(jax.grad(total, (0, 1, 2) if trained else (2,)))(kernel, bias, x)[-1]
    scores = np.asarray(x, np.float64) @ np.asarray(kernel, np.float64) + np.asarray(bias, np.float64)
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    softmax = powers / powers.sum(-1, keepdims=True)
    rest = 1 - softmax[np.arange(tokens), target]
    almost = (rest > 1e-4) & (rest < 1e-2)
    assert almost.sum() > 5
    wanted = (softmax - np.eye(ids)[target]) @ np.asarray(kernel, np.float64).T
    error = np.linalg.norm(np.asarray(found, np.float64) - wanted, axis=-1) / np.linalg.norm(wanted, axis=-1)
    assert error[almost].max() < (0.005 if dtype == "float32" else 0.02)


@pytest.mark.parametrize("trained", [False, True])
def test_an_id_that_is_none_has_no_loss(monkeypatch, trained):
    monkeypatch.setattr(output, "_PIECE", 12)  # the last part is filled up
    kernel, bias, x = jnp.ones((3, 10)), jnp.zeros(10), jnp.ones((4, 3))
    target = jnp.array([0, 10, 500, -1])

    def total(kernel, bias, x):
        losses = output.scored(kernel, bias, x, target)[0]
        return jnp.sum(losses[0]), losses

    _, losses = quickly(jax.grad(total, (0, 1, 2) if trained else (2,), has_aux=True))(kernel, bias, x)
    np.testing.assert_allclose(losses, [np.log(10), np.nan, np.nan, np.nan], rtol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_padding_and_views_change_neither_loss_nor_gradient(name):
    model, batch = MODELS[name], batch_of()
    g, x = params_of(name)
    fill = {"bucket": -1, "word": WORDS, "target": 0}  # whatever inputs stand where no target does
    wide = {k: np.pad(v, [(0, 2), (0, 3)], constant_values=fill[k]) for k, v in batch.items()}
    views = {
        "fully_global": (fully_global(model), lambda g, x: ((g, x), ())),
        "personal_copy": (personal_copy(model), lambda g, x: (g, (g, x))),
    }

    @quickly
    def run(g, x, batch, wide):
        def value(p, b):
            loss = model.loss(*p, b, None)
            return jnp.sum(loss.total), loss

        found = [jax.value_and_grad(value, has_aux=True)((g, x), b) for b in (batch, wide)]
        measured = [view.loss_and_metrics(*see(g, x), batch, None) for view, see in views.values()]
        objectives = ((on_local(model, g), x), (on_global(model, x), g), (on_both(model), (g, x)))
        measured += [o.measure(params, o.frozen, batch, jax.random.key(0)) for o, params in objectives]
        return found, measured, model.metrics(g, x, batch)

    (((_, loss), gradient), ((_, padded), again)), measured, metrics = run(g, x, batch, wide)
    np.testing.assert_allclose(padded.total[:3], loss.total, rtol=1e-5)
    np.testing.assert_array_equal(loss.weight, (batch["target"] > 0).sum(1))
    np.testing.assert_array_equal(padded.weight, [*loss.weight, 0, 0])
    np.testing.assert_array_equal(padded.total[3:], 0)
    for a, b in zip(*map(jax.tree.leaves, (again, gradient)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    for value, others in measured:
        np.testing.assert_allclose(value.total, loss.total, rtol=1e-5)
        np.testing.assert_array_equal(others["accuracy"].total, metrics["accuracy"].total)
        assert set(others) == {"accuracy"}
    np.testing.assert_allclose(metrics["cross_entropy"].total, loss.total, rtol=1e-5)


def test_padding_changes_no_step_of_a_stateful_optimiser():
    params = params_of("lstm")
    batch = batch_of(sentences=5)
    adam = Solver(optimizer("adam", learning_rate=0.1), batch_size=2, epochs=2)

    @quickly
    def run(params, batch):
        results = []
        for spare in (0, 7):
            data = {k: jnp.pad(v, [(0, spare), (0, 0)]) for k, v in batch.items()}
            examples = Examples(data, np.arange(5 + spare) < 5)
            results.append(adam(on_both(LSTM), params, examples, jax.random.key(0)))
        return results

    for a, b in zip(*map(jax.tree.leaves, run(params, batch)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_scores_that_are_no_numbers_hit_nothing():
    logits, target = jnp.full((1, 2, 6), jnp.nan), jnp.array([[3, 4]])
    found = quickly(lambda *a: readings(*a, 5))(logits, target, jnp.array([[-1, -1]]))
    for name in ("accuracy", "top_3_accuracy", "accuracy_no_oov", "accuracy_restricted"):
        assert found[name].total == 0


def test_readings_by_hand():
    rows = 5  # padding, begin, end, two words; two buckets
    scores = [
        [0, 9, 1, 3, 2, 4, 0],  # bucket 0 wins among what can come; of shared words, word 3
        [0, 0, 5, 1, 2, 0, 0],  # the end wins
        [0, 0, 1, 2, 3, 4, 5],  # bucket 1 wins
        [9, 9, 9, 9, 9, 9, 9],  # padding
    ]
    scores[0][1] = -1
    logits = jnp.asarray([scores], jnp.float32)
    target, bucket = jnp.asarray([[3, 2, 6, 0]]), jnp.asarray([[-1, 0, 1, -1]])
    found = {
        k: (float(v.total[0]), float(v.weight[0]))
        for k, v in quickly(lambda *a: readings(*a, rows))(logits, target, bucket).items()
    }
    assert found["accuracy"] == (2, 3)
    assert found["top_3_accuracy"] == (3, 3)
    assert found["accuracy_no_oov"] == (1, 2)
    assert found["accuracy_no_oov_no_end"] == (0, 1)
    assert found["accuracy_restricted"] == (2, 2)
    assert found["accuracy_restricted_no_end"] == (1, 1)
    assert found["accuracy_restricted_after_oov"] == (1, 1)
    assert found["oov"] == (1, 3)

    def cross_entropy(place, ids):
        own = np.asarray(scores[place], float)
        return np.log(np.exp(own[ids]).sum()) - own[int(target[0, place])]

    np.testing.assert_allclose(
        found["cross_entropy"][0], sum(cross_entropy(i, slice(None)) for i in range(3)), rtol=1e-5
    )
    shared = [cross_entropy(i, slice(2, 5)) for i in (0, 1)]
    np.testing.assert_allclose(found["cross_entropy_restricted"], (sum(shared), 2), rtol=1e-5)
    np.testing.assert_allclose(found["cross_entropy_restricted_after_oov"], (shared[1], 1), rtol=1e-5)


def test_chunks_change_nothing():
    x = {"a": jnp.arange(14.0).reshape(7, 2)}
    run = quickly(lambda x: [in_chunks(lambda b: b["a"].sum(1), x, most) for most in (2, 3, 7, 50)])
    for found in run(x):
        np.testing.assert_array_equal(found, x["a"].sum(1))


def dots(jaxpr):
    """Of every matrix product in a program: the shapes of its factors, and how many axes they share."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (_, _), (batched, _) = equation.params["dimension_numbers"]
            yield tuple(v.aval.shape for v in equation.invars), len(batched)
        for value in equation.params.values():
            for inner in jax.tree.leaves(value, is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")):
                if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                    yield from dots(getattr(inner, "jaxpr", inner))


def test_reconstruction_shares_products_over_clients_and_makes_no_global_gradient():
    solver = Solver(optimizer("sgd", learning_rate=0.1), batch_size=2)
    algorithm = fedrecon(LSTM, solver, solver, optimizer("sgd", learning_rate=1.0), split=AlternateBatches(2))
    g, _ = params_of("lstm")
    data = jax.tree.map(lambda x: np.stack([x] * 3), batch_of(sentences=4))

    def personalize(g, data):
        support = Examples(data, jnp.ones(4, bool))
        return algorithm.personalize(Broadcast(g, jnp.int32(0)), (), support, jax.random.key(0))

    program = jax.make_jaxpr(lambda g, data: jax.vmap(lambda d: personalize(g, d))(data))(g, data)
    needed, _ = pe.dce_jaxpr(program.jaxpr, [True] * len(program.jaxpr.outvars))
    found = list(dots(needed))
    assert found and all(batched == 0 for _, batched in found)
    # A gradient by weights multiplies two matrices of which neither is a weight.
    weights = {x.shape for x in jax.tree.leaves(g)}
    assert all(weights & {f for shape in shapes for f in (shape, shape[::-1])} for shapes, _ in found)


def test_a_single_step_over_all_sentences_trains():
    """The model's own backward passes have no forward-mode derivative, by which sums of steps are checked."""
    data = {i: batch_of(sentences=4, seed=i) for i in range(2)}
    sgd, solver = optimizer("sgd", learning_rate=1.0), Solver(optimizer("sgd", learning_rate=0.1), None)
    algorithm = fedrecon(LSTM, solver, solver, sgd, split=AlternateBatches(2))
    simulation = Simulation(algorithm, Clients.from_arrays(data), Uniform(2))
    start = simulation.init()
    *_, last = simulation.rounds(start, 1)
    assert float(last.metrics()["dropped"].value()) == 0
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), start.global_params, last.state.global_params)
    assert any(jax.tree.leaves(moved))


def test_a_transformer_learns_on_generated_text():
    texts, _ = synthetic(10, sentences=20, kinds=3, words=4, length=8, seed=0)
    sets, vocabulary = arrange(texts, seed=0, words=12, buckets=3, fractions={"train": 1.0})
    model = next_word_transformer(len(vocabulary.words), 3, embedding=8, heads=2, layers=1, rank=2)
    solver = Solver(optimizer("sgd", learning_rate=0.5), batch_size=5)
    algorithm = fedrecon(model, solver, solver, optimizer("sgd", learning_rate=1.0))
    simulation = Simulation(algorithm, sets["train"], Uniform(5))
    losses = [float(r.metrics()["loss"].value()) for r in simulation.rounds(simulation.init(), 8)]
    assert losses[-1] < losses[0] - 0.2


def test_bfloat16_is_close():
    small = next_word_lstm(WORDS, BUCKETS, embedding=4, hidden=5, precision="bfloat16")
    batch = batch_of()
    run = quickly(lambda p, b: [jax.value_and_grad(lambda p, m=m: total(m, *p, b))(p) for m in (LSTM, small)])
    (wanted, exact), (found, rounded) = run(params_of("lstm"), batch)
    assert 0 < abs(found - wanted) < 0.02 * wanted
    for a, b in zip(*map(jax.tree.leaves, (exact, rounded)), strict=True):
        assert b.dtype == jnp.float32
        np.testing.assert_allclose(b, a, atol=0.05 * float(jnp.abs(a).max()) + 1e-3)


@pytest.mark.parametrize("make", [next_word_lstm, next_word_transformer])
def test_outputs_may_be_fewer_than_local_rows(make):
    def shapes(*buckets):
        model = make(WORDS, *buckets)
        g = jax.eval_shape(model.init_global, jax.random.key(0))
        return g, jax.eval_shape(lambda g: model.init_local(g, jax.random.key(0)), g)

    (many, local), (apart, same) = shapes(BUCKETS), shapes(BUCKETS, 1)
    assert (
        local == same
        and many["embedding"] == apart["embedding"]
        and many.get("bucket") == apart.get("bucket")
    )
    assert many["output"]["bias"].shape == (WORDS + 3 + BUCKETS,)
    assert apart["output"]["bias"].shape == (WORDS + 3 + 1,)
    assert apart["output"]["kernel"].shape[1] == WORDS + 3 + 1


def test_a_transformer_refuses_heads_that_do_not_fit():
    with pytest.raises(ValueError, match="embedding must be even and a multiple of heads = 3, got 8"):
        next_word_transformer(4, 1, embedding=8, heads=3)
