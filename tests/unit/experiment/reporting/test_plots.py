import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from fedrecon.errors import RunError
from fedrecon.experiment.analysis.compare import plot_runs
from fedrecon.experiment.reporting import plots
from fedrecon.experiment.reporting.figure_data import Curves
from fedrecon.experiment.storage.metrics_log import RECON_EVAL, TRAINING, Records, Row


def curves(label="one", rounds=(10, 20, 30), floor=0.9, metrics=("rmse", "accuracy")):
    records = Records()
    for round in range(1, max(rounds) + 1):
        records.append([Row(round, "train", TRAINING, "total", "bytes_down", 2e6)])
        records.append([Row(round, "train", TRAINING, "total", "bytes_up", 1e6)])
    for round in rounds:
        for metric in metrics:
            records.append([Row(round, "validation", RECON_EVAL, "examples", metric, floor + 1 / round)])
        records.append([Row(round, "train", TRAINING, "total", "seconds", round / 2)])
    draws = np.random.default_rng(0).normal(floor, 0.1, 60)
    return Curves(label, records, {"test": dict.fromkeys(metrics, draws)})


def lines(figure):
    """What is drawn: for each axis, the points of each line."""
    return [[np.asarray(line.get_xydata()).tolist() for line in axis.get_lines()] for axis in figure.axes]


def test_progress_is_drawn_by_rounds_bytes_and_seconds():
    figure = plots.progress([curves()])
    by_round, by_bytes, by_seconds = lines(figure)[:3]
    values = [0.9 + 1 / r for r in (10, 20, 30)]
    assert by_round == [[[r, v] for r, v in zip((10, 20, 30), values, strict=True)]]
    assert by_bytes == [[[r, pytest.approx(v)] for r, v in zip((30, 60, 90), values, strict=True)]]
    assert by_seconds == [[[r, v] for r, v in zip((5, 10, 15), values, strict=True)]]
    labels = [axis.get_xlabel() for axis in figure.axes[3:]]
    assert labels == ["rounds", "MB sent by and to clients", "seconds"]
    assert [axis.get_ylabel() for axis in figure.axes[::3]] == [
        "RMSE, validation clients",
        "accuracy, validation clients",
    ]
    assert figure.get_suptitle() == "one"


def test_several_runs_share_the_axes_and_have_a_legend():
    figure = plots.progress([curves("one"), curves("two", (15, 30), 0.8)])
    assert [len(axis) for axis in lines(figure)] == [2] * 6
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["one", "two"]
    assert len({line.get_color() for line in figure.axes[0].get_lines()}) == 2


def test_runs_that_measure_other_things_are_drawn_as_far_as_they_go():
    runs = [curves("ratings", metrics=("rmse",)), curves("ranks", metrics=("hr@10", "ndcg@10"))]
    (rmse,) = plots.clients(runs).axes
    assert [len(axis) for axis in lines(plots.clients(runs))] == [1]  # the median of the one that has it
    assert rmse.get_xlabel().startswith("RMSE of a client")
    assert [len(axis) for axis in lines(plots.clients(runs[::-1]))] == [1]
    assert plots.progress(runs) is not None


def test_the_distribution_over_clients():
    figure = plots.clients([curves()])
    rmse, accuracy = figure.axes
    counts = rmse.patches[0].get_path().vertices[:, 1]
    assert counts.max() <= 60
    assert rmse.get_xlabel().startswith("RMSE of a client")
    assert accuracy.get_ylabel() == "test clients"
    median = rmse.get_lines()[0].get_xdata()[0]
    assert median == pytest.approx(np.median(curves().clients["test"]["rmse"]))


def test_clients_that_are_all_alike_or_have_no_number_are_drawn(tmp_path):
    same = curves()._replace(
        clients={"test": {"rmse": np.array([0.5, 0.5, np.nan]), "accuracy": np.full(3, np.nan)}}
    )
    assert len(plots.write(tmp_path / "plots", [same])) == 4


def test_nothing_is_drawn_of_nothing(tmp_path):
    assert plots.write(tmp_path / "plots", [Curves("none", Records(), {})]) == []


def test_figures_are_written_as_png_and_svg(tmp_path):
    names = plots.write(tmp_path / "plots", [curves()])
    assert sorted(map(str, names)) == [
        f"plots/{n}.{s}" for n in ("clients", "progress") for s in ("png", "svg")
    ]
    for name in names:
        content = (tmp_path / name).read_bytes()
        if name.suffix == ".png":
            assert content.startswith(b"\x89PNG")
        else:
            assert ElementTree.fromstring(content).tag.endswith("svg")
            assert b"RMSE" in content
    before = {name: (tmp_path / name).read_bytes() for name in names}
    plots.write(tmp_path / "plots", [curves()])
    assert {name: (tmp_path / name).read_bytes() for name in names} == before


def test_a_folder_that_is_no_run_cannot_be_drawn(tmp_path):
    with pytest.raises(RunError, match=r"must have a metrics\.csv, this has none"):
        plot_runs([tmp_path])
    (tmp_path / "metrics.csv").write_text("round,split,protocol,weighting,metric,value\n")
    with pytest.raises(RunError, match="must have reached an evaluation"):
        plot_runs([tmp_path])


def test_runs_are_told_apart_by_name_or_folder(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.toml").write_text('name = "same"\n')
        records = Records(tmp_path / folder / "metrics.csv")
        records.restart(0)
        records.append(curves().records)
        records.commit()
    out = tmp_path / "figures"
    paths = plot_runs([tmp_path / "a", tmp_path / "b"], out)
    assert [p.name for p in paths] == ["progress.png", "progress.svg"]
    drawn = (out / "progress.svg").read_text()
    assert ">a<" in drawn
    assert ">b<" in drawn
    (single, _) = plot_runs([tmp_path / "a"])
    assert single == tmp_path / "a" / "plots" / "progress.png"


def test_the_backend_of_a_notebook_stays(tmp_path):
    program = f"""
import matplotlib
matplotlib.use("svg")
from pathlib import Path
from fedrecon.experiment.reporting import plots
from fedrecon.experiment.storage.metrics_log import RECON_EVAL, TRAINING, Records, Row
records = Records()
names = ("bytes_up", "bytes_down", "seconds")
records.append([Row(5, "train", TRAINING, "total", name, 1.0) for name in names])
records.append([Row(5, "validation", RECON_EVAL, "examples", "rmse", 1.0)])
assert plots.write(Path({str(tmp_path)!r}) / "plots", [plots.Curves("a", records, {{}})])
assert matplotlib.get_backend() == "svg", matplotlib.get_backend()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
