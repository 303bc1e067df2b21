"""A client's own words: the cache, its mixture with a model, and what is completed with it."""

import functools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon.algorithms._base import Broadcast
from fedrecon.algorithms._fedrecon import fedrecon
from fedrecon.core._examples import Examples
from fedrecon.datasets.text._encode import Writer, to_clients
from fedrecon.datasets.text._vocabulary import Vocabulary
from fedrecon.models.next_word import complete, next_word_lstm, with_own_words
from fedrecon.models.next_word._client_cache import Tokens
from fedrecon.models.next_word._context_shift import OutputLayer, fit_shift, shifted_inputs, token_scores
from fedrecon.solvers._gradient import Solver
from fedrecon.solvers._optimizers import optimizer

VOCABULARY = Vocabulary(["a", "b", "c", "d"], buckets=2)
SUPPORT = ["a zz b zz", "b zz c qq", "a zz d", "zz yy a b c", "d b zz zz", "qq zz a b"]
QUERY = ["a zz d b", "yy yy b zz a", "never zz qq", "c"]
ROWS, CLASSES, LENGTH = VOCABULARY.rows, VOCABULARY.classes, 6


def algorithm_of(vocabulary=VOCABULARY, tokens=32):
    model = next_word_lstm(
        len(vocabulary.words), vocabulary.buckets, vocabulary.output_buckets, embedding=4, hidden=5
    )
    sgd = optimizer("sgd", learning_rate=0.1)
    plain = fedrecon(model, Solver(sgd, batch_size=4), Solver(sgd, batch_size=4), sgd)
    return plain, with_own_words(plain, len(vocabulary.words), tokens=tokens)


def quickly(fn):
    """Compiled as a whole, with little effort: operation by operation takes ten times as long."""
    return jax.jit(fn, compiler_options={"xla_backend_optimization_level": 0})


PLAIN, OWN = algorithm_of()
PREDICT = quickly(OWN.personal_model.predict)


@functools.cache
def global_params():
    """Larger than a start, with buckets that are often likelier than all words."""
    start = quickly(PLAIN.model.init_global)(jax.random.key(0))
    large = jax.tree.map(
        lambda x: x + 0.5 * np.sin(7.0 * np.arange(x.size, dtype=np.float32)).reshape(x.shape), start
    )
    large["output"]["bias"] = large["output"]["bias"].at[ROWS:].add(2.0)
    return large


def encoded():
    writer = Writer("ann", [*SUPPORT, *QUERY], "here")
    fields = VOCABULARY.encode(to_clients([writer], str.split, None, LENGTH, "here"), own_words=True)["ann"]
    return [{k: jnp.asarray(x[part]) for k, x in fields.items()} for part in (slice(0, 6), slice(6, None))]


def reconstructed(algorithm, support, count, padding=0):
    """The local parameters by the first sentences."""
    data = {k: jnp.pad(x, [(0, padding), (0, 0)], constant_values=1) for k, x in support.items()}
    mask = np.arange(len(data["word"])) < count
    start = Broadcast(global_params(), jnp.int32(0))
    run = quickly(lambda x: algorithm.personalize(start, (), x, jax.random.key(1)))
    return run(Examples(data, mask))


def numbered(fields):
    """The client's numbers of the words before and after, and the latters' ids, `[sentence, position]`."""
    before = np.where(fields["own_word"] > 0, ROWS - 1 + fields["own_word"], fields["word"])
    word = np.where(fields["own_target"] > 0, ROWS - 1 + fields["own_target"], fields["target"])
    return np.asarray(before), np.asarray(word), np.asarray(fields["target"])


def probabilities_of(inputs, kernel, bias):
    """The softmax over the ids from the end's on."""
    scores = (inputs @ kernel + bias)[..., 2:]
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def shifts_by_hand(count):
    """The vector of each own word, with solves in double precision and loops in Python.

    Returns:
        The vectors by own word under the likeliest strength of the belief, None for no vectors; and the gain
        in likelihood of each strength, where no place counts for itself.
    """
    support, _ = encoded()
    local = reconstructed(PLAIN, support, count)
    layer = quickly(PLAIN.personal_model.output_layer)(global_params(), local, support)
    inputs, kernel, bias = (np.asarray(x, float) for x in layer)
    columns = kernel[:, 2:].T
    before, word, id = (x[:count].reshape(-1) for x in numbered(support))
    places = np.flatnonzero((word > 0) & (before >= ROWS))
    flat = inputs[:count].reshape(-1, columns.shape[1])
    belief = np.cov(flat[(word > 0) & (before < ROWS)].T, bias=True)
    x, before, id = flat[places], before[places], id[places] - 2
    q = probabilities_of(x, kernel, bias)
    gradient = columns[id] - q @ columns
    curvature = np.cov(columns.T, aweights=q.mean(0), ddof=0)

    def vector(others, strength):
        matrix = len(others) * curvature + strength * np.linalg.inv(belief)
        return np.linalg.solve(matrix, gradient[others].sum(0))

    gains, found = [], []
    for strength in (1.0, 4.0, 16.0):
        gain = 0.0
        for i in range(len(places)):
            others = [j for j in range(len(places)) if before[j] == before[i] and j != i]
            moved = probabilities_of(x[i] + vector(others, strength), kernel, bias)
            gain += np.log(moved[id[i]]) - np.log(q[i, id[i]])
        gains.append(gain)
        found.append({p: vector(np.flatnonzero(before == p), strength) for p in set(before.tolist())})
    best = int(np.argmax(gains)) if gains else 0
    return (found[best] if gains[best] > 1 else None), gains


@pytest.mark.parametrize("count", [6, 5, 3])
def test_vectors_of_own_words_are_steps_of_newtons_method_by_hand(count):
    support, _ = encoded()
    _, _, shift = reconstructed(OWN, support, count)
    expected, gains = shifts_by_hand(count)
    places = {int(p): v for p, v in zip(shift.before, np.asarray(shift.vector), strict=True) if p < 2**30}
    words = numbered(support)[0][:count][numbered(support)[1][:count] > 0]
    assert set(places) == {int(p) for p in words.tolist() if p >= ROWS}
    for word, vector in places.items():
        np.testing.assert_allclose(vector, 0 if expected is None else expected[word], rtol=2e-3, atol=2e-4)
    assert (expected is None) == (max(gains) <= 1)


def test_what_is_like_the_words_that_followed_becomes_likelier():
    """An own word that a kind of words follows raises words of the kind that never did."""
    rng = np.random.default_rng(0)
    kernel = np.zeros((3, 5 + 9), np.float32)
    kernel[:, 3:7], kernel[:, 7:11] = np.array([[3.0], [0], [0]]), np.array([[0], [3.0], [0]])  # two kinds
    inputs = jnp.asarray(rng.normal(size=(24, 3)), jnp.float32).at[:12].multiply(0.1)
    layer = OutputLayer(inputs, jnp.asarray(kernel), jnp.zeros(14))
    tokens = Tokens(jnp.array([13] * 12 + [4] * 12), *[jnp.array([3, 4, 5] * 8)] * 2)
    shift, _ = fit_shift(tokens, layer, token_scores(layer.scores(), tokens.id, 13), 13)
    new = shifted_inputs(layer._replace(inputs=jnp.zeros((1, 2, 3))), shift, jnp.array([[13, 3]]))
    after_own, after_shared = np.asarray(jax.nn.softmax(new.scores()[0, :, 2:], -1))
    assert after_own[6 - 2] > 1.5 * after_shared[6 - 2] and after_own[7 - 2] < after_shared[7 - 2]


def by_hand(batch, cache, vectors, count):
    """The probabilities of all ids and of the client's own words after each input, with counts in Python."""
    support, _ = encoded()
    words = numbered
    w, sigma, after_shared, after_own, shift = np.asarray(cache.weights, float)
    local = reconstructed(PLAIN, support, count)
    layer = quickly(PLAIN.personal_model.output_layer)(global_params(), local, batch)
    inputs, kernel, bias = (np.array(x, float) for x in layer)
    for place in np.ndindex(*inputs.shape[:2]):
        for word, vector in zip(vectors.before.tolist(), np.asarray(vectors.vector, float), strict=True):
            if word == words(batch)[0][place]:
                inputs[place] = np.asarray(layer[0][place], float) + vector
    model = inputs @ kernel + bias
    before, word, id = (x[:count][np.asarray(support["target"][:count]) > 0] for x in words(support))
    id_of = dict(zip(word.tolist(), id.tolist(), strict=True))
    used = Counter(word.tolist())
    pairs = Counter(zip(before.tolist(), word.tolist(), strict=True))
    starts = Counter(before.tolist())
    shared_total = sum(n for x, n in used.items() if x < ROWS)
    own_total = sum(n for x, n in used.items() if x >= ROWS)
    ids, own = (
        np.zeros((*model.shape[:2], CLASSES)),
        {x: np.zeros(model.shape[:2]) for x in used if x >= ROWS},
    )
    for place in np.ndindex(*model.shape[:2]):
        p = np.exp(model[place])
        p[:2] = 0
        p /= p.sum()
        outside = p[ROWS:].sum()
        odds = np.exp(shift) * outside / (1 - outside)
        moved = odds / (1 + odds)
        p[ROWS:] *= moved / outside
        p[:ROWS] *= (1 - moved) / (1 - outside)
        first = int(words(batch)[0][place])
        seen = starts[first]
        lam = (after_own if first >= ROWS else after_shared) * seen / (seen + 1)
        q = (1 - lam) * p
        q[:ROWS] *= 1 - w
        for x, n in used.items():
            if x < ROWS:
                q[x] += (1 - lam) * w * (1 - moved) * n / shared_total
            else:
                own[x][place] = (1 - lam) * sigma * moved * n / own_total
            if seen:
                q[id_of[x]] += lam * pairs[first, x] / seen
                if x >= ROWS:
                    own[x][place] += lam * pairs[first, x] / seen
        ids[place] = q
    return ids, own


@pytest.mark.parametrize("count", [6, 3, 0])
def test_the_mixture_is_that_of_counts_by_hand(count):
    support, query = encoded()
    local = reconstructed(OWN, support, count)
    predicted = np.exp(np.asarray(PREDICT(global_params(), local, query)))
    ids, own = by_hand(query, local[1], local[2], count)
    np.testing.assert_allclose(predicted[..., :CLASSES], ids, atol=2e-6)
    np.testing.assert_allclose(predicted[..., :CLASSES].sum(-1), 1, atol=1e-5)
    assert len(own) == (0 if not count else len({*" ".join(SUPPORT[:count]).split()} - {*"abcd"}))
    names = np.asarray(local[1].own_word).astype(int).tolist()
    assert sorted(x for x in names if x) == sorted(own)
    for place, name in enumerate(names):
        want = own[name] if name else 0.0
        np.testing.assert_allclose(predicted[..., CLASSES + place], want, atol=2e-6)


def test_the_metrics_are_those_of_the_predicted_probabilities():
    support, query = encoded()
    local = reconstructed(OWN, support, 6)
    measured = quickly(OWN.personal_model.metrics)(global_params(), local, query)
    p = np.exp(np.asarray(PREDICT(global_params(), local, query)))
    ids, own = p[..., :CLASSES], p[..., CLASSES:]
    target = np.asarray(query["target"])
    picked = np.take_along_axis(ids, target[..., None], -1)[..., 0]
    words, shared = ids[..., 2:ROWS], (target > 0) & (target < ROWS)
    after = shared & np.asarray(query["bucket"] >= 0)
    number = np.where(query["own_target"] > 0, ROWS - 1 + query["own_target"], -1)
    named = np.asarray(local[1].own_word)[own.argmax(-1)] == number
    restricted = -np.log(np.where(shared, picked, 1) / words.sum(-1))
    expected = {
        "cross_entropy": (-np.log(np.where(target > 0, picked, 1)), target > 0),
        "accuracy": (picked >= ids.max(-1), target > 0),
        "top_3_accuracy": ((ids > picked[..., None]).sum(-1) < 3, target > 0),
        "accuracy_no_oov": (picked >= ids.max(-1), shared),
        "accuracy_no_oov_no_end": (picked >= ids.max(-1), shared & (target != 2)),
        "cross_entropy_restricted": (restricted, shared),
        "accuracy_restricted": (picked >= words.max(-1), shared),
        "accuracy_restricted_no_end": (picked >= words.max(-1), shared & (target != 2)),
        "cross_entropy_restricted_after_oov": (restricted, after),
        "accuracy_restricted_after_oov": (picked >= words.max(-1), after),
        "oov": (target >= ROWS, target > 0),
        "accuracy_own_word": (named & (ids[..., ROWS:].sum(-1) >= words.max(-1)), target >= ROWS),
    }
    assert set(measured) == set(expected)
    for name, (values, counted) in expected.items():
        np.testing.assert_allclose(measured[name].total, np.where(counted, values, 0).sum(-1), atol=1e-4)
        np.testing.assert_allclose(measured[name].weight, counted.sum(-1))
    assert 0 < measured["accuracy_own_word"].total.sum() < measured["accuracy_own_word"].weight.sum()


def test_padding_changes_nothing_and_memory_holds_the_last_tokens():
    support, _ = encoded()
    whole, padded = (reconstructed(OWN, support, 4, padding)[1] for padding in (0, 5))
    for a, b in zip(whole, padded, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    _, short = algorithm_of(tokens=4)
    kept = reconstructed(short, support, 6)[1]
    # The last sentence is "qq zz a b" with an end: what follows zz, a and b.
    numbers = {word: ROWS + i for i, word in enumerate(("zz", "qq", "yy", "never"))} | {"a": 3, "b": 4}
    pairs = zip(kept.before.tolist(), kept.word.tolist(), strict=True)
    expected = {(numbers["qq"], numbers["zz"]), (numbers["zz"], 3), (3, 4), (4, 2)}
    assert set(pairs) == expected


def test_weights_trust_a_text_that_repeats_itself_and_not_one_that_does_not():
    def weights(sentences):
        clients = to_clients([Writer("ann", sentences, "here")], str.split, None, LENGTH, "here")
        fields = VOCABULARY.encode(clients, own_words=True)["ann"]
        support = {k: jnp.asarray(x) for k, x in fields.items()}
        return np.asarray(reconstructed(OWN, support, len(sentences))[1].weights)

    same = weights(["x1 a x2 b"] * 6)
    other = weights([f"x{i} a y{i} b" for i in range(6)])
    nothing = np.asarray(OWN.personal_model.init_local(global_params(), jax.random.key(0))[1].weights)
    assert same[1] > nothing[1] > other[1]  # which words of its own come
    assert same[3] > nothing[3]  # what follows them


def test_training_is_the_same_to_the_bit_and_numbers_are_checked():
    assert OWN.client_update is PLAIN.client_update and OWN.model is PLAIN.model
    with pytest.raises(ValueError, match="tokens must be a whole number of at least 1, got 0"):
        with_own_words(PLAIN, 4, tokens=0)
    with pytest.raises(ValueError, match="words must be a whole number of at least 0, got -1"):
        with_own_words(PLAIN, -1)


def test_a_word_of_the_history_is_among_the_first_completions():
    shared = [f"w{i}" for i in range(300)]
    vocabulary = Vocabulary(shared, buckets=50)
    rng = np.random.default_rng(0)
    often = 1 / np.arange(10, 310)

    def words(count):
        return " ".join(rng.choice(shared, count, p=often / often.sum()))

    history = [f"{words(6)} kubernetes {words(5)}" for _ in range(5)] + [words(12) for _ in range(20)]
    history.append("we moved it to w207 w208 kubernetes")

    def personal(algorithm):
        params = quickly(algorithm.model.init_global)(jax.random.key(0))
        (completion,) = complete(
            algorithm, params, 0, vocabulary, history, ["w207 w208"], tokenize=str.split, length=14, most=400
        )
        assert abs(sum(p for _, p in completion.personal) - 1) < 1e-3
        return [word for word, _ in completion.personal].index("kubernetes")

    plain, own = algorithm_of(vocabulary, tokens=512)
    assert personal(own) < 3 <= personal(plain)
