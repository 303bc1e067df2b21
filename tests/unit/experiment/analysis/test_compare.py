import csv
import json
import math

import numpy as np
import pytest
from rich.console import Console
from scipy import stats
from tests.folders import COHORT, write_run

from fedrecon.errors import RunError
from fedrecon.experiment.analysis.comparability import warnings
from fedrecon.experiment.analysis.compare import compare_runs, comparison, plot_runs, report_runs
from fedrecon.experiment.analysis.comparison import cost
from fedrecon.experiment.analysis.runs import Run, methods
from fedrecon.experiment.analysis.targets import Target
from fedrecon.experiment.settings.sections import SettingError
from fedrecon.experiment.storage.digests import read_json, seal

# The folders here are written by hand, as an earlier version wrote them: without digests.
pytestmark = pytest.mark.filterwarnings("ignore::fedrecon.errors.UncheckedWarning")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two methods of three seeds, the second better by 0.1."""
    home = tmp_path_factory.mktemp("runs")
    for name, level in (("old", 0.9), ("new", 0.8)):
        for seed in range(3):
            write_run(home / name / f"seed-{seed}", name, level + 0.001 * seed, seed)
    return home


def of(table, **cells):
    """The one row with these cells, by column."""
    names = [column.name for column in table.columns]
    rows = [dict(zip(names, row, strict=True)) for row in table.rows]
    (row,) = [row for row in rows if all(row[name.replace("_", " ")] == cell for name, cell in cells.items())]
    return row


def results(folder, name):
    return [json.loads((folder / name / f"seed-{i}" / "result.json").read_text()) for i in range(3)]


def test_quality_is_mean_and_deviation_over_seeds(folders):
    (quality, _, _), said = comparison(methods([folders / "old", folders / "new"]))
    assert said == []
    assert [row[3] for row in quality.rows[:2]] == ["old", "new"]  # beside each other
    assert quality.rows[0][:3] == ("test", "recon_eval", "RMSE")
    found = [r["test"]["recon_eval"] for r in results(folders, "new")]
    row = of(quality, clients="test", metric="RMSE", method="new")
    for column, values in (
        ("over examples", [x["examples"]["rmse"] for x in found]),
        ("over clients", [x["clients"]["rmse"] for x in found]),
        ("worst decile", [x["distribution"]["rmse"]["p90"] for x in found]),
    ):
        assert row[column] == (pytest.approx(np.mean(values)), pytest.approx(np.std(values, ddof=1)), 3)
    accurate = of(quality, clients="test", metric="accuracy", method="new")
    assert accurate["worst decile"].mean == pytest.approx(
        np.mean([x["distribution"]["accuracy"]["p10"] for x in found])
    )


def test_differences_are_paired_over_seeds_and_over_clients(folders):
    compared = methods([folders / "old", folders / "new"])
    (_, _, differences), _ = comparison(compared)
    values = {
        name: [r["test"]["recon_eval"]["examples"]["rmse"] for r in results(folders, name)]
        for name in ("old", "new")
    }
    row = of(differences, clients="test", metric="RMSE", paired_over="seeds")
    assert row["method"] == "new"
    assert row["difference"] == pytest.approx(np.mean(values["new"]) - np.mean(values["old"]))
    assert row["p"] == pytest.approx(stats.ttest_rel(values["new"], values["old"]).pvalue)
    assert differences.title == "Differences from old"

    tables = [[m.runs[i].clients("test", "recon_eval")["rmse"] for i in range(3)] for m in compared]
    # The same thirty clients are in every seed: each is one pair.
    changes = np.mean([b - a for a, b in zip(*tables, strict=True)], axis=0)
    row = of(differences, clients="test", metric="RMSE", paired_over="clients")
    assert (row["pairs"], row["difference"]) == (30, pytest.approx(changes.mean()))
    assert row["standard error"] == pytest.approx(stats.sem(changes))
    assert row["95 % from"] < row["difference"] < row["to"] < 0
    assert row["share that gains"] == np.mean(changes < 0)
    accurate = of(differences, clients="test", metric="accuracy", paired_over="seeds")
    assert accurate["share that gains"] == float(accurate["difference"] > 0)


def test_what_it_cost_and_took_to_get_there(folders):
    compared = methods([folders / "old", folders / "new"])
    # The validation RMSE is level + 1/5 after round 5, and level + 1/10 after round 10.
    targets = [Target.parse("rmse=1.0015"), Target.parse("accuracy=0.2")]
    table = cost(compared, targets)
    old, new = of(table, method="old"), of(table, method="new")
    assert old["rounds to RMSE 1.0015"] == "2 of 3 seeds"
    assert new["rounds to RMSE 1.0015"].mean == pytest.approx((5 + 5 + 10) / 3)
    assert new["clients to RMSE 1.0015"].mean == pytest.approx(COHORT * (5 + 5 + 10) / 3)
    assert new["rounds to accuracy 0.2"].mean == 5
    assert of(table, method="old")["seconds"] == (6.0, 1.0, 3)
    assert (old["down"].mean, old["down, dense"].mean, old["clients per round"].mean) == (2e3, 2e4, COHORT)
    assert (old["gradient steps"].mean, old["example passes"].mean) == (40, 200)
    assert not {"solves", "raw data"} & {column.name for column in table.columns}  # nobody has any
    single = cost(methods([folders / "old" / "seed-0"]), [Target.parse("rmse=0.1")])
    assert of(single, method="old")["rounds to RMSE 0.1"] == "not reached"


def test_what_was_not_measured_is_not_told_as_not_reached(tmp_path):
    """The second run watched seen users alone."""
    paths = [write_run(tmp_path / name, name, 0.9) for name in ("unseen", "seen")]
    metrics = paths[1] / "metrics.csv"
    metrics.write_text(metrics.read_text().replace(",validation,recon_eval,", ",validation,standard_eval,"))
    table = cost(methods(paths), [Target.parse("rmse=1.2")])
    assert of(table, method="unseen")["rounds to RMSE 1.2"].mean == 5
    assert of(table, method="seen")["rounds to RMSE 1.2"] == "not measured"
    alone = cost(methods(paths[1:]), [Target.parse("rmse=1.2")])
    assert of(alone, method="seen")["clients to RMSE 1.2, seen validation"].mean == 5 * COHORT


def test_a_diverged_seed_is_told_where_it_makes_no_pair(tmp_path):
    for seed in range(3):
        write_run(tmp_path / "one" / f"seed-{seed}", "one", 0.9, seed)
        path = write_run(tmp_path / "two" / f"seed-{seed}", "two", 0.8, seed) / "result.json"
    result = read_json(path)
    result["test"]["recon_eval"]["examples"]["rmse"] = None
    path.write_text(json.dumps(seal(result)))
    (_, _, differences), said = comparison(methods([tmp_path / "one", tmp_path / "two"]))
    assert of(differences, clients="test", metric="RMSE", paired_over="seeds")["pairs"] == 2
    (sentence,) = said
    assert str(path.parent) in sentence and "no number for rmse of the test clients" in sentence


def test_data_that_left_the_clients_and_work_that_nobody_counted(tmp_path):
    """The second run is of before either was recorded."""
    for name, values in (("pooled", {"raw_data_bytes": 8 * 10**6}), ("early", None)):
        write_run(tmp_path / name, name, 0.9, 0)
        path = tmp_path / name / "result.json"
        result = read_json(path)
        if values is None:
            del result["work_per_client_and_round"], result["raw_data_bytes"]
        path.write_text(json.dumps(seal(result | (values or {}))))
    table = cost(methods([tmp_path / "pooled", tmp_path / "early"]))
    assert of(table, method="pooled")["raw data"] == 8 * 10**6
    early = of(table, method="early")
    assert (early["raw data"], early["gradient steps"]) == (None, None)
    assert table.text()[1][-1] == "8.0 MB"


@pytest.mark.parametrize("text", ["rmse", "=1", "rmse=low", "rmse=nan"])
def test_a_target_is_a_metric_and_a_number(text):
    with pytest.raises(SettingError, match=r"--target takes METRIC=VALUE, for instance rmse=0\.93, got"):
        Target.parse(text)


def test_a_target_that_no_run_can_tell(folders):
    with pytest.raises(SettingError, match="not known whether more zeal is better"):
        Target.parse("zeal=1")
    with pytest.raises(
        SettingError, match="no run recorded perplexity while training, only accuracy, mse, rmse"
    ):
        cost(methods([folders / "old"]), [Target.parse("perplexity=3")])


def test_runs_of_other_seeds_are_one_method(folders, tmp_path):
    paths = [folders / "old" / f"seed-{i}" for i in (2, 0, 1)]
    (method,) = methods(paths)
    assert (method.label, method.seeds) == ("old", (0, 1, 2))
    again = methods([paths[0], paths[0]])  # the same seed twice is no other seed
    assert len(again) == 2
    other = write_run(tmp_path / "old", "old", seed=5, training={"rounds": 3})
    labels = [m.label for m in methods([paths[0], other])]
    assert labels == ["seed-2", "old"]


def test_other_data_are_said_and_not_paired(folders, tmp_path):
    write_run(tmp_path / "other", "other", data="e")
    compared = methods([folders / "old", tmp_path / "other"])
    made, said = comparison(compared)
    assert [table.name for table in made] == ["quality", "cost"]
    assert "old and other share the seeds 0 only: these are paired." in said
    assert "old and other, test clients: other clients or examples; they are not paired." in said
    assert "old and other were trained on different clients or examples." in said

    write_run(tmp_path / "split", "split", split="Thirds()")
    (text,) = [x for x in warnings(methods([folders / "old", tmp_path / "split"])) if "test clients" in x]
    assert "other support and query sets (Halves() against Thirds())" in text

    write_run(tmp_path / "unseeded", "unseeded", seed=9, data="e")
    said = warnings(methods([folders / "old", tmp_path / "unseeded"]))
    assert "old and unseeded share no seed: nothing is paired." in said
    assert "old and unseeded are of other data: data.kind is 'd' and 'e'." in said


def test_clients_with_other_examples_are_not_paired(folders, tmp_path):
    write_run(tmp_path / "few", "few", clients=29)
    (_, _, differences), _ = comparison(methods([folders / "old", tmp_path / "few"]))
    assert {row[4] for row in differences.rows} == {"seeds"}


def test_unfinished_runs_are_told(tmp_path):
    write_run(tmp_path / "half", "half", finished=False)
    assert warnings(methods([tmp_path / "half"])) == [
        f"{tmp_path / 'half'} is not finished: its numbers are of round 10."
    ]
    (tmp_path / "half" / "result.json").unlink()
    with pytest.raises(RunError, match=r"must have a result\.json to be compared, this has none yet"):
        comparison(methods([tmp_path / "half"]))
    with pytest.raises(RunError, match=r"must have a config\.toml, this has none"):
        methods([tmp_path / "nothing"])
    (tmp_path / "half" / "result.json").write_text("{")
    with pytest.raises(RunError, match=r"result\.json: no JSON"):
        comparison(methods([tmp_path / "half"]))


def test_every_protocol_has_its_rows(tmp_path):
    for name, level in (("a", 0.9), ("b", 0.8)):
        write_run(tmp_path / name, name, level, protocols=("recon_eval", "standard_eval"))
    (quality, _, differences), _ = comparison(methods([tmp_path / "a", tmp_path / "b"]))
    seen = of(quality, clients="test", protocol="standard_eval", metric="RMSE", method="a")
    unseen = of(quality, clients="test", protocol="recon_eval", metric="RMSE", method="a")
    assert seen["over examples"].mean > unseen["over examples"].mean + 0.05
    assert math.isnan(seen["over examples"].deviation)
    for protocol in ("standard_eval", "recon_eval"):
        row = of(differences, clients="test", protocol=protocol, metric="RMSE", paired_over="clients")
        assert row["difference"] == pytest.approx(-0.1, abs=0.01)


def test_a_comparison_is_printed_and_written(folders, tmp_path):
    screen = Console(record=True, width=200, file=open(tmp_path / "screen", "w"))  # noqa: SIM115
    compare_runs([folders / "old", folders / "new"], tmp_path / "out", screen, [Target.parse("rmse=1")])
    screen.file.close()
    shown = screen.export_text()
    page = (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")
    for text in ("0.8", "±", "worst decile", "rounds to RMSE 1", "Differences from old"):
        assert text in shown
        assert text in page
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == sorted(
        ["comparison.md", "plots"]
        + [f"{t}.{s}" for t in ("quality", "cost", "differences") for s in ("csv", "tex")]
    )
    with open(tmp_path / "out" / "quality.csv", encoding="utf-8") as file:
        row = next(csv.DictReader(file))
    values = [r["test"]["recon_eval"]["examples"]["rmse"] for r in results(folders, "old")]
    assert float(row["over examples"]) == pytest.approx(np.mean(values))


def test_seeds_of_a_method_share_a_colour(folders, tmp_path):
    plot_runs([folders / "old", folders / "new"], tmp_path / "plots")
    drawn = (tmp_path / "plots" / "progress.svg").read_text()
    assert drawn.count(">old<") == drawn.count(">new<") == 1


LEDGER = {
    "delta": 1e-5,
    "unit": "client",
    "relation": "add_or_remove",
    "observer": "model",
    "mechanism": "gaussian",
    "accountant": "gaussian",
    "noise_multiplier": 2.0,
    "sensitivity": 1.0,
    "clip": 1.0,
    "sampling": "Everyone()",
    "releases": 10,
    "public_inputs": {},
    "not_covered": [],
}


def make_private(path, epsilon):
    """Writes a ledger into a result, and epsilon by round into the metrics."""
    result = read_json(path / "result.json")
    ledger = {**LEDGER, "epsilon": epsilon, "of_a_later_version": 1}
    (path / "result.json").write_text(json.dumps(seal({**result, "privacy": ledger})))
    with open(path / "metrics.csv", "a") as file:
        for round in (5, 10):
            file.write(f"{round},train,training,total,epsilon,{round / 5!r}\n")


def test_epsilon_stands_beside_what_it_cost(tmp_path):
    plain, *private = (write_run(tmp_path / name, name, 0.9) for name in ("plain", "private", "unbounded"))
    make_private(private[0], 3.98765)
    make_private(private[1], None)  # JSON has no infinity
    table = cost(methods([plain, *private]))
    assert of(table, method="plain")["epsilon"] is None
    assert (of(table, method="private")["epsilon"], of(table, method="private")["delta"]) == (3.98765, 1e-5)
    text = {row[0]: dict(zip(table.text()[0], row, strict=True)) for row in table.text()[1:]}
    assert [text[name]["epsilon"] for name in ("plain", "private", "unbounded")] == ["", "3.988", "inf"]
    assert "Epsilon, delta: of what one run has released so far" in table.note
    assert "epsilon" not in {column.name for column in cost(methods([plain])).columns}
    report = report_runs([plain, private[0]], tmp_path / "report.html").read_text()
    assert "epsilon 3.988 at delta 1e-05 for adding or removing one client" in report
    assert "epsilon of the releases so far" in report


def test_a_run_that_went_on_after_its_result_shows_the_epsilon_of_its_records(tmp_path):
    """Its result is of the interruption, and a kill ended the run before it had another."""
    path = write_run(tmp_path / "private", "private", 0.9)
    make_private(path, 1.0)
    result = read_json(path / "result.json")
    for rounds, epsilon, releases in ((5, 2.0, 15), (10, 1.0, 10)):
        stale = {**result, "finished": False, "rounds": rounds}
        (path / "result.json").write_text(json.dumps(seal(stale)))
        ledger = Run(path).privacy
        assert (ledger.epsilon, ledger.releases) == (epsilon, releases)


def test_seeds_of_one_method_have_one_epsilon_the_largest(tmp_path):
    paths = [write_run(tmp_path / f"private-{seed}", "private", 0.9, seed) for seed in range(2)]
    for path, epsilon in zip(paths, (2.0, 3.0), strict=True):
        make_private(path, epsilon)
    assert of(cost(methods(paths)), method="private")["epsilon"] == 3.0


def test_a_single_seed_is_no_mean(folders):
    one = comparison(methods([folders / "old" / "seed-0"]))[0][0]
    several = comparison(methods([folders / "old"]))[0][0]
    assert "over the seeds" not in one.note and "Mean ± standard deviation over the seeds" in several.note


@pytest.mark.parametrize(
    ("first", "second", "names"),
    [
        (("a-seed0", "a-seed1"), ("b-seed0", "b-seed1"), ["a", "b"]),
        (("paper-0", "paper-1", "paper-2"), ("newton2-10", "newton2-11"), ["paper", "newton2"]),
        (("a/0", "a/1"), ("b/0", "b/1"), ["a", "b"]),
        (("a/x", "a/y"), ("b/x",), ["a", "x"]),
        (("0/a", "1/a"), ("b/0", "b/1"), [None, "b"]),
    ],
)
def test_a_group_is_named_by_what_its_seeds_share(tmp_path, first, second, names):
    """All runs have one name, so that only their folders tell the methods apart."""
    paths = []
    for group, number in ((first, 1), (second, 2)):
        for seed, name in enumerate(group):
            paths.append(write_run(tmp_path / name, "experiment", 0.9, seed, model={"factors": number}))
    expected = [name or tmp_path.name for name in names]
    assert [method.label for method in methods(paths)] == expected


def test_a_comparison_loads_neither_jax_nor_pandas(folders, run_python):
    shown = run_python(
        f"""
import sys, warnings
warnings.simplefilter("ignore")
from fedrecon.experiment.cli.main import main
for command in ("report", "compare"):
    out = {str(folders / "out-of-")!r} + command
    assert main([command, "--out", out, {str(folders / "old")!r}, {str(folders / "new")!r}]) == 0
print(sorted({{"jax", "pandas", "optax", "orbax"}} & set(sys.modules)))
"""
    )
    assert shown.splitlines()[-1] == "[]"
