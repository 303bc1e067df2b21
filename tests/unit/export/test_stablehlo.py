"""An archive of StableHLO: what it takes, that it does what the graph does, and what is refused."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from tests.small import ITEMS, federation, rating_model, sgd, solver

from fedrecon.algorithms._ditto import ditto
from fedrecon.algorithms._fedrecon import fedrecon
from fedrecon.core._splits import AlternateBatches
from fedrecon.export import _export
from fedrecon.export._cases import cases, fields_of, ranges_of
from fedrecon.export._export import Subject, export
from fedrecon.export._graph.program import ExportError
from fedrecon.export._session import Session
from fedrecon.export._stablehlo import Archive
from fedrecon.export._training import Training
from fedrecon.models._matrix_factorization import matrix_factorization
from fedrecon.serving._personalization import TopK
from fedrecon.solvers._gradient import Solver
from fedrecon.solvers._newton import Newton

CLIENTS = federation().select("item", "rating")
PAIRS = AlternateBatches(2)
ALGORITHM = fedrecon(rating_model(), Newton(), solver(0.01, None, reduction="sum"), sgd(1.0), PAIRS)
SUBJECT = Subject(
    ALGORITHM,
    ALGORITHM.init(jax.random.key(0)),
    fields_of(CLIENTS),
    ranges_of(CLIENTS),
    TopK(5, "item", ITEMS),
    {"item": [f"film {i}" for i in range(ITEMS)]},
)


def archive(folder: Path) -> jax.export.Exported:
    return jax.export.deserialize(bytearray((folder / "model.stablehlo").read_bytes()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("archive") / "out"
    export(SUBJECT, out, support_max=8, clients=list(cases(CLIENTS, PAIRS, 0)), format="stablehlo")
    return out


def test_an_archive_does_what_the_graph_does(folder, tmp_path):
    pytest.importorskip("onnxruntime", reason="needs the extra export")
    export(SUBJECT, tmp_path / "graph", support_max=8)
    session, read = Session(tmp_path / "graph"), archive(folder)
    item, rating = np.array([0, 39, 7], np.int32), np.array([5, 1, 3], np.float32)
    wanted = session({"item": item, "rating": rating}, exclude=item)
    found = read.call(item=item, rating=rating, mask=np.ones(3, bool), exclude=item)
    assert found["top_item"].tolist() == wanted["top_item"].tolist()
    for name in ("top_score", "prediction", "local"):
        np.testing.assert_allclose(found[name], wanted[name], atol=1e-5)
    # A user without ratings is one example that the mask leaves out; no item has the last row.
    nobody = read.call(item=item[:1], rating=rating[:1], mask=np.zeros(1, bool), exclude=np.int32([ITEMS]))
    np.testing.assert_allclose(nobody["prediction"], session({})["prediction"], atol=1e-5)


def test_description_and_vectors(folder):
    description = json.loads((folder / "model.json").read_text())
    assert {entry["name"] for entry in description["files"]} == {p.name for p in folder.iterdir()} - {
        "model.json"
    }
    assert description["opset"] is None and description["checks"]["users"] == len(CLIENTS)
    assert description["checks"]["topk_identical"] == len(CLIENTS)
    read = archive(folder)
    assert description["stablehlo"]["platforms"] == ["cpu", "cuda", "tpu"] == list(read.platforms)
    names = [entry["name"] for entry in description["inputs"]]
    assert names == ["item", "rating", "mask", "exclude"]
    with np.load(folder / "vectors.npz") as file:
        arrays = dict(file)
    for i in range(8):
        given = {name: arrays[f"{i}/in/{name}"] for name in names}
        assert min(len(x) for x in given.values()) >= 1
        for name, x in read.call(**given).items():
            np.testing.assert_allclose(x, arrays[f"{i}/out/{name}"], rtol=1e-5, atol=1e-5)


def test_a_stateful_client_says_whether_it_has_a_state(tmp_path):
    algorithm = ditto(rating_model(), Solver(sgd(0.05), 2), solver(), sgd(1.0), 0.5)
    state = algorithm.init(jax.random.key(0))
    subject = Subject(algorithm, state, fields_of(CLIENTS), ranges_of(CLIENTS), TopK(5, "item", ITEMS))
    export(subject, tmp_path / "out", support_max=8, format="stablehlo")
    description = json.loads((tmp_path / "out" / "model.json").read_text())
    entries = {entry["name"]: entry for entry in description["inputs"]}
    (size,) = entries["start"]["shape"]
    assert entries["start_given"] == {"name": "start_given", "shape": [], "dtype": "bool"}
    read, item = archive(tmp_path / "out"), np.array([0, 39, 7], np.int32)
    given = {"item": item, "rating": np.float32([5, 1, 3]), "mask": np.ones(3, bool), "exclude": item}
    none = np.zeros(size, np.float32)
    once = read.call(**given, start=none, start_given=np.asarray(False))["local"]
    again = read.call(**given, start=once, start_given=np.asarray(True))["local"]
    zero = read.call(**given, start=none, start_given=np.asarray(True))["local"]
    assert np.max(np.abs(again - once)) > 1e-3 and np.max(np.abs(zero - once)) > 1e-3


def test_parameters_are_held_as_they_are_stored(tmp_path):
    algorithm = fedrecon(matrix_factorization(ITEMS, 8, user_penalty=1.0), Newton(), solver(), sgd(1.0))
    state = algorithm.init(jax.random.key(0))
    subject = Subject(algorithm, state, fields_of(CLIENTS), ranges_of(CLIENTS), TopK(5, "item", ITEMS))
    sizes = {}
    for precision in ("float32", "float16", "int8"):
        out = tmp_path / precision
        export(subject, out, support_max=8, precision=precision, format="stablehlo")
        sizes[precision] = (out / "model.stablehlo").stat().st_size
    assert sizes["float32"] - sizes["float16"] == pytest.approx(2 * 8 * ITEMS, abs=400)
    assert sizes["float16"] - sizes["int8"] == pytest.approx(6 * ITEMS, abs=400)


def test_what_differs_is_not_kept(tmp_path, monkeypatch):
    class Wrong(Archive):
        def run(self, names, given):
            return [x + (x.dtype.kind == "f") for x in super().run(names, given)]

    monkeypatch.setattr(_export, "Archive", Wrong)
    with pytest.raises(ExportError, match=r"the archive differs from JAX by .*, and was not kept"):
        export(SUBJECT, tmp_path / "out", support_max=8, format="stablehlo")
    assert not (tmp_path / "out").exists()


def test_refusals(folder, tmp_path):
    training = Training(fields_of(CLIENTS), ranges_of(CLIENTS), 12)
    with pytest.raises(ExportError, match="training must be None for StableHLO"):
        export(SUBJECT, tmp_path / "out", support_max=8, format="stablehlo", training=training)
    with pytest.raises(ExportError, match="format must be one of onnx, stablehlo, got 'tflite'"):
        export(SUBJECT, tmp_path / "out", support_max=8, format="tflite")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ExportError, match=r"must be an export with model\.onnx, it has model\.stablehlo"):
        Session(folder)


def test_an_archive_replaces_a_graph_in_its_folder(folder, tmp_path):
    pytest.importorskip("onnxruntime", reason="needs the extra export")
    export(SUBJECT, tmp_path / "out", support_max=8)
    export(SUBJECT, tmp_path / "out", support_max=8, format="stablehlo")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {p.name for p in folder.iterdir()}
