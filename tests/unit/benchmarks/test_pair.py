"""Two checkouts are run in turn, each on its own code, and their ratios are those of the pairs."""

import json
from pathlib import Path

import pytest
from benchmarks import command, pair, pair_work
from benchmarks.options import Options
from benchmarks.pair_checkout import HERE, Checkout, NotACheckoutError
from benchmarks.pair_work import CPU, MEMORY, WALL, Measure, Work

FLAGS = ["--rounds=2", "--clients=60", "--items=120", "--clients-per-round=8"]
MAIN = """
import json, os, sys
from pathlib import Path
from fedrecon import NUMBER

log, side = Path(LOG), SIDE
with log.open("a") as file:
    print(side, os.environ["XDG_CACHE_HOME"], os.environ.get("JAX_COMPILATION_CACHE_DIR"), file=file)
if FAILS:
    print("on the way")
    sys.exit("no such benchmark")
count = sum(line.split()[0] == side for line in log.read_text().splitlines())
rows = [("a round", NUMBER * count, "ms"), ("a round", 7.0, "ms"), ("over the kernel", 3.0, "x")]
rows += [("only " + side, 1.0, "s"), ("not installed", None, "s")]
rows = [dict(zip(("what", "value", "unit"), row), benchmark=sys.argv[1], note="") for row in rows]
Path(sys.argv[sys.argv.index("--json") + 1]).write_text(json.dumps({"rows": rows}))
"""


def checkout(tmp_path: Path, side: str, number: int, fails: bool = False) -> Path:
    """A checkout whose benchmarks report `number` milliseconds, twice as many when run again, and so on."""
    root = tmp_path / f"checkout {side}"
    for package in ("src/fedrecon", "benchmarks"):
        (root / package).mkdir(parents=True)
    (root / "src/fedrecon/__init__.py").write_text(f"NUMBER = {number}\n")
    (root / "benchmarks/__init__.py").touch()
    given = f"LOG, SIDE, FAILS = {str(tmp_path / 'log')!r}, {side!r}, {fails}\n"
    (root / "benchmarks/__main__.py").write_text(given + MAIN)
    return root


def test_sides_alternate_and_their_ratios_are_those_of_the_pairs(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "shared"))
    here, there = checkout(tmp_path, "here", 3), checkout(tmp_path, "there", 2)
    out = tmp_path / "results.json"
    arguments = ["--against", str(there), "round", "--pairs", "3", "--json", str(out)]
    assert pair.main(arguments, pair_work.works(["round"]), here) == 0

    runs = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    # One run each to warm up, then pairs of which every other one is reversed.
    assert [side for side, _, _ in runs] == [
        "here",
        "there",
        "here",
        "there",
        "there",
        "here",
        "here",
        "there",
    ]
    caches = {side: {cache for name, cache, _ in runs if name == side} for side in ("here", "there")}
    assert all(len(folders) == 1 for folders in caches.values()) and caches["here"] != caches["there"]
    assert {compiled for _, _, compiled in runs} == {"None"}

    report = json.loads(out.read_text())
    assert report["options"]["pairs"] == 3 and report["failures"] == {}
    assert report["here"]["folder"] == str(here) and report["there"]["folder"] == str(there)
    rows = report["rows"]
    assert [row["what"] for row in rows] == [WALL.what, CPU.what, MEMORY.what, "a round", "a round"]
    assert all(row["benchmark"] == "round" and row["here"] > 0 and row["there"] > 0 for row in rows)
    assert rows[3]["pairs"] == [[6, 4], [9, 6], [12, 8]]  # the first of each was not counted
    assert (rows[3]["here"], rows[3]["there"], rows[3]["ratio"]) == (9, 6, 1.5)
    assert rows[4]["pairs"] == [[7, 7]] * 3
    shown = capsys.readouterr().out
    assert "1.500x" in shown and "1.500 to 1.500" in shown and "over the kernel" not in shown


def test_ratio_is_the_median_of_the_ratios_and_not_the_ratio_of_the_medians():
    measure = Measure("wall", "s")
    here, there = ([{measure: value} for value in values] for values in ((1.0, 4.0, 9.0), (2.0, 1.0, 3.0)))
    (line,) = pair.ratios("run", here, there)
    assert (line.here, line.there, line.ratio, line.least, line.most) == (4.0, 2.0, 3.0, 0.5, 4.0)


def test_one_that_fails_says_where_and_leaves_the_others_results(tmp_path, capsys):
    """Its name runs nothing in the other checkout, as that of a benchmark which an older commit lacks."""
    here, there = checkout(tmp_path, "here", 3), checkout(tmp_path, "there", 2, fails=True)
    works = pair_work.works(["round"])
    works["nothing"] = Work("nothing", lambda *_: None, lambda *_: {WALL: 2.0})
    out = tmp_path / "results.json"
    arguments = ["round", "nothing", "--against", str(there), "--pairs", "1", "--json", str(out)]
    assert pair.main(arguments, works, here) == 1
    report = json.loads(out.read_text())
    assert report["failures"]["round"].startswith(f"RuntimeError: in {there}: python -m benchmarks round")
    assert report["failures"]["round"].endswith("ended with 1: on the way\n\nno such benchmark")
    assert [(row["benchmark"], row["ratio"]) for row in report["rows"]] == [("nothing", 1.0)]
    assert "failed" in capsys.readouterr().out


def test_usage_is_that_of_the_process_and_its_children(tmp_path):
    side = Checkout(checkout(tmp_path, "here", 1), tmp_path / "scratch")
    size, seconds = 200_000_000, 0.3
    child = f"import time\nx = b'x' * {size}\nwhile time.process_time() < {seconds}: pass"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}]); print('done')"
    usage = side.run(["-c", code])
    assert usage.cpu >= seconds and usage.memory >= size / 1e6 and usage.wall > 0
    assert usage.printed == "done\n"


def test_flags_of_sizes_are_handed_on_only_where_they_were_given():
    assert pair_work._sizes(Options()) == []
    assert pair_work._sizes(Options(clients=7)) == ["--clients=7"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["rounds", "--against", "."],
            "NAME must be one of run, run_newton, run_ranking, sweep, ",
        ),
        (["round", "--against", ".", "--pairs", "0"], "--pairs: must be at least 1, got 0"),
        (["round"], "required: --against"),
        (["round", "--against", ".", "--json", "nowhere/a.json"], "--json: there is no folder"),
    ],
)
def test_what_is_wrong_is_refused_at_the_door(arguments, says, capsys):
    with pytest.raises(SystemExit):
        command.main(["pair", *arguments])
    assert says in capsys.readouterr().err


def test_a_folder_that_is_no_checkout_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        command.main(["pair", "round", "--against", str(tmp_path)])
    error = capsys.readouterr().err
    assert "--against: WORKTREE must be a checkout of this repository with src/fedrecon" in error
    assert f"got {str(tmp_path)!r}, which has no src/fedrecon/__init__.py" in error


def test_packages_that_python_would_import_from_elsewhere_are_refused(tmp_path):
    root = checkout(tmp_path, "here", 1)
    elsewhere = tmp_path / "elsewhere"
    (root / "benchmarks").rename(elsewhere)
    (root / "benchmarks").symlink_to(elsewhere)
    with pytest.raises(NotACheckoutError, match=r"imports .*benchmarks.__init__.py in place of its files"):
        Checkout(root, tmp_path / "scratch")


@pytest.mark.slow
def test_a_benchmark_of_this_checkout_runs_in_a_pair(tmp_path):
    """The command line, the file of rows and the names in it are what a pair expects of every commit."""
    out = tmp_path / "results.json"
    arguments = ["pair", "cohort", "--against", str(HERE), "--pairs", "1", "--json", str(out), *FLAGS]
    assert command.main(arguments) == 0
    report = json.loads(out.read_text())
    assert report["environment"]["devices"] and report["options"]["clients_per_round"] == 8
    assert {"process: CPU time", "per client"} <= {row["what"] for row in report["rows"]}
    assert all(row["ratio"] > 0 for row in report["rows"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "names", [["run"], ["run_newton"], ["run_ranking"], ["sweep"], ["personalize", "recommend"]]
)
def test_a_command_runs_in_a_pair(names, tmp_path):
    out = tmp_path / "results.json"
    arguments = ["pair", *names, "--against", str(HERE), "--pairs", "1", "--json", str(out), *FLAGS]
    assert command.main(arguments) == 0
    rows = json.loads(out.read_text())["rows"]
    reported = {"to the first round's end", "tracing and compiling", "after the first round"}
    for name in names:
        measures = {row["what"] for row in rows if row["benchmark"] == name}
        if name.startswith("run"):
            assert reported <= measures
        elif name != "sweep":  # whose cost is the process's
            assert "after the start" in measures
