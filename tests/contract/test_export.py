"""What every algorithm, solver and model owes: its exported file does in ONNX Runtime what JAX does."""

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.small import ITEMS, federation, rating_model, sgd, solver

from fedrecon.algorithms._base import Algorithm, Broadcast, ServerState
from fedrecon.algorithms._ditto import ditto
from fedrecon.algorithms._fedalt import fedalt
from fedrecon.algorithms._fedavg import fedavg
from fedrecon.algorithms._fedper import fedper
from fedrecon.algorithms._fedrecon import fedrecon
from fedrecon.algorithms._fedrep import fedrep
from fedrecon.algorithms._fedsim import fedsim
from fedrecon.algorithms._finetuning import finetuning
from fedrecon.algorithms._full_gradient import full_gradient
from fedrecon.algorithms._lg_fedavg import lg_fedavg
from fedrecon.algorithms._local_only import local_only
from fedrecon.algorithms._maml import first_order_maml, maml
from fedrecon.algorithms._pfedme import pfedme
from fedrecon.algorithms._reptile import reptile
from fedrecon.core._mean import Mean
from fedrecon.core._model import Model
from fedrecon.core._splits import AlternateBatches
from fedrecon.data._clients import Clients
from fedrecon.datasets.text._vocabulary import OWN_FIELDS
from fedrecon.export import _export
from fedrecon.export._cases import Case, cases, fields_of, ranges_of
from fedrecon.export._check import TOLERANCE
from fedrecon.export._compare import Checks
from fedrecon.export._export import Subject, export
from fedrecon.export._functions import Exported, personal
from fedrecon.export._session import Session
from fedrecon.export._training import Training, write_update
from fedrecon.export._updates import Updates
from fedrecon.models._implicit_matrix_factorization import implicit_factorization
from fedrecon.models.next_word._model import next_word_lstm
from fedrecon.models.next_word._own_words import with_own_words
from fedrecon.models.next_word._transformer import next_word_transformer
from fedrecon.serving._personalization import TopK
from fedrecon.solvers._gradient import Solver
from fedrecon.solvers._newton import Newton
from fedrecon.solvers._optimizers import optimizer

pytest.importorskip("onnx", reason="needs the extra export")
pytest.importorskip("onnxruntime", reason="needs the extra export")

PAIRS = AlternateBatches(2)
SERVER = sgd(1.0)
ADAM = optimizer("adam", learning_rate=0.05, eps=0.01)
SOLVERS = {
    "newton": Newton(),
    # Over tables and vectors together the problem is convex with damping only; else a step changes nothing.
    "newton, damped": Newton(iterations=3, damping=40.0),
    "sgd": solver(0.05),
    "momentum": Solver(sgd(0.05, momentum=0.9), 2, epochs=2, max_steps=5),
    "adam": Solver(ADAM, 3, epochs=2, shuffle=True),
}
HEAD = ("1/user",)  # what a client has of its own


# From a model and what fits a client to the algorithm.
PERSONAL: dict[str, Callable[[Model, Any], Algorithm]] = {
    "fedrecon": lambda model, stage: fedrecon(model, stage, solver(), SERVER, PAIRS),
    "implicit": lambda model, stage: full_gradient(model, stage, solver(), SERVER, PAIRS),
    "refit": lambda model, stage: finetuning(fedavg(model, solver(0.05), SERVER), stage, HEAD),
    "fine-tuning": lambda model, stage: finetuning(fedavg(model, solver(0.05), SERVER), stage),
    "maml": lambda model, stage: maml(model, stage, solver(), SERVER, PAIRS),
    "first_order_maml": lambda model, stage: first_order_maml(model, stage, solver(), SERVER, PAIRS),
    "reptile": lambda model, stage: reptile(model, stage, SERVER),
    "local_only": lambda model, stage: local_only(model, stage),
    "fedper": lambda model, stage: fedper(model, solver(), stage, SERVER, HEAD),
    "fedrep": lambda model, stage: fedrep(model, stage, solver(), SERVER, HEAD),
    "lg_fedavg": lambda model, stage: lg_fedavg(model, stage, solver(), SERVER, ("0/item",)),
    "fedalt": lambda model, stage: fedalt(model, stage, solver(), SERVER),
    "fedsim": lambda model, stage: fedsim(model, stage, solver(), SERVER),
    "ditto": lambda model, stage: ditto(model, solver(), stage, SERVER, 0.5),
    "pfedme": lambda model, stage: pfedme(model, stage, solver(), SERVER, 2.0),
}
RATINGS = federation(repeats=True).select("item", "rating")


@pytest.fixture
def few(monkeypatch):
    """Fewer random inputs than an export of a user is checked with."""
    monkeypatch.setattr(_export, "_RANDOM", 24)


def exported(
    algorithm: Algorithm, clients: Clients, sets: Sequence[Case], top: TopK | None, out: Any
) -> Checks:
    subject = Subject(algorithm, start_of(algorithm), fields_of(clients), ranges_of(clients), top)
    return export(subject, out, support_max=8, clients=sets)


def start_of(algorithm: Algorithm) -> ServerState:
    return algorithm.init(jax.random.key(1))


@functools.cache
def sets_of(name: str) -> list[Case]:
    """The support and query sets of the clients of a model, or of `RATINGS`, which are split once."""
    return list(cases(MODELS[name][1] if name else RATINGS, PAIRS, 0))


def text_of(function: Exported) -> str:
    """A function that is to be exported as text, with its constants: equal texts make equal files."""
    weights = [jax.ShapeDtypeStruct(np.shape(x), np.asarray(x).dtype) for x in function.weights]
    closed = jax.make_jaxpr(function.fn)(*weights, *function.shapes)
    keys = [jnp.issubdtype(x.dtype, jax.dtypes.prng_key) for x in closed.consts]
    constants = [
        str(x) if key else repr(np.asarray(x).tobytes()) for x, key in zip(closed.consts, keys, strict=True)
    ]
    parts = [str(closed.jaxpr), *constants, str(function.inputs), str(function.outputs)]
    return re.sub(" at 0x[0-9a-f]+", "", "\n".join(parts))  # addresses of functions


# Every algorithm with Newton's method and with a solver, and `fedrecon` with all: the others are slow tests.
NEWTON, GRADIENT = ("newton", "newton, damped"), ("sgd", "momentum", "adam")
QUICK = {("fedrecon", kind) for kind in SOLVERS}
QUICK |= {(name, kinds[i % len(kinds)]) for kinds in (NEWTON, GRADIENT) for i, name in enumerate(PERSONAL)}
# What comparisons found, by the text of the function that was compared: several algorithms personalise alike.
_COMPARED: dict[str, Checks] = {}


@pytest.mark.filterwarnings("ignore:Newton.* does not treat the rows of a table:UserWarning")
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (name, kind) if (name, kind) in QUICK else pytest.param(name, kind, marks=pytest.mark.slow)
        for name in PERSONAL
        for kind in SOLVERS
    ],
)
def test_algorithms(name, kind, tmp_path, few):
    algorithm, top = PERSONAL[name](rating_model(scale=True), SOLVERS[kind]), TopK(5, "item", ITEMS)
    start = start_of(algorithm)
    function = personal(algorithm, start, fields_of(RATINGS), 8, top, 0)
    state = algorithm.init_client_state(start.global_params, jax.random.key(0))
    assert any(one.name == "start" for one in function.inputs) == bool(jax.tree.leaves(state))
    text = text_of(function)
    if text not in _COMPARED:
        _COMPARED[text] = exported(algorithm, RATINGS, sets_of(""), top, tmp_path / "out")
        Session(tmp_path / "out")
    checks = _COMPARED[text]
    assert checks.users == checks.topk_identical == len(RATINGS)
    assert checks.rmse_export == pytest.approx(checks.rmse_jax, abs=1e-5)


# The model draws its local start by `jax.random`, in an update from the client's key.
QUICK_UPDATES = ("fedrecon", "fine-tuning")


@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK_UPDATES else pytest.param(name, marks=pytest.mark.slow)
        for name in PERSONAL
        if name != "local_only"  # sends nothing
    ],
)
def test_updates(name, tmp_path):
    """`write_update` compares the deltas of clients and of random examples with those in JAX."""
    algorithm = PERSONAL[name](rating_model(scale=True), SOLVERS["momentum"])
    state = algorithm.init(jax.random.key(1))
    keys = np.arange(2 * len(RATINGS), dtype=np.uint32).reshape(-1, 2)
    own = [RATINGS[client] for client in RATINGS.ids]
    training = Training(fields_of(RATINGS), ranges_of(RATINGS), 12, own, keys)
    write_update(algorithm, state, training, tmp_path, 0)
    longest = int(np.argmax(RATINGS.num_examples))
    broadcast = Broadcast(state.global_params, state.round)
    update = Updates(tmp_path)(broadcast, own[longest], keys[longest])
    moved = max(float(np.abs(x).max()) for x in jax.tree.leaves(update.delta.total))
    assert np.isfinite(moved) and moved > 1e-3 and update.delta.weight > 0


def sentences(words: int, buckets: int, own_words: int = 0) -> Clients:
    rng = np.random.default_rng(0)
    lengths = {"word": (0, words + 3), "bucket": (-1, buckets), "target": (0, words + 3 + buckets)}
    if own_words:
        lengths |= dict.fromkeys(OWN_FIELDS, (0, own_words + 1))
    return Clients.from_arrays(
        {
            f"c{i}": {f: rng.integers(*ends, (count, 5)).astype(np.int32) for f, ends in lengths.items()}
            for i, count in enumerate((0, 1, 4, 7))
        }
    )


def flax_model() -> Model:
    nnx: Any = pytest.importorskip("flax.nnx", reason="needs the extra flax")

    class Network(nnx.Module):
        def __init__(self, rngs: Any):
            self.body = nnx.Linear(3, 4, rngs=rngs)
            self.head = nnx.Linear(4, 1, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return self.head(nnx.relu(self.body(x)))[..., 0]

    graph, params = nnx.split(Network(nnx.Rngs(0)))
    return on_features(nnx.to_pure_dict(params), lambda p, x: nnx.merge(graph, with_values(params, p))(x))


def with_values(params: Any, values: Any) -> Any:
    from flax import nnx

    copy = jax.tree.map(lambda x: x, params)
    nnx.replace_by_pure_dict(copy, values)
    return copy


def equinox_model() -> Model:
    eqx = pytest.importorskip("equinox", reason="needs the extra equinox")
    network = eqx.nn.MLP(3, "scalar", 4, 1, key=jax.random.key(0))
    params, static = eqx.partition(network, eqx.is_array)
    leaves, tree = jax.tree.flatten(params)

    def apply(p: Any, x: Any) -> Any:
        own = jax.tree.unflatten(tree, [p["body"][0], p["body"][1], p["head"][0], p["head"][1]])
        return jax.vmap(eqx.combine(own, static))(x)

    return on_features({"body": leaves[:2], "head": leaves[2:]}, apply)


def on_features(params: Any, apply: Callable[[Any, Any], Any]) -> Model:
    """A model of a network's output for a vector, its head local."""

    def predict(g: Any, x: Any, batch: Any) -> Any:
        return apply({**g, **x}, batch["x"])

    def loss(g: Any, x: Any, batch: Any, key: Any) -> Mean:
        return Mean.of(jnp.square(predict(g, x, batch) - batch["y"]))

    return Model(
        init_global=lambda key: {"body": params["body"]},
        init_local=lambda g, key: {"head": params["head"]},
        loss=loss,
        metrics=lambda g, x, batch: {},
        predict=predict,
    )


def vectors() -> Clients:
    rng = np.random.default_rng(0)
    return Clients.from_arrays(
        {
            f"c{i}": {
                "x": rng.standard_normal((n, 3)).astype(np.float32),
                "y": rng.standard_normal(n).astype(np.float32),
            }
            for i, n in enumerate((0, 1, 5, 9))
        }
    )


ITEM = TopK(5, "item", ITEMS)
WORDS, BUCKETS = 12, 5
MODELS: dict[str, tuple[Callable[[], Model], Any, TopK | None]] = {
    "squared": (lambda: implicit_factorization(ITEMS, 3), federation().select("item"), ITEM),
    "softmax": (lambda: implicit_factorization(ITEMS, 3, loss="softmax"), federation().select("item"), ITEM),
    "lstm": (lambda: next_word_lstm(WORDS, BUCKETS, embedding=4, hidden=6), sentences(WORDS, BUCKETS), None),
    "transformer": (
        lambda: next_word_transformer(WORDS, BUCKETS, embedding=4, heads=2, layers=1, rank=2),
        sentences(WORDS, BUCKETS),
        None,
    ),
    "own words": (
        lambda: next_word_lstm(WORDS, BUCKETS, embedding=4, hidden=6),
        sentences(WORDS, BUCKETS, own_words=4),
        None,
    ),
    "flax": (flax_model, vectors(), None),
    "equinox": (equinox_model, vectors(), None),
}
STAGES = {
    "squared": "newton",
    "softmax": "newton, damped",
    "lstm": "sgd",
    "own words": "sgd",
    "flax": "momentum",
}


@pytest.mark.parametrize("name", MODELS)
def test_models(name, tmp_path, few):
    make, clients, top = MODELS[name]
    stage = SOLVERS[STAGES.get(name, "adam")]
    algorithm = fedrecon(make(), stage, solver(), SERVER, PAIRS)
    if name == "own words":
        algorithm = with_own_words(algorithm, WORDS, tokens=16)
    checks = exported(algorithm, clients, sets_of(name), top, tmp_path / "out")
    assert checks.users == len(clients) and checks.max_abs_diff < 2 * TOLERANCE
    assert checks.topk_identical == (len(clients) if top is not None else 0)
