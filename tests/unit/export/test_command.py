"""`fedrecon export` and `fedrecon evaluate --through` on a small run of generated ratings."""

import json
from pathlib import Path

import pytest

from fedrecon.experiment.cli.main import main

pytest.importorskip("onnx", reason="needs the extra export")
pytest.importorskip("onnxruntime", reason="needs the extra export")

SMALL = ["training.rounds=2", "training.clients_per_round=10", "data.clients=60", "data.items=30"]
SMALL += ["data.fractions={train = 0.8, validation = 0.1, test = 0.1}", "model.factors=4", "data.cap=20"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "small"
    settings = [word for setting in SMALL for word in ("--set", setting)]
    assert main(["run", "--out", str(out), *settings]) == 0
    return out


@pytest.fixture(scope="module")
def folder(run) -> Path:
    out = run.parent / "device"
    assert main(["export", str(run), "--out", str(out), "--top", "5", "--with", "update"]) == 0
    return out


def test_export_and_evaluate_through_it(run, folder, tmp_path, capsys):
    description = json.loads((folder / "model.json").read_text())
    checks = description["checks"]
    assert checks["users"] == checks["topk_identical"] == 6 and description["top_k"] == 5
    update = json.loads((folder / "update.json").read_text())["checks"]
    assert update["clients"] == 48 and update["max_abs_diff"] < 1e-5
    result = tmp_path / "result.json"
    assert main(["evaluate", str(run), "--through", str(folder), "--json", str(result)]) == 0
    found = json.loads(result.read_text())
    assert {name: found[name] for name in checks} == pytest.approx(checks)
    assert found["rmse_export"] == pytest.approx(found["rmse_jax"], abs=1e-6)
    # Keys of the run's own evaluation differ by client.
    assert found["run"]["rmse"] == pytest.approx(found["rmse_jax"], abs=0.1)
    assert f"rmse_export: {found['rmse_export']}" in capsys.readouterr().out.replace("\n", "")


def test_a_refusal_ends_with_status_2_and_leaves_the_folder(run, folder, tmp_path, capsys):
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["export", str(run), "--out", str(tmp_path)]) == 2
    assert "this holds 'notes.txt'" in capsys.readouterr().err
    arguments = ["export", str(run), "--out", str(folder), "--static", "--runtime", str(tmp_path)]
    assert main(arguments) == 2
    assert "--runtime must name a folder" in capsys.readouterr().err
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert main(["evaluate", str(run), "--through", str(folder)]) == 2
    assert main(["evaluate", str(run), "--through", str(tmp_path), "--json", str(tmp_path / "r")]) == 2


def test_support_that_is_too_short_for_the_clients(run, tmp_path, capsys):
    out = tmp_path / "short"
    assert main(["export", str(run), "--out", str(out), "--support-max", "2"]) == 0
    assert main(["evaluate", str(run), "--through", str(out), "--json", str(tmp_path / "r.json")]) == 2
    assert "support examples, as the longest client has" in capsys.readouterr().err
