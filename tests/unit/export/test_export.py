"""A whole export: the folder, its use in Python, and what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.small import ITEMS, federation, rating_model, sgd, solver

from fedrecon.algorithms._base import Broadcast
from fedrecon.algorithms._ditto import ditto
from fedrecon.algorithms._fedrecon import fedrecon
from fedrecon.core._examples import Examples
from fedrecon.core._model import leaves_of
from fedrecon.core._splits import AlternateBatches
from fedrecon.data._hashing import Purpose, round_keys
from fedrecon.simulation._batches import key_of
from fedrecon.simulation._trained_state import TrainedState
from fedrecon.solvers._gradient import Solver
from fedrecon.solvers._newton import Newton

pytest.importorskip("onnx", reason="needs the extra export")
pytest.importorskip("onnxruntime", reason="needs the extra export")

from fedrecon.export import _check, _export
from fedrecon.export._cases import cases, fields_of, ranges_of
from fedrecon.export._export import Subject, export
from fedrecon.export._graph import elementwise, operations
from fedrecon.export._graph.precision import to_stored
from fedrecon.export._graph.program import ExportError
from fedrecon.export._graph.writer import Operation
from fedrecon.export._session import Session
from fedrecon.export._training import Training
from fedrecon.models._matrix_factorization import matrix_factorization
from fedrecon.serving._personalization import TopK

CLIENTS = federation().select("item", "rating")
PAIRS = AlternateBatches(2)
ALGORITHM = fedrecon(rating_model(), Newton(), solver(0.01, None, reduction="sum"), sgd(1.0), PAIRS)
STATE = ALGORITHM.init(jax.random.key(0))
SUBJECT = Subject(
    ALGORITHM,
    STATE,
    fields_of(CLIENTS),
    ranges_of(CLIENTS),
    TopK(5, "item", ITEMS),
    {"item": [f"film {i}" for i in range(ITEMS)]},
    "small",
    data_notice="Generated.",
)
SUPPORT = {"item": [0, 39, 7], "rating": [5.0, 1.0, 3.0]}
KEYS = {
    *("format", "run", "round", "algorithm", "precision", "opset", "seed", "support_max", "top_k"),
    *("inputs", "outputs", "files", "checks", "privacy", "data_notice"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "out"
    keys = round_keys(3, Purpose.TRAINING, 0, CLIENTS.keys)
    own = [CLIENTS[i] for i in CLIENTS.ids]
    training = Training(fields_of(CLIENTS), ranges_of(CLIENTS), 12, own, keys)
    export(SUBJECT, out, support_max=8, clients=list(cases(CLIENTS, PAIRS, 0)), training=training)
    return out


@pytest.fixture(scope="module")
def session(folder: Path) -> Session:
    return Session(folder)


def local_params(support: Any) -> Any:
    data = {"item": jnp.array(support["item"], jnp.int32), "rating": jnp.array(support["rating"])}
    examples = Examples(data, np.ones(len(support["item"]), bool))
    key = jax.random.key(0)
    return ALGORITHM.personalize(Broadcast(STATE.global_params, jnp.int32(0)), (), examples, key)


def test_description(folder, session):
    description = json.loads((folder / "model.json").read_text())
    assert set(description) == KEYS
    assert (description["algorithm"], description["round"], description["top_k"]) == ("fedrecon", 0, 5)
    assert (description["run"], description["data_notice"]) == ("small", "Generated.")
    assert description["checks"]["users"] == description["checks"]["topk_identical"] == len(CLIENTS)
    names = {entry["name"] for entry in description["files"]}
    assert (
        {"model.onnx", "vectors.npz", "update.onnx"}
        <= names
        == {p.name for p in folder.iterdir()} - {"model.json"}
    )
    assert [entry["name"] for entry in description["inputs"]] == ["item", "rating", "mask", "exclude"]
    assert session.vocabularies["item"][3] == "film 3" and len(session.digest) == 64


def test_vectors_are_what_the_file_does(folder, session):
    with np.load(folder / "vectors.npz") as file:
        arrays = dict(file)
    for i in range(8):
        given = {name.split("/")[-1]: x for name, x in arrays.items() if name.startswith(f"{i}/in/")}
        found = session.runtime.run(["prediction"], given)[0]
        np.testing.assert_array_equal(found, arrays[f"{i}/out/prediction"])
    used = np.concatenate([arrays[f"{i}/in/rating"] for i in range(8)])
    assert not np.isin(np.round(used, 3), np.arange(1, 6)).all()  # nobody's ratings


def test_session_does_what_the_algorithm_does(session):
    wanted = local_params(SUPPORT)
    found = session.personalize(SUPPORT)
    np.testing.assert_allclose(found["user"], wanted["user"], rtol=1e-5)
    items = {"item": np.array([3, 39])}
    scores = ALGORITHM.personal_model.predict(STATE.global_params, wanted, items)
    np.testing.assert_allclose(session.predict(SUPPORT, items), scores, rtol=1e-5)
    everything = ALGORITHM.personal_model.predict(STATE.global_params, wanted, {"item": jnp.arange(ITEMS)})
    order = np.argsort(-np.asarray(everything), kind="stable")
    top, score = session.top(SUPPORT)
    assert top.tolist() == [i for i in order.tolist() if i not in SUPPORT["item"]][:5]
    assert np.all(np.diff(score) <= 0)
    assert session.top(SUPPORT, exclude=[])[0].tolist() == order[:5].tolist()
    assert len(session.top(SUPPORT, exclude=np.arange(ITEMS - 2))[0]) == 2


def test_an_empty_history_is_the_fresh_user(session):
    none = {"item": np.zeros(0, int), "rating": np.zeros(0)}
    np.testing.assert_allclose(session.personalize({})["user"], local_params(none)["user"], atol=1e-6)
    assert len(session.top({})[0]) == 5


def test_update_is_the_simulators(session):
    update = jax.jit(
        lambda examples, key: ALGORITHM.client_update(
            Broadcast(STATE.global_params, jnp.int32(0)), (), examples, key_of(key)
        )[0]
    )
    for name in CLIENTS.ids[3:]:
        own, key = CLIENTS[name], np.array([1, 2], np.uint32)
        count = len(own["item"])
        padded = {n: np.concatenate([x, np.zeros(12 - count, x.dtype)]) for n, x in own.items()}
        wanted = update(Examples(padded, np.arange(12) < count), key)
        found = session.update(Broadcast(STATE.global_params, jnp.int32(0)), own, key)
        assert found.delta.weight == wanted.delta.weight
        for path, x in leaves_of(wanted.delta.total).items():
            whole = np.zeros_like(x)
            whole[found.rows[path]] = leaves_of(found.delta.total)[path]
            assert len(found.rows[path]) == len(np.unique(own["item"]))
            np.testing.assert_allclose(whole, x, atol=1e-5)


def test_a_stateful_client_goes_on_from_what_it_kept(tmp_path):
    algorithm = ditto(rating_model(), Solver(sgd(0.05), 2), solver(), sgd(1.0), 0.5)
    state = algorithm.init(jax.random.key(0))
    subject = Subject(algorithm, state, fields_of(CLIENTS), ranges_of(CLIENTS), TopK(5, "item", ITEMS))
    export(subject, tmp_path / "out", support_max=8)
    session = Session(tmp_path / "out")
    once = session(SUPPORT)["local"]
    again = session(SUPPORT, start=once)["local"]
    assert np.max(np.abs(again - once)) > 1e-3
    with pytest.raises(ExportError, match="start must be of shape"):
        session(SUPPORT, start=np.zeros((2, 2)))


@pytest.mark.parametrize(
    ("support", "message"),
    [
        ({"item": [40], "rating": [3.0]}, r"item must hold numbers from 0 to 39, got 40"),
        ({"item": [-1], "rating": [3.0]}, r"item must hold numbers from 0 to 39, got -1"),
        ({"item": [1], "rating": [5.5]}, r"rating must hold numbers from 1\.0 to 5\.0, got 5\.5"),
        ({"item": [1], "rating": [np.nan]}, r"rating must hold numbers from 1\.0 to 5\.0, got nan"),
        ({"item": [1.5], "rating": [3.0]}, r"item must hold whole numbers, got 1\.5"),
        ({"item": range(9), "rating": [3.0] * 9}, r"support must have at most 8 examples, got 9"),
        ({"item": [1, 2], "rating": [3.0]}, r"all fields must be as long, got 2 and 1 of 'rating'"),
        ({"item": [1]}, r"support must hold the fields \['item', 'rating'\], it lacks \['rating'\]"),
        ({"item": [[1]], "rating": [3.0]}, r"item must be of shape \(n,\), got \(1, 1\)"),
    ],
)
def test_wrong_input(session, support, message):
    with pytest.raises(ExportError, match=message):
        session.top({name: np.asarray(list(x)) for name, x in support.items()})


def test_changed_files_are_refused(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    model = (copy / "model.onnx").read_bytes()
    (copy / "model.onnx").write_bytes(model[:-1])
    with pytest.raises(ExportError, match=r"model\.onnx: must have .* bytes, it has .*: it is cut off"):
        Session(copy)
    (copy / "model.onnx").write_bytes(model[:-1] + bytes([model[-1] ^ 1]))
    with pytest.raises(ExportError, match=r"is not the file that model\.json names"):
        Session(copy)
    (copy / "model.json").write_text('{"format": 2}')
    with pytest.raises(ExportError, match=r"must be of format 1, got 2"):
        Session(copy)
    (copy / "model.json").write_text("[]")
    with pytest.raises(ExportError, match="must be the description of an export"):
        Session(copy)
    with pytest.raises(ExportError, match="cannot be read"):
        Session(tmp_path / "nowhere")


def content(path: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in path.iterdir()}


def test_a_wrong_translation_is_refused_by_its_first_operation(folder, tmp_path, monkeypatch):
    """The folder stays as it is, and so does JAX in this process."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    before, wrong = content(copy), Operation(elementwise.ELEMENTWISE["add"], elementwise=True)
    params = local_params(SUPPORT)
    monkeypatch.setitem(operations.OPERATIONS, "sub", wrong)
    with pytest.raises(ExportError, match=r"differs from JAX by .* first operation that differs is 'sub'"):
        export(SUBJECT, copy, support_max=8)
    assert content(copy) == before
    np.testing.assert_array_equal(local_params(SUPPORT)["user"], params["user"])


def test_a_file_that_differs_only_before_it_is_optimised_is_refused(tmp_path, monkeypatch):
    """The page answers without the runtime's optimiser at first."""

    class Wrong:
        def __init__(self, session: Any):
            self.get_inputs, self.get_outputs, self._run = (
                session.get_inputs,
                session.get_outputs,
                session.run,
            )

        def run(self, *args: Any) -> Any:
            return [x + (x.dtype.kind == "f") for x in self._run(*args)]

    def opened(model: Any, threads: int = 1, optimised: bool = True) -> Any:
        session = _check.session_of(model, threads, optimised)
        return session if optimised else Wrong(session)

    monkeypatch.setattr(_export, "session_of", opened)
    with pytest.raises(ExportError, match="differs from JAX"):
        export(SUBJECT, tmp_path / "out", support_max=8)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"precision": "int4"}, "precision must be one of float32, float16, int8, got 'int4'"),
        ({"support_max": 0}, "support_max must be at least 1, got 0"),
    ],
)
def test_refusals(tmp_path, others, message):
    with pytest.raises(ExportError, match=message):
        export(SUBJECT, tmp_path / "out", **{"support_max": 8, **others})
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years")
    with pytest.raises(ExportError, match=r"an empty folder or one of an export, this holds 'thesis\.tex'"):
        export(SUBJECT, tmp_path, support_max=8)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_small_precisions(tmp_path):
    rng = np.random.default_rng(0)
    table = rng.standard_normal((300, 8)).astype(np.float32) * rng.uniform(0, 9, (300, 1)).astype(np.float32)
    table[5] = 0
    half, small = to_stored(table, "float16"), to_stored(table, "int8")
    assert np.abs(half.array - table).max() <= np.abs(table).max() / 2**11
    step = np.abs(table).max(1, keepdims=True) / 127
    assert np.all(np.abs(small.array - table) <= 0.51 * step + 1e-12)
    assert small.parts[0].dtype == np.int8 and small.parts[1].dtype == np.float16
    assert to_stored(np.float32(2.0), "int8").parts[0] == 2.0
    with pytest.raises(ValueError, match="precision must be 'float32' for parameters above 65504"):
        to_stored(np.full((300, 2, 2), 1e5, np.float32), "float16")
    algorithm = fedrecon(matrix_factorization(ITEMS, 8, user_penalty=1.0), Newton(), solver(), sgd(1.0))
    state = algorithm.init(jax.random.key(0))
    subject = Subject(algorithm, state, fields_of(CLIENTS), ranges_of(CLIENTS), TopK(5, "item", ITEMS))
    sizes = {}
    for precision in ("float32", "float16", "int8"):
        export(subject, tmp_path / precision, support_max=8, precision=precision)
        sizes[precision] = (tmp_path / precision / "model.onnx").stat().st_size
    assert sizes["float32"] - sizes["float16"] == pytest.approx(2 * 8 * ITEMS, abs=200)
    assert sizes["float16"] - sizes["int8"] == pytest.approx(6 * ITEMS, abs=200)


def test_a_large_table_lies_beside_the_graph(tmp_path):
    """Over 10 MB, as ONNX's own limit is not far, and a browser reads such data apart."""
    items, out = 330_000, tmp_path / "out"
    model = matrix_factorization(items, 8, user_penalty=1.0)
    algorithm = fedrecon(model, Newton(), solver(), sgd(1.0))
    state = algorithm.init(jax.random.key(0))
    ranges = {"rating": (1.0, 5.0)}
    subject = Subject(algorithm, state, fields_of(CLIENTS), ranges)  # no list of items: fast to check
    export(subject, out, support_max=8)
    table = 4 * 8 * items
    assert (out / "model.onnx").stat().st_size < 20_000 < table <= (out / "model.onnx.data").stat().st_size
    names = [entry["name"] for entry in json.loads((out / "model.json").read_text())["files"]]
    assert names[:2] == ["model.onnx", "model.onnx.data"]
    support = {"item": [0, items - 1, 7], "rating": [5.0, 1.0, 3.0]}
    query = {"item": np.array([1, items - 1, 200_000], np.int32)}
    examples = Examples({name: jnp.asarray(x) for name, x in support.items()}, np.ones(3, bool))
    key = jax.random.key(0)
    local = algorithm.personalize(Broadcast(state.global_params, jnp.int32(0)), (), examples, key)
    wanted = algorithm.personal_model.predict(state.global_params, local, query)
    np.testing.assert_allclose(Session(out).predict(support, query), wanted, atol=5e-6)
    data = (out / "model.onnx.data").read_bytes()
    (out / "model.onnx.data").write_bytes(data[:-4])
    with pytest.raises(ExportError, match=r"model\.onnx\.data: must have .* bytes, .* it is cut off"):
        Session(out)
    export(SUBJECT, out, support_max=8)  # a small one in its place
    assert not (out / "model.onnx.data").exists() and len(Session(out).top({})[0]) == 5


def test_equal_zeros_of_both_signs_come_in_one_order():
    found = {"top_item": np.array([1, 0]), "prediction": np.array([0.0, -0.0])}
    wanted = {"top_item": np.array([0, 1]), "prediction": np.array([0.0, -0.0])}
    assert _check.same_list(found, wanted)
    far = {"top_item": np.array([0, 1]), "prediction": np.array([1.0, 0.9])}
    assert not _check.same_list(found, far)


def test_the_vocabularies_are_those_that_the_state_was_trained_on():
    ids = np.arange(100, 100 + ITEMS)
    state, names = TrainedState.of(STATE, {"item": ids}), {"item": ids.tolist()}
    assert replace(SUBJECT, state=state, vocabularies={}).vocabularies == names
    assert replace(SUBJECT, state=state, vocabularies=names).vocabularies == names
    message = "the vocabulary of 'item' must be the one that the state was trained on"
    with pytest.raises(ExportError, match=message):
        replace(SUBJECT, state=state, vocabularies={"item": ids[::-1].tolist()})
    with pytest.raises(ExportError, match=message):
        replace(SUBJECT, state=state)
