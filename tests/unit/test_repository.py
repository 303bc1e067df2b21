"""The repository's own promises: annotations are checked, and CI runs what the README tells."""

import re
from collections import Counter

import jax.numpy as jnp
import pytest
from jaxtyping import TypeCheckError

from fedrecon.core._mean import Mean


def test_annotations_are_checked_while_tests_run():
    with pytest.raises(TypeCheckError):
        Mean.of(jnp.ones(3)).sum(axis="first")


def test_ci_ends_with_the_commands_of_the_readme(repository):
    commands = re.findall(r"^.*(pip install .*&& .*)$", (repository / "README.md").read_text(), re.MULTILINE)
    ci = (repository / ".ci/run").read_text().splitlines()
    assert commands[:2] == ["pip install . && fedrecon run", "pip install '.[test]' && pytest"]
    assert ci[-1] == commands[1]


def test_folders_and_modules_stay_small(repository):
    # Algorithms may have more modules, one each.
    modules = list((repository / "src").rglob("*.py"))
    counts = Counter(path.parent for path in modules if path.parent.name != "algorithms")
    assert {folder.name: count for folder, count in counts.items() if count > 20} == {}
    lines = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in modules}
    assert {name: count for name, count in lines.items() if count > 450} == {}
