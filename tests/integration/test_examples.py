"""The examples, and the code of the pages, run as they are."""

import os
import re
import subprocess
import sys

import pytest


@pytest.fixture
def run(repository, tmp_path):
    """Runs a file in a fresh interpreter, in an empty folder, and gives what it prints."""

    def run(path):
        environment = {**os.environ, "PYTHONPATH": str(repository / "src"), "PYTHONWARNINGS": "error"}
        done = subprocess.run(
            [sys.executable, str(path)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def number(text, pattern):
    found = re.search(pattern + r"([0-9.]+)", text)
    assert found, f"no {pattern!r} in {text!r}"
    return float(found[1])


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
    one_for_all = number(printed, r"one head for all: .*test rmse=")
    early, late = (number(printed, rf"round {n}: .* rmse ") for n in (100, 200))
    own = number(printed, r"a head of its own:.*test rmse=")
    # Heads are drawn from N(0, 1) and their mean says nothing; the noise is 0.1.
    assert one_for_all > 1
    assert 0.1 < own < 0.15
    assert 0.1 < late < early
    best, worst = number(printed, "best tenth .*at most "), number(printed, "worst tenth .*at least ")
    assert 0.05 < best < own < worst < 0.3


@pytest.mark.parametrize("page", ["extending.md", "moving_from_tff.md"])
def test_code_of_a_page_runs(repository, run, tmp_path, page):
    blocks = re.findall(
        r"^```python\n(.*?)^```$", (repository / "docs" / page).read_text(), re.DOTALL | re.MULTILINE
    )
    assert blocks
    code = tmp_path / "page.py"
    code.write_text("\n".join(blocks))
    run(code)
