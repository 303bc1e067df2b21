"""The command line as its user meets it."""

import csv
import errno
import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from contextlib import redirect_stderr, redirect_stdout
from typing import NamedTuple

import jax
import matplotlib.font_manager  # which looks for the fonts
import pyarrow.parquet
import pytest
from jax.experimental.compilation_cache import compilation_cache

from fedrecon.datasets.ratings._synthetic import synthetic
from fedrecon.experiment.cli import settings_listing
from fedrecon.experiment.cli.main import main
from fedrecon.experiment.serving import personalize as personalizing
from fedrecon.experiment.training.evaluator import Evaluator

SMALL = """
name = "small"
task = "synthetic_ratings"
[data]
clients = 60
items = 40
cap = 40
fractions = { train = 0.6, validation = 0.2, test = 0.2 }
[model]
factors = 4
[algorithm.reconstruct]
optimizer = { name = "sgd", learning_rate = 0.1 }
[training]
rounds = 6
clients_per_round = 10
checkpoint_every = 2
[evaluation]
every = 3
"""


class Done(NamedTuple):
    """What a command left: its exit status, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    (folder / "small.toml").write_text(SMALL)
    return folder


@pytest.fixture(scope="module")
def process(home, repository):
    """`process("run", …)` starts the command in a process of its own, as its user does."""

    def start(*arguments, program=("-m", "fedrecon")):
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": str(repository / "src"),
            "XDG_CACHE_HOME": str(home / "cache"),
            # Fonts are looked for once and not by each: that may take long enough for a warning.
            "MPLCONFIGDIR": matplotlib.get_cachedir(),
            "COLUMNS": "100",
        }
        command = [sys.executable, *program, *map(str, arguments)]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment, cwd=home)

    return start


@pytest.fixture(scope="module")
def fedrecon(home):
    """`fedrecon("run", …)`: the same in this process, which has loaded everything already."""
    names = ("min_compile_time_secs", "min_entry_size_bytes")
    options = ("jax_compilation_cache_dir", *(f"jax_persistent_cache_{name}" for name in names))
    before = {name: getattr(jax.config, name) for name in options}

    def call(*arguments, check=True):
        out, errors = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(errors):
            patch.chdir(home)
            patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
            patch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
            patch.setenv("COLUMNS", "100")
            done = Done(main([*map(str, arguments)]), out.getvalue(), errors.getvalue())
        if check:
            assert done.stderr == ""
            assert done.returncode == 0
        return Done(done.returncode, out.getvalue(), errors.getvalue())

    yield call
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def run(process, home):
    """A finished run and what it printed."""
    started = process("run", "small.toml", "--out", "first")
    shown, errors = started.communicate(timeout=300)
    assert started.returncode == 0, errors
    assert errors == ""
    return home / "first", shown


def ratings(path, users=30, items=40, first=1):
    """A rating file in the form of MovieLens 1M."""
    pairs = [(user, item) for user in range(first, first + users) for item in range(1, items + 1)]
    lines = [
        f"{user}::{item * 10}::{1 + (user + item) % 5}::{978300000 + item}"
        for user, item in pairs
        if (user * 7 + item * 3) % 5 < 3
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_main_job_shows_its_result_and_where_it_is(run):
    folder, shown = run
    assert "train 36 clients  validation 12 clients  test 12 clients" in shown
    assert re.search(r"round 3/6  loss \d+\.\d{4}  validation rmse \d\.\d{4} accuracy 0\.\d{4}", shown)
    assert re.search(r"test \(12 clients\) +examples +\d\.\d{4} +0\.\d{4}", shown)
    assert re.search(r"Noise in the ratings: 0\.\d{4}", shown)
    assert re.search(r"Ridge under the true items: 0\.\d{4}", shown)
    assert "Plot:    first/plots/progress.png" in shown
    assert (folder / "plots" / "progress.png").exists()


def test_the_result_is_there_for_scripts(run):
    folder, shown = run
    result = json.loads((folder / "result.json").read_text())
    for split in ("validation", "test"):
        for weighting in ("examples", "clients"):
            assert 0 < result[split]["recon_eval"][weighting]["rmse"] < 5
            assert 0 <= result[split]["recon_eval"][weighting]["accuracy"] <= 1
    assert f"{result['test']['recon_eval']['examples']['rmse']:.4f}" in shown
    assert result["rounds"] == 6
    assert result["seconds"]["total"] > result["seconds"]["to_first_round"] > 0
    assert result["compilations"] > 0


def test_the_configuration_is_whole_and_runs_again(run, fedrecon, home):
    folder, _ = run
    config = tomllib.loads((folder / "config.toml").read_text())
    assert config["algorithm"]["update"]["epochs"] == 1
    fedrecon("run", folder / "config.toml", "--out", "again")
    lines = [
        [x for x in (home / name / "metrics.csv").read_text().splitlines() if ",seconds," not in x]
        for name in ("first", "again")
    ]
    assert lines[0] == lines[1]


def test_settings_are_overridden_and_the_folder_has_a_name(fedrecon, home):
    shown = fedrecon("run", "small.toml", "--set", "training.rounds=1", "--seed", 3).stdout
    (folder,) = (home / "runs").iterdir()
    assert re.fullmatch(r"small-\d{8}-\d{6}", folder.name)
    assert f"runs/{folder.name}/plots/progress.png" in shown
    config = tomllib.loads((folder / "config.toml").read_text())
    assert (config["training"]["rounds"], config["seed"]) == (1, 3)


def test_a_finished_run_may_be_resumed(run, fedrecon):
    folder, shown = run
    again = fedrecon("resume", folder).stdout
    assert "this run is finished: all of its 6 rounds are done" in again
    assert (
        re.findall(r"(?:test|validation) .*", shown)[-4:] == re.findall(r"(?:test|validation) .*", again)[-4:]
    )


def test_a_finished_run_says_so_and_may_get_more_rounds(fedrecon, home):
    fedrecon("run", "small.toml", "--out", "longer")
    again = fedrecon("run", "small.toml", "--out", "longer").stdout
    assert "this run is finished: all of its 6 rounds are done; resume with --rounds N" in again
    fewer = fedrecon("resume", "longer", "--rounds", "5", check=False)
    assert fewer.returncode == 2 and "--rounds must be a whole number of at least 6, got 5" in fewer.stderr
    more = fedrecon("resume", "longer", "--rounds", "9").stdout
    assert "going on from the checkpoint of round 6" in more and "round 9/9" in more
    fedrecon("run", "small.toml", "--set", "training.rounds=9", "--out", "at-once")

    def content(folder, name):
        lines = (home / folder / name).read_bytes().splitlines()
        return [line for line in lines if b",seconds," not in line]

    for name in ("config.toml", "metrics.csv", "clients-test.parquet", "clients-validation.parquet"):
        assert content("longer", name) == content("at-once", name)
    shown = fedrecon("compare", "longer", "at-once").stdout
    assert "not finished" not in shown


def test_what_forbids_more_rounds_is_named(fedrecon, home):
    schedule = ["name=cosine_decay", "decay_steps=6"]
    changes = [x for text in schedule for x in ("--set", f"algorithm.server_optimizer.schedule.{text}")]
    fedrecon("run", "small.toml", *changes, "--out", "cosine")
    refused = fedrecon("resume", "cosine", "--rounds", "9", check=False)
    assert refused.returncode == 2
    assert "--rounds must be at most 6, where the schedule algorithm.server_optimizer" in refused.stderr
    assert "rounds = 6" in (home / "cosine" / "config.toml").read_text()
    assert (home / "cosine" / "result.json").exists()


def test_a_run_is_evaluated_again(run, fedrecon):
    folder, _ = run
    before = {path: path.read_bytes() for path in folder.glob("clients-*.parquet")}
    shown = fedrecon("evaluate", folder).stdout
    result = json.loads((folder / "result.json").read_text())
    assert "small: parameters after round 6" in shown
    assert f"{result['test']['recon_eval']['clients']['rmse']:.4f}" in shown
    assert {path: path.read_bytes() for path in folder.glob("clients-*.parquet")} == before
    assert (folder / "evaluated-clients-test.parquet").read_bytes() == before[folder / "clients-test.parquet"]


KILLED = """
import os, signal
from pathlib import Path
from fedrecon.experiment.cli.runs import saved_config
from fedrecon.experiment.serving import parquet_parts as parts, personalize as personalizing
from fedrecon.experiment.serving.wanted import Wanted
from fedrecon.experiment.training.run_experiment import console

written = []

def write(path, content):
    whole(path, content)
    written.append(path)
    if len(written) == 3:
        os.kill(os.getpid(), signal.SIGKILL)

whole, parts.write_atomically = parts.write_atomically, write
arguments = Path("first"), saved_config("first"), "clients.arrow", Path("killed.parquet"), console()
personalizing.PER_PART = 8
personalizing.personalize_run(*arguments, Wanted())
"""


def test_a_killed_inference_goes_on_to_the_same_file(run, fedrecon, process, home, monkeypatch):
    clients, _ = synthetic(50, 40, seed=3)
    clients.write(home / "clients.arrow")
    killed = process("-c", KILLED, program=[])
    killed.communicate(timeout=300)
    assert killed.returncode == -signal.SIGKILL
    assert not (home / "killed.parquet").exists()
    (folder,) = home.glob(".killed*")
    there = len(list(folder.glob("0*.parquet")))
    assert 2 <= there < 7

    monkeypatch.setattr(personalizing, "PER_PART", 8)
    asked = ("personalize", "first", "--data", "clients.arrow", "--out")
    shown = fedrecon(*asked, "killed.parquet").stdout
    assert "small: parameters after round 6; 50 clients" in shown
    assert f"{there} of 7 parts are there already" in shown
    fedrecon(*asked, "whole.parquet")
    assert (home / "killed.parquet").read_bytes() == (home / "whole.parquet").read_bytes()
    table = pyarrow.parquet.read_table(home / "killed.parquet")
    assert table["client"].to_pylist() == list(range(50))
    assert table.schema.field("user/factors").type.list_size == 4
    assert "7 of 7 parts are there already" in fedrecon(*asked, "killed.parquet").stdout
    other = fedrecon(*asked, "killed.parquet", "--top", 3, check=False)
    assert "belongs to another request: it was made without --top and not with --top 3" in other.stderr


KILLED_SHARE = """
import os, signal
from pathlib import Path
from fedrecon.experiment.cli.runs import saved_config
from fedrecon.experiment.serving import parquet_parts as parts, personalize as personalizing
from fedrecon.experiment.serving.wanted import Wanted
from fedrecon.experiment.serving.shares import Share
from fedrecon.experiment.training.run_experiment import console

def write(path, content):
    whole(path, content)
    if path.suffix == ".parquet":
        os.kill(os.getpid(), signal.SIGKILL)

whole, parts.write_atomically = parts.write_atomically, write
arguments = Path("first"), saved_config("first"), "clients.arrow", Path("shared.parquet"), console()
personalizing.PER_PART, personalizing.threads = 5, lambda: 1
personalizing.personalize_run(*arguments, Wanted(), share=Share(1, 2))
"""


def test_shares_fill_one_file_whatever_is_killed(run, fedrecon, process, home, monkeypatch):
    clients, _ = synthetic(50, 40, seed=3)
    clients.write(home / "clients.arrow")
    monkeypatch.setattr(personalizing, "PER_PART", 5)
    asked = ("personalize", "first", "--data", "clients.arrow", "--out")
    fedrecon(*asked, "one.parquet")
    for kills in (1, 2):
        killed = process("-c", KILLED_SHARE, program=[])
        killed.communicate(timeout=300)
        assert killed.returncode == -signal.SIGKILL
        (folder,) = home.glob(".shared*")
        assert len(list(folder.glob("0*.parquet"))) == kills  # what was made is not made again
    shown = fedrecon(*asked, "shared.parquet", "--share", "2/2").stdout
    assert "Share 2/2 is made. Missing: --share 1/2 lacks 3 parts." in shown
    asked = (*asked, "shared.parquet")
    for options, message in (
        (["--join"], "all shares must be made to be joined. Missing: --share 1/2 lacks 3 parts"),
        (["--share", "1/2", "--top", 3], "it was made without --top and not with --top 3"),
        (["--share", "1/2", "--join"], "--share makes parts and --join joins those that are there"),
        (["--share", "3/2"], "--share must be I/N with I from 1 to N, such as 1/4 for the first of four"),
    ):
        refused = fedrecon(*asked, *options, check=False)
        assert refused.returncode in (1, 2) and message in refused.stderr
    shown = fedrecon(*asked, "--share", "1/2").stdout
    assert "2 of 5 parts are there already" in shown and "Clients: shared.parquet" in shown
    assert (home / "shared.parquet").read_bytes() == (home / "one.parquet").read_bytes()
    assert "Clients: shared.parquet" in fedrecon(*asked, "--join").stdout


def test_a_run_is_drawn_along_curves(run, fedrecon, monkeypatch):
    from fedrecon.experiment.analysis import curves

    monkeypatch.setattr(curves, "STEPS", (2, 100))
    monkeypatch.setattr(curves, "SHARES", (0.1, 1.0))
    folder, _ = run
    shown = fedrecon("curves", folder).stdout
    with open(folder / "curves.csv", newline="") as file:
        found = [row for row in csv.DictReader(file) if row["metric"] == "rmse"]
    names = [row["curve"] for row in found]
    # All clients of the run have as many examples, so that they are one group of one size.
    assert names == ["steps"] * 2 + ["support"] * 2 + ["examples"]
    assert float(found[4]["x"]) == 24
    assert sum(int(row["clients"]) for row in found[4:]) == int(found[0]["clients"])
    assert all(0 < float(row["value"]) < 5 for row in found)
    assert f"rmse {float(found[1]['value']):.4f}" in shown
    assert (folder / "plots" / "curves.png").stat().st_size > 10_000
    assert "validation" in fedrecon("curves", folder, "--split", "tests", check=False).stderr


def test_runs_are_drawn_together(run, fedrecon, home):
    folder, _ = run
    fedrecon("run", "small.toml", "--set", "name=other", "--seed", 1, "--out", "other")
    shown = fedrecon("plot", folder, "other").stdout.split()
    assert shown == [f"plots/{n}.{s}" for n in ("progress", "clients") for s in ("png", "svg")]
    assert ">other<" in (home / "plots" / "progress.svg").read_text()

    shown = fedrecon("compare", folder, "other", "--target", "rmse=5").stdout
    assert "Note: small and other share no seed: nothing is paired." in shown
    result = json.loads((home / "other" / "result.json").read_text())["test"]["recon_eval"]
    row = r"test +recon_eval +RMSE +other +1 +12 of 12 +(\S+) +(\S+) +(\S+)"
    values = [result["examples"]["rmse"], result["clients"]["rmse"], result["distribution"]["rmse"]["p90"]]
    assert re.search(row, shown).groups() == tuple(f"{x:.4f}" for x in values)
    assert re.search(r"other +1 +6 .* 3 +30\n", shown)  # rounds and clients to the target
    assert (home / "comparison" / "comparison.md").exists()
    assert fedrecon("report", folder, "other").stdout == "report.html\n"
    assert f"{result['examples']['rmse']:.4f}" in (home / "report.html").read_text(encoding="utf-8")


def test_several_seeds(fedrecon, home):
    shown = fedrecon("run", "small.toml", "--set", "training.rounds=2", "--seeds", 2, "--out", "seeds").stdout
    assert re.search(r"test \(24 clients\) +examples +\d\.\d{4} ± 0\.\d{4}", shown)
    result = json.loads((home / "seeds" / "result.json").read_text())
    values = [
        json.loads((home / "seeds" / f"seed-{i}" / "result.json").read_text())["test"]["recon_eval"][
            "clients"
        ]["rmse"]
        for i in (0, 1)
    ]
    assert result["test"]["recon_eval"]["clients"]["rmse"]["values"] == values
    assert result["seeds"] == [0, 1]
    assert "±" in (home / "seeds" / "summary.md").read_text()


def test_what_clients_keep_is_part_of_a_run(fedrecon, home):
    """Seen clients are evaluated with what they kept, unseen ones without; and so from the run's folder."""
    given = [
        "algorithm.name=fedrep",
        "algorithm.head=['1/user']",
        "data.held_out.test=0.2",
        "evaluation.select=best",
    ]
    shown = fedrecon(
        "run", "small.toml", *(x for g in given for x in ("--set", g)), "--out", "keeping"
    ).stdout
    assert "fedrep" in shown
    files = sorted(home.glob("keeping/clients-*.parquet"))
    assert {"clients-test.parquet", "clients-test-standard_eval.parquet"} <= {p.name for p in files}
    before = [p.read_bytes() for p in files]
    logs = [p.read_bytes() for p in home.glob("keeping/kept/*")]
    assert len(logs[0]) >= 6 * 10 * (16 + 4 * 4)  # six rounds of ten clients, each with its four factors
    fedrecon("evaluate", "keeping")
    assert [p.read_bytes() for p in files] == before
    assert [p.read_bytes() for p in home.glob("keeping/kept/*")] == logs
    for log in home.glob("keeping/kept/*"):
        log.write_bytes(logs[0][:-1])
    failed = fedrecon("evaluate", "keeping", check=False)
    assert failed.returncode == 1
    assert "0.log: what clients keep is cut short" in failed.stderr


def test_rating_files_are_described_trained_on_and_evaluated(fedrecon, home):
    path = ratings(home / "ratings.dat")
    shown = fedrecon("describe", path).stdout
    assert re.search(r"clients +30", shown)
    assert "Examples per client" in shown
    settings = ["task=movielens", "name=films", "training.rounds=2", "training.clients_per_round=5"]
    sets = [part for setting in settings for part in ("--set", setting)]
    fedrecon("run", "small.toml", *sets, "--data", "ratings.dat", "--out", "films")
    config = tomllib.loads((home / "films" / "config.toml").read_text())
    assert config["data"]["path"] == str(path)

    moved = home / "elsewhere.dat"
    path.rename(moved)
    lost = fedrecon("resume", "films", check=False)
    assert lost.returncode == 1
    assert str(path) in lost.stderr
    same = fedrecon("evaluate", "films", "--data", moved).stdout
    assert "test" in same
    assert "all of its 2 rounds are done" in fedrecon("resume", "films", "--data", moved).stdout
    moved.rename(path)

    other = ratings(home / "other.dat", users=7, items=50, first=500)
    shown = fedrecon("evaluate", "films", "--data", other).stdout
    items = [int(line.split("::")[1]) for line in other.read_text().splitlines()]
    left = sum(item > 400 for item in items)
    assert f"other data: 7 clients with {len(items) - left} examples, and the run was trained on 24 " in shown
    assert f"; {left} examples left out, of items unknown to the run" in shown
    asked = ("personalize", "films", "--data", other, "--out", "top.parquet")
    shown = fedrecon(*asked, "--top", 3).stdout
    assert f"{left} examples left out, of items unknown to the run" in shown
    best = pyarrow.parquet.read_table(home / "top.parquet").to_pydict()
    assert best["client"] == list(range(500, 507))
    rated = {tuple(map(int, line.split("::")[:2])) for line in other.read_text().splitlines()}
    assert all(
        len(items) == 3 and set(items) <= set(range(10, 401, 10)) and not {(user, i) for i in items} & rated
        for user, items in zip(best["client"], best["item"], strict=True)
    )
    wrong = fedrecon(*asked, "--top", 41, check=False)
    assert "--top must be at most the 40 items, got 41" in wrong.stderr
    table = pyarrow.parquet.read_table(home / "films" / "evaluated-clients-other.parquet").to_pydict()
    assert len(table["client"]) == 7
    assert all(math.isfinite(x) for x in table["rmse"])


def test_a_sweep_in_processes_is_interrupted_and_goes_on(process, fedrecon, home):
    (home / "space.toml").write_text(
        "model.factors = { low = 2, high = 5 }\nmodel.item_bias = [true, false]\n"
    )
    settings = ["--set", "training.rounds=2", "--set", "evaluation.every=1"]
    arguments = ["sweep", "small.toml", "space.toml", *settings, "--out", "sweep"]
    started = process(*arguments, "--trials", 1000, "--jobs", 2)
    deadline = time.monotonic() + 240
    while not (home / "sweep" / "best.toml").exists():
        assert started.poll() is None, started.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    started.send_signal(signal.SIGINT)
    shown, errors = started.communicate(timeout=300)
    assert started.returncode == 130, errors
    assert "Traceback" not in errors
    kept = int(re.search(r"Interrupted; (\d+) trials are kept, the same command goes on\.", shown)[1])
    assert kept >= 1
    shown = fedrecon(*arguments, "--trials", kept + 1).stdout
    assert f"small: {kept + 1} trials ({kept} there), RMSE on the validation clients, folder sweep" in shown
    best = float(re.search(r"Best: trial \d+, RMSE (\S+)", shown)[1])
    values = re.findall(r"^\| \d+ \| done \| (\S+)", (home / "sweep" / "sweep.md").read_text(), re.MULTILINE)
    assert best == min(map(float, values))
    assert len(values) == kept + 1
    fedrecon("run", "sweep/best.toml", "--out", "best")
    result = json.loads((home / "best" / "result.json").read_text())
    assert f"{result['validation']['recon_eval']['examples']['rmse']:.4f}" == f"{best:.4f}"
    assert "test" in result


def test_ctrl_c_saves_and_resume_goes_on(process, home):
    arguments = ["run", "small.toml", "--set", "training.rounds=100000", "--out", "long"]

    def until(round, started):
        """Waits for a checkpoint after that round."""
        deadline = time.monotonic() + 120
        while max((int(p.name) for p in (home / "long").glob("checkpoints/[0-9]*")), default=0) <= round:
            assert started.poll() is None, started.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)

    first = process(*arguments)
    until(0, first)
    first.send_signal(signal.SIGINT)
    shown, errors = first.communicate(timeout=300)
    assert first.returncode == 130, errors
    assert errors == ""
    found = re.search(r"Interrupted after round (\d+) of 100000; all of it is saved\.", shown)
    assert "To go on: fedrecon resume long" in shown
    done = int(found[1])
    second = process("resume", "long")
    until(done, second)
    second.kill()
    shown, _ = second.communicate()
    assert f"going on from the checkpoint of round {done}" in shown


# A process in which the first save is met by Ctrl-C once more, and again.
IMPATIENT = """
import os, signal, sys
from fedrecon.experiment.cli.main import main
from fedrecon.experiment.storage.checkpoint import Checkpoints
saved = Checkpoints.save

def save(self, *arguments):
    for _ in range(int(sys.argv[1])):
        os.kill(os.getpid(), signal.SIGINT)
    saved(self, *arguments)

Checkpoints.save = save
sys.exit(main(sys.argv[2:]))
"""


def test_with_its_output_closed_a_command_ends_as_with_it(home, repository):
    environment = {
        **os.environ,
        "PYTHONPATH": str(repository / "src"),
        "XDG_CACHE_HOME": str(home / "cache"),
        "MPLCONFIGDIR": matplotlib.get_cachedir(),
    }
    for words in ("settings", "run small.toml --out closed", "compare closed"):
        command = f'"{sys.executable}" -m fedrecon {words} >&-'
        done = subprocess.run(
            ["sh", "-c", command], capture_output=True, text=True, env=environment, cwd=home
        )
        assert (done.returncode, done.stderr) == (0, ""), words
    assert json.loads((home / "closed" / "result.json").read_text())["finished"] is True


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (
            lambda out, patch: shutil.rmtree(out),
            "lost: the run folder was removed while the run was using it",
        ),
        (lambda out, patch: patch.setattr(os, "fsync", full), "No space left on device"),
    ],
    ids=["removed", "full"],
)
def test_a_run_that_cannot_write_ends_with_one_line(fedrecon, home, harm, message):
    shutil.rmtree(home / "lost", ignore_errors=True)
    evaluate = Evaluator.while_training
    with pytest.MonkeyPatch.context() as patch:

        def harmed(self, state):
            harm(home / "lost", patch)
            return evaluate(self, state)

        patch.setattr(Evaluator, "while_training", harmed)
        done = fedrecon("run", "small.toml", "--out", "lost", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("fedrecon: ") and done.stderr.count("\n") == 1
    assert message in done.stderr and "lost" in done.stderr
    assert not (home / "lost" / "result.json").exists()


def test_further_ctrl_c_during_a_save_keep_the_status(process, home):
    """The first of these three meets the save at a checkpoint, the others that of the interruption."""
    arguments = ["run", "small.toml", "--out", "impatient"]
    done = process(1, *arguments, program=("-c", IMPATIENT))
    shown, errors = done.communicate(timeout=300)
    assert done.returncode == 130, errors
    assert "Traceback" not in errors
    assert re.search(r"Interrupted after round \d of 6; all of it is saved\.", shown)
    done = process(2, *arguments[:-1], "more-impatient", program=("-c", IMPATIENT))
    _, errors = done.communicate(timeout=300)
    assert done.returncode == 130, errors
    assert errors.strip() == "fedrecon: interrupted"


DIVERGES = ("--set", "algorithm.reconstruct.optimizer.learning_rate=1e6", "--set", "training.rounds=2")


def test_a_run_that_diverges_ends_with_a_status_of_its_own_and_is_not_served(fedrecon, home):
    done = fedrecon("run", "small.toml", *DIVERGES, "--out", "diverged", check=False)
    assert done.returncode == 4
    assert done.stderr == ""
    assert re.search(r"Note: the run diverged: .+\.", done.stdout)
    result = json.loads((home / "diverged" / "result.json").read_text())
    assert result["diverged"] is True and result["finished"] is True
    assert list((home / "diverged" / "checkpoints").glob("2*"))
    assert "- The run diverged: " in (home / "diverged" / "summary.md").read_text()
    assert fedrecon("resume", "diverged", check=False).returncode == 4
    ratings(home / "any.dat")
    done = fedrecon("personalize", "diverged", "--data", "any.dat", "--out", "no.parquet", check=False)
    assert done.returncode == 1
    assert "diverged: a run must not have diverged to be served, this one has" in done.stderr
    assert not (home / "no.parquet").exists()


def test_the_best_round_of_a_run_that_diverged_later_is_served(fedrecon, home):
    later = "schedule={name='exponential_decay', transition_begin=3, transition_steps=1, decay_rate=1e30}"
    changes = ("--set", f"algorithm.server_optimizer={{name='sgd', learning_rate=1.0, {later}}}")
    best = ("--set", "evaluation.select=best", "--set", "evaluation.every=1")
    done = fedrecon("run", "small.toml", *changes, *best, "--out", "later", check=False)
    assert done.returncode == 4
    result = json.loads((home / "later" / "result.json").read_text())
    assert result["diverged"] is True and 1 <= result["selected_round"] <= 4
    clients, _ = synthetic(30, 40, seed=3)
    clients.write(home / "later.arrow")
    served = fedrecon("personalize", "later", "--data", "later.arrow", "--out", "later.parquet")
    note = f"Note: the run diverged after round {result['selected_round']}, its best one, which is used."
    assert note in served.stdout
    table = pyarrow.parquet.read_table(home / "later.parquet")
    assert len(table) == 30
    assert all(math.isfinite(x) for column in table.columns[1:] for row in column.to_pylist() for x in row)


def test_seeds_that_diverge_are_named_and_the_others_are_trained(fedrecon, home):
    done = fedrecon("run", "small.toml", *DIVERGES, "--seeds", 2, "--out", "wild", check=False)
    assert done.returncode == 4
    assert "Of these seeds training diverged, and is part of the means: 0, 1." in done.stdout
    assert json.loads((home / "wild" / "result.json").read_text())["diverged"] is True
    assert "Of these seeds training diverged" in (home / "wild" / "summary.md").read_text()


def test_a_sweep_counts_what_diverged_as_failed_and_goes_on(fedrecon, home):
    rates = "algorithm.reconstruct.optimizer.learning_rate = [1e6, 0.1]\n"
    (home / "rates.toml").write_text(rates)
    settings = ("--set", "training.rounds=2", "--set", "evaluation.every=2")
    shown = fedrecon("sweep", "small.toml", "rates.toml", *settings, "--trials", 6, "--out", "rates").stdout
    assert re.search(r"trial \d: failed: it diverged: ", shown)
    best = tomllib.loads((home / "rates" / "best.toml").read_text())
    assert best["algorithm"]["reconstruct"]["optimizer"]["learning_rate"] == 0.1


MISTAKES = [
    (["run", "."], 2, "Is a directory; the experiment of a run folder is its config.toml"),
    (["run", "missing.toml"], 2, "missing.toml: the experiment cannot be read: No such file or directory"),
    (
        ["run", "small.toml", "--set", "training.round=3"],
        2,
        "--set: there is no setting training.round; the nearest one is training.rounds",
    ),
    (
        ["run", "small.toml", "--set", "training.rounds=0"],
        2,
        "--set: training.rounds must be greater than or equal to 1, got 0",
    ),
    (["run", "small.toml", "--seeds", "1"], 2, "--seeds must be a whole number of at least 2, got 1"),
    (
        ["run", "small.toml", "--set", "training.clients_per_round=37"],
        2,
        "training.clients_per_round: clients_per_round must be at most the 36 training clients, got 37",
    ),
    (
        ["run", "small.toml", "--set", "algorithm.server_optimizer.momentun=0.9"],
        2,
        "algorithm.server_optimizer.momentun; the nearest one is algorithm.server_optimizer.momentum",
    ),
    (
        ["run", "small.toml", "--set", "evaluation.select=best", "--set", "data.fractions.validation=0"],
        2,
        'evaluation.select must be "final" without validation clients, got "best"',
    ),
    (["run", "small.toml", "--data", "x"], 2, "--data: the task synthetic_ratings reads no data"),
    (
        ["run", "small.toml", "--out", "small.toml/run"],
        1,
        "small.toml/run: the run folder cannot be written: Not a directory",
    ),
    (
        ["run", "small.toml", "--out", "first", "--seed", "1"],
        1,
        "first: this run folder belongs to another configuration: seed is 0 there and 1 here",
    ),
    (["resume", "nowhere"], 1, "nowhere: a run folder must have a config.toml, this has none"),
    (["evaluate", "."], 1, ".: a run folder must have a config.toml, this has none"),
    (["plot", "."], 1, ".: a run folder must have a metrics.csv, this has none"),
    (["compare", "first", "."], 1, ".: a run folder must have a config.toml, this has none"),
    (["sweep", "small.toml", "nowhere.toml"], 2, "nowhere.toml: the space cannot be read"),
    (
        ["sweep", "small.toml", "small.toml", "--jobs", "0"],
        2,
        "--jobs must be a whole number of at least 1, got 0",
    ),
    (["sweep", "small.toml", "small.toml"], 2, "small.toml: name must be a range such as { low = 0.1,"),
    (["report", "nowhere"], 1, "nowhere: a run folder must have a config.toml, this has none"),
    (["compare", "first", "--target", "0.9"], 2, "--target takes METRIC=VALUE, for instance rmse=0.93, got"),
    (["compare", "first", "--target", "auc=1"], 2, "no run recorded auc while training, only accuracy, mse"),
    (["describe", "nowhere.csv"], 1, "nowhere.csv"),
]


@pytest.mark.parametrize(("arguments", "status", "message"), MISTAKES, ids=[" ".join(m[0]) for m in MISTAKES])
def test_mistakes_are_told_without_a_traceback(run, fedrecon, arguments, status, message):
    done = fedrecon(*arguments, check=False)
    assert done.returncode == status
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    # How the command is used is shown before a mistake in one of its options, and before no other.
    told = re.sub(rf"\AUsage: fedrecon {arguments[0]} .*\n", "", done.stderr)
    assert told.startswith("fedrecon: ")
    assert (told != done.stderr) == told.startswith("fedrecon: --")


def test_a_traceback_is_shown_only_to_who_asks(process):
    for arguments, shown in ((["resume", "nowhere"], False), (["resume", "nowhere", "--traceback"], True)):
        started = process(*arguments)
        _, errors = started.communicate(timeout=60)
        assert started.returncode == 1
        assert ("Traceback" in errors) is shown
        assert "a run folder must have a config.toml" in errors


def test_mistakes_of_the_program_itself_are_said_to_be_such(fedrecon, monkeypatch):
    def fail(config):
        raise TypeError("1 + None")

    monkeypatch.setattr(settings_listing, "listing", fail)
    done = fedrecon("settings", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("fedrecon: TypeError: 1 + None\n(unexpected; --traceback shows where")
    with pytest.raises(TypeError):
        fedrecon("settings", "--traceback", check=False)


def test_a_checkpoint_that_is_cut_short_is_named(run, fedrecon, home):
    shutil.copytree(run[0], home / "broken")
    (path,) = (home / "broken" / "checkpoints" / "6" / "arrays").glob("manifest.ocdbt")
    path.write_bytes(path.read_bytes()[:10])
    done = fedrecon("resume", "broken", check=False)
    assert done.returncode == 1
    assert (
        "broken/checkpoints/6: this checkpoint is cut short: arrays/manifest.ocdbt has 10 bytes"
        in done.stderr
    )


def test_help_loads_nothing_heavy_and_says_what_to_do(fedrecon, run_python):
    heavy = ["jax", "numpy", "optax", "orbax", "pandas", "pyarrow", "pydantic", "rich"]
    code = f"""
import sys
from fedrecon.experiment.cli.main import main
assert main(["run", "--help"]) == 0 and main(["--help"]) == 0
print([name for name in {heavy} if name in sys.modules])
"""
    shown = run_python(code)
    assert "--set training.rounds=100" in shown
    assert shown.endswith("[]\n")
    assert "Usage: fedrecon" in fedrecon().stdout
    assert re.fullmatch(r"fedrecon \d+\.\d+\.\d+\n", fedrecon("--version").stdout)


def test_all_settings_are_listed(fedrecon, home):
    page = fedrecon("settings", "small.toml", "--set", "training.rounds=9").stdout
    assert tomllib.loads(page)["training"]["rounds"] == 9
    assert "# rounds between checkpoints" in page
