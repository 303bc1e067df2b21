"""Every block of code in the documentation is run, or checked without running it.

Python is run by `tests/integration/test_documentation.py`; a test here makes sure that no page is left out.
Shell is expanded by a shell in which each command prints its words, which are parsed afterwards.
"""

import importlib.util
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import click
import pytest
from tests.integration.test_documentation import RUN_AS_A_WHOLE, RUN_IN_PYTHON

from fedrecon.experiment import config as configs
from fedrecon.experiment.cli.main import COMMANDS, group
from fedrecon.experiment.cli.options import Invocation

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = sorted(
    str(path.relative_to(REPOSITORY))
    for folder, pattern in (
        (".", "*.md"),
        ("docs", "*.md"),
        ("docs/tutorials", "*.md"),
        ("experiments", "*.md"),
        ("benchmarks", "*.md"),
        ("findings", "*.md"),
    )
    for path in (REPOSITORY / folder).glob(pattern)
)
# What a command prints, pictures in text, and directives, which the build of the site checks.
SHOWN = {"text", "{include}", "{toctree}"}
CHECKED = {"python", "sh", "toml", "yaml"}
# Commands of others, of which only that they are called is checked.
OTHERS = (
    "deactivate",
    "git",
    "nvflare",
    "pre-commit",
    "scontrol",
    "sphinx-build",
    "tensorboard",
    "vi",
    "ruff",
    "mypy",
    "pytest",
)
TELL = "\n".join(
    [
        "tell() { printf '%q ' \"$@\"; echo; }",
        *(
            f'{name}() {{ tell {name} "$@"; }}'
            for name in ("fedrecon", "python", "python3", "pip", "bash", *OTHERS)
        ),
        'srun() { "$@"; }',
        "function . { :; }",  # the activation of an environment that is not there
        "function .ci/run { :; }",
        'command_not_found_handle() { tell unknown "$@"; }',
        "PATH=",
        "",
    ]
)


def blocks(page: str) -> list[tuple[str, str]]:
    """Pairs of a language and a block of code."""
    text = (REPOSITORY / page).read_text()
    return re.findall(r"^ *```([^\n`]*)\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)


def commands(page: str) -> list[list[str]]:
    """The words of every command in the shell blocks of a page, after the shell's expansions."""
    told: list[list[str]] = []
    for language, code in blocks(page):
        if language == "sh":
            shell = subprocess.run(
                ["/bin/bash", "-c", TELL + code],
                capture_output=True,
                text=True,
                cwd="/",
                env={"HOME": "/home/reader", "SLURM_ARRAY_TASK_ID": "0", "SLURM_JOB_ID": "1"},
                timeout=60,
            )
            assert not shell.stderr, f"{page}: {shell.stderr}\n{code}"
            told += [shlex.split(line) for line in shell.stdout.splitlines()]
    return told


def test_pages_have_blocks():
    assert {"README.md", "docs/scaling.md", "docs/tutorials/your_ratings.md"} <= set(PAGES)
    assert sum(len(commands(page)) for page in PAGES) > 50


@pytest.mark.parametrize("page", PAGES)
def test_language_of_every_block_is_known(page):
    assert {language.partition(" ")[0] for language, _ in blocks(page)} <= CHECKED | SHOWN


@pytest.mark.parametrize("page", PAGES)
def test_python_of_every_page_is_run(page):
    has_python = any(language == "python" for language, _ in blocks(page))
    # test_examples.py runs the README.
    assert not has_python or page in {*RUN_AS_A_WHOLE, *RUN_IN_PYTHON, "README.md"}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page):
    """On a code host, where the site's own check does not look."""
    text = re.sub(r"^```.*?^```$", "", (REPOSITORY / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", text):
        path = (REPOSITORY / page).parent / target if target else REPOSITORY / page
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            assert anchor in {_anchor(heading) for heading in headings}, f"{target}#{anchor}"


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES)
def test_settings_files_can_be_read(page):
    yaml = pytest.importorskip("yaml", reason="needs PyYAML, which Flax brings")
    for language, code in blocks(page):
        if language == "toml":
            assert tomllib.loads(code)
        if language == "yaml":
            assert all(document["kind"] for document in yaml.safe_load_all(code))


@pytest.mark.parametrize("page", PAGES)
def test_commands_can_be_read(page):
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for program, *words in commands(page):
        line = shlex.join([program, *words])
        assert program != "unknown", line
        if program == "fedrecon":
            _check_command_line(words)
        if program == "python" and words[0] == "-m":
            assert importlib.util.find_spec(words[1]), line
        if program == "python" and words[0] != "-m":
            assert (REPOSITORY / words[0]).is_file(), line
        if program == "pip":
            named = re.findall(r"\[([a-z,]+)\]", re.sub(r"jax\[.*?\]", "", line))
            assert {extra for names in named for extra in names.split(",")} <= set(extras), line


def _check_command_line(words: list[str]) -> None:
    name, *arguments = words
    assert name in COMMANDS, words
    command = group().get_command(click.Context(group()), name)
    assert command is not None
    context = command.make_context(name, list(arguments), obj=Invocation(started=0.0))
    experiment = context.params.get("experiment")
    if experiment and experiment.startswith("experiments/"):
        configs.load(str(REPOSITORY / experiment), context.params.get("overrides", ()))
