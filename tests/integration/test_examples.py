"""The examples, the README's code and the task of a page, run as they are."""

import json
import os
import re
import subprocess
import sys

import pytest

TASK = "# mine/slopes.py\n"


@pytest.fixture
def run(repository, tmp_path):
    """Runs Python in a fresh interpreter, in an empty folder, and gives what it prints."""

    def run(*arguments):
        path = os.pathsep.join([str(repository / "src"), str(tmp_path)])
        done = subprocess.run(
            [sys.executable, "-W", "error", *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def blocks(repository):
    """`blocks(page, language)`: the code of a page, block by block."""

    def blocks(page, language):
        text = (repository / "docs" / page).read_text()
        found = re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        assert found
        return found

    return blocks


def number(text, pattern):
    found = re.search(pattern + r"([0-9.]+)", text)
    assert found, f"no {pattern!r} in {text!r}"
    return float(found[1])


def test_keras_batch_norm(repository, run):
    pytest.importorskip("keras", reason="Keras is not installed")
    described, result = run(repository / "examples/keras_batch_norm.py").rsplit("\n", 2)[:2]
    assert "norm/moving_variance  global state" in described and "head/kernel" in described
    assert number(result, "test rmse=") < 1.5


def test_own_algorithm(repository, run):
    path = repository / "examples/own_algorithm.py"
    assert len(path.read_text().splitlines()) <= 40
    mine, theirs = run(path).splitlines()
    assert mine.startswith("mine Result(150 of 150 rounds")
    assert number(mine, "test rmse=") < number(theirs, "test rmse=") < 1.1


def test_fedrecon_in_50_lines(repository, run):
    path = repository / "examples/fedrecon_in_50_lines.py"
    assert len(path.read_text().splitlines()) <= 50
    printed = run(path)
    assert printed.startswith("Result(300 of 300 rounds")
    # Who knows only how often a question is answered right gets 0.59, who knows the truth 0.85.
    assert 0.78 < number(printed, "test accuracy=") < 0.85
    assert number(printed, "test accuracy=.* perplexity=") < 1.6


def test_own_model(repository, run):
    printed = run(repository / "examples/own_model.py")
    one_for_all = number(printed, "one head for all: .*test rmse=")
    early, late = (number(printed, rf"round {n}: .* rmse ") for n in (100, 200))
    own = number(printed, "a head of its own:.*test rmse=")
    # Heads are drawn from N(0, 1) and their mean says nothing; the noise is 0.1.
    assert one_for_all > 1
    assert 0.1 < own < 0.15
    assert 0.1 < late < early
    best, worst = number(printed, "best tenth .*at most "), number(printed, "worst tenth .*at least ")
    assert 0.05 < best < own < worst < 0.3


def test_serving_new_users(repository, run):
    result, shapes, *served = run(repository / "examples/serving_new_users.py").splitlines()
    assert 0.1 < number(result, "test rmse=") < 0.3  # the noise is 0.1
    assert "'user/factors': (5, 3)" in shapes
    assert len(served) == 5 and all(line.count("film ") == 3 for line in served)


# The ids are those of MovieLens 1M: whole numbers that leave some out.
FRAME = """
import numpy as np, pandas as pd
rng = np.random.default_rng(0)
ids = np.delete(np.arange(1, 3953), [90, 220, 1500])
item = np.concatenate([rng.choice(ids, 20, replace=False) for _ in range(40)])
frame = pd.DataFrame({"user": np.repeat(np.arange(40), 20), "item": item, "rating": rng.normal(3, 1, 800)})
"""


def test_code_of_the_readme_runs(repository, run, tmp_path):
    text = (repository / "README.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    few = block.replace("rounds=300,\n    clients_per_round=100", "rounds=3")
    assert few != block
    code = tmp_path / "readme.py"
    code.write_text(
        FRAME + few + "print(result, best.shape, by_client.shape, set(best.ravel()) <= set(ids))\n"
    )
    assert re.search(r"test rmse=[0-9.]+\) \(8, 10\) \(8, 4\) True", run(code))


def test_task_of_a_page_runs(run, blocks, tmp_path):
    module = tmp_path / TASK.split()[1]
    module.parent.mkdir()
    module.write_text(next(b for b in blocks("extending.md", "python") if b.startswith(TASK)))
    (tmp_path / "slopes.toml").write_text(blocks("extending.md", "toml")[0])
    assert "homes = 100" in run("-m", "fedrecon", "settings", "slopes.toml")
    run("-m", "fedrecon", "run", "slopes.toml", "--set", "model.slope=1.0", "--out", "out")
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    # A home's level is from N(0, 1) and its slope 2, which the start is 1 away from.
    assert result["test"]["recon_eval"]["examples"]["rmse"] < 0.8
