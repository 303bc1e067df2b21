"""The list of tested versions against the requirements of pyproject.toml."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def pins(name="constraints.txt"):
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    versions = {}
    for requirement in requirements:
        (specifier,) = requirement.specifier
        assert specifier.operator == "=="
        versions[canonicalize_name(requirement.name)] = specifier.version
    return versions


def requirements(names):
    """The requirements of these extras, with those of the extras that they name."""
    for text in [line for name in names for line in EXTRAS[name]]:
        requirement = Requirement(text)
        if requirement.name == "fedrecon":
            yield from requirements(requirement.extras)
        else:
            yield requirement


@pytest.mark.parametrize("extra", ["plain", "dev", "docs"])
def test_each_requirement_has_a_tested_version_within_its_bounds(extra):
    versions = pins()
    wanted = (
        [Requirement(text) for text in PROJECT["dependencies"]] if extra == "plain" else requirements([extra])
    )
    for requirement in wanted:
        version = versions.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not in constraints.txt"
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement} != {version}"


def test_flower_has_tested_versions_of_its_own():
    versions = pins("constraints-flower.txt")
    wanted = [Requirement(text) for text in PROJECT["dependencies"]]
    for requirement in [*wanted, *requirements(["flower", "privacy"])]:
        version = versions.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not in constraints-flower.txt"
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement} != {version}"
