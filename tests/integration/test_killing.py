"""A run that is killed at any moment goes on to the same bits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROUNDS, MANY_ROUNDS = 8, 45
SAME = ("arrays", "csv", "rounds", "metrics", "checkpoints", "hidden", "kept", "finished", "keys")


@pytest.fixture(scope="module")
def victim(tmp_path_factory, repository):
    """Calls `victim.py` in a process of its own, all calls on one folder."""
    folder = tmp_path_factory.mktemp("runs")

    def call(action, *arguments, algorithm="fedrecon"):
        command = [sys.executable, str(Path(__file__).with_name("victim.py")), str(folder), algorithm, action]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(repository / "src")}
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        done = subprocess.run(
            [*command, ",".join(map(str, arguments))],
            capture_output=True,
            text=True,
            env=environment,
            timeout=1800,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return call


@pytest.fixture(scope="module")
def undisturbed(victim):
    found = {}

    def whole(rounds, algorithm="fedrecon"):
        if (rounds, algorithm) not in found:
            found[rounds, algorithm] = victim("undisturbed", rounds, algorithm=algorithm)
        return found[rounds, algorithm]

    return whole


def check(found, whole):
    assert {name: found[name] for name in SAME} == {name: whole[name] for name in SAME}
    assert 0 <= found["again"] <= whole["every"]


def test_an_undisturbed_run_runs_every_round_once(undisturbed):
    whole = undisturbed(ROUNDS)
    assert whole["ran"] == ROUNDS
    assert whole["rounds"] == [str(i) for i in range(1, ROUNDS + 1)]
    assert whole["checkpoints"] == [6, 8]
    assert whole["hidden"] == []
    assert whole["kept"] == {}
    assert whole["finished"]


def test_killed_at_some_file_operations(victim, undisturbed):
    whole = undisturbed(ROUNDS)
    count = whole["operations"]
    assert count > 100
    # While the folder is made, within a checkpoint, and in the report.
    for found in victim("operations", ROUNDS, 4, count // 3, count - 12):
        assert found["killed"]
        check(found, whole)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_killed_at_every_file_operation(victim, undisturbed, part):
    whole = undisturbed(ROUNDS)
    points = range(1 + part, whole["operations"] + 5, 8)
    for found in victim("operations", ROUNDS, *points):
        check(found, whole)


def test_clients_that_keep_something_survive_kills(victim, undisturbed):
    whole = undisturbed(ROUNDS, "fedalt")
    assert list(whole["kept"]) == ["0.log", "1.log"]  # each of the two checkpoints needs one
    count = whole["operations"]
    for found in victim("operations", ROUNDS, count // 3, 2 * count // 3, algorithm="fedalt"):
        assert found["killed"]
        check(found, whole)
    many = undisturbed(MANY_ROUNDS, "fedalt")
    assert "0.log" not in many["kept"]
    found = victim("random", MANY_ROUNDS, 3, 2, algorithm="fedalt")
    assert any(each["killed"] for each in found)
    for each in found:
        check(each, many)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_clients_that_keep_something_survive_a_kill_at_every_file_operation(victim, undisturbed, part):
    whole = undisturbed(ROUNDS, "fedalt")
    points = range(1 + part, whole["operations"] + 5, 8)
    for found in victim("operations", ROUNDS, *points, algorithm="fedalt"):
        check(found, whole)


def test_private_run_releases_the_same_and_nothing_twice(victim, undisturbed):
    """The same epsilon and the same bits after kills; every child asserts that it computes none again."""
    whole = undisturbed(ROUNDS, "private")
    assert whole["keys"] == []  # the key is gone when the run is finished
    count = whole["operations"]
    for found in victim("operations", ROUNDS, count // 4, count // 2, algorithm="private"):
        assert found["killed"]
        check(found, whole)
    many = undisturbed(MANY_ROUNDS, "private")
    found = victim("random", MANY_ROUNDS, 5, 2, algorithm="private")
    assert any(each["killed"] for each in found)
    for each in found:
        check(each, many)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_private_run_is_killed_at_every_file_operation(victim, undisturbed, part):
    whole = undisturbed(ROUNDS, "private")
    points = range(1 + part, whole["operations"] + 5, 8)
    for found in victim("operations", ROUNDS, *points, algorithm="private"):
        check(found, whole)


@pytest.mark.slow
def test_private_run_is_killed_at_many_random_moments(victim, undisturbed):
    whole = undisturbed(MANY_ROUNDS, "private")
    found = victim("random", MANY_ROUNDS, 6, 40, algorithm="private")
    assert sum(each["killed"] for each in found) > 10
    for each in found:
        check(each, whole)


def test_killed_at_random_moments(victim, undisturbed):
    whole = undisturbed(MANY_ROUNDS)
    found = victim("random", MANY_ROUNDS, 1, 2)
    assert any(each["killed"] for each in found)
    for each in found:
        check(each, whole)


@pytest.mark.slow
def test_killed_at_many_random_moments(victim, undisturbed):
    whole = undisturbed(MANY_ROUNDS)
    found = victim("random", MANY_ROUNDS, 2, 40)
    assert sum(each["killed"] for each in found) > 10
    for each in found:
        check(each, whole)
