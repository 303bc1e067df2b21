import re
import shutil
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon.errors import RunError
from fedrecon.experiment.storage.checkpoint import CheckpointError, Checkpoints


class State(NamedTuple):
    params: dict
    optimizer: object
    round: object


def tree(scale=1.0):
    params = {
        "item/factors": scale * jax.random.normal(jax.random.key(1), (7, 3)),
        "bias": jnp.float32(scale),
        "half": jnp.arange(4, dtype=jnp.bfloat16),
        "flags": jnp.array([True, False]),
        "counts": np.arange(3, dtype=np.int64),
        "empty": jnp.zeros((0, 5)),
    }
    optimizer = optax.adam(0.1).init(params["item/factors"])
    return {"state": State(params, optimizer, np.int32(3)), "key": jax.random.key(5), "none": None}


def same(a, b):
    if isinstance(a, jax.Array) and jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
        return same(jax.random.key_data(a), jax.random.key_data(b))
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path / "checkpoints")


def test_everything_comes_back_as_it_was(checkpoints):
    checkpoints.save(12, tree(), {"seconds": 1.5, "best": None})
    restored = checkpoints.restore(12, tree(scale=0.0))
    assert restored.round == 12
    assert restored.info == {"seconds": 1.5, "best": None}
    assert jax.tree.structure(restored.tree) == jax.tree.structure(tree())
    assert jax.tree.all(jax.tree.map(same, restored.tree, tree()))
    draws = [jax.random.uniform(t["key"], (3,)) for t in (restored.tree, tree())]
    np.testing.assert_array_equal(*draws)


def test_another_process_reads_it(checkpoints, run_python):
    checkpoints.save(3, {"w": jnp.arange(3.0)})
    code = f"""
from pathlib import Path
from fedrecon.experiment.storage.checkpoint import Checkpoints
print(Checkpoints(Path({str(checkpoints.folder)!r})).arrays(3)["['w']"].tolist())
"""
    assert run_python(code) == "[0.0, 1.0, 2.0]\n"


def test_a_relative_folder_will_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoints = Checkpoints(tmp_path.__class__("here"))
    checkpoints.save(1, {"w": jnp.ones(2)})
    assert (tmp_path / "here" / "1").is_dir()


def test_the_latest_ones_remain(checkpoints):
    for round in (5, 10, 15, 100):
        checkpoints.save(round, {"w": jnp.full(2, round)})
    assert checkpoints.rounds() == [15, 100]
    assert checkpoints.latest() == 100
    assert sorted(p.name for p in checkpoints.folder.iterdir()) == ["100", "15"]
    assert checkpoints.restore(15, {"w": jnp.zeros(2, int)}).tree["w"].tolist() == [15, 15]


def test_without_checkpoints_there_is_no_latest(checkpoints):
    assert checkpoints.latest() is None
    checkpoints.clean()


def test_half_written_and_half_removed_ones_do_not_count_and_are_cleaned(checkpoints):
    checkpoints.save(5, {"w": jnp.ones(2)})
    shutil.copytree(checkpoints.folder / "5", checkpoints.folder / ".10.writing")
    shutil.copytree(checkpoints.folder / "5", checkpoints.folder / ".1.removing")
    assert checkpoints.latest() == 5
    checkpoints.save(10, {"w": jnp.zeros(2)})
    checkpoints.clean()
    assert sorted(p.name for p in checkpoints.folder.iterdir()) == ["10", "5"]


def test_saving_a_round_again_changes_nothing(checkpoints):
    checkpoints.save(5, {"w": jnp.ones(2)})
    checkpoints.save(5, {"w": jnp.zeros(2)})
    assert checkpoints.arrays(5)["['w']"].tolist() == [1.0, 1.0]


def test_every_file_cut_short_is_named(checkpoints):
    checkpoints.save(4, {"w": jnp.ones(500)})
    checkpoints.save(5, {"w": jnp.ones(500)})
    folder = checkpoints.folder / "5"
    files = [p for p in folder.rglob("*") if p.is_file() and p.stat().st_size]
    assert len(files) > 5
    for path in files:
        content = path.read_bytes()
        name = path.relative_to(folder).as_posix()
        for damaged in (
            content[: len(content) // 2],
            content[:-1],
            bytes([content[0] ^ 1]) + content[1:],
            None,
        ):
            path.unlink()
            if damaged is not None:
                path.write_bytes(damaged)
            with pytest.raises(CheckpointError) as caught:
                checkpoints.restore(5, {"w": jnp.ones(500)})
            assert f"{folder}: this checkpoint is cut short: {name} " in str(caught.value)
            assert "remove its folder to resume from round 4" in str(caught.value)
        path.write_bytes(content)
    checkpoints.restore(5, {"w": jnp.ones(500)})


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"w": jnp.zeros(3)}, r"5: the array \['w'\] is float32\[2\] there and float32\[3\] in this run"),
        ({"w": jnp.zeros(2, int)}, r"\['w'\] is float32\[2\] there and int32\[2\]"),
        ({"v": jnp.zeros(2)}, r"\['w'\] is float32\[2\] there and missing in this run"),
        ({"w": jnp.zeros(2), "v": jnp.zeros(2)}, r"\['v'\] is missing there and float32\[2\]"),
    ],
)
def test_other_arrays_are_named(checkpoints, target, message):
    checkpoints.save(5, {"w": jnp.ones(2)})
    with pytest.raises(CheckpointError, match=message):
        checkpoints.restore(5, target)


def test_what_a_kill_left_beyond_the_last_ones_is_removed(checkpoints):
    for round in (3, 6):
        checkpoints.save(round, {"w": jnp.arange(3.0)})
    # Killed after the third was committed and before the first was removed.
    Checkpoints(checkpoints.folder, keep=3).save(8, {"w": jnp.arange(3.0)})
    assert checkpoints.rounds() == [3, 6, 8]
    checkpoints.clean()
    assert checkpoints.rounds() == [6, 8]


@pytest.mark.parametrize("sizes", [[64_000], [200] * 200, [10, 4_000_000]])
def test_the_room_asked_for_is_enough(tmp_path, monkeypatch, sizes):
    """Random bytes do not get smaller by compression; blocks of 4 kB are those of common file systems."""
    rng = np.random.default_rng(0)
    tree = {f"leaf{i}": rng.integers(0, 256, size, np.uint8) for i, size in enumerate(sizes)}
    checkpoints = Checkpoints(tmp_path / "full")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=0))
    with pytest.raises(RunError, match="no space is left on the disk: it needs up to") as raised:
        checkpoints.save(1, tree)
    assert list((tmp_path / "full").iterdir()) == []
    needed = int(re.search("up to ([0-9,]+) bytes", str(raised.value))[1].replace(",", ""))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needed))
    checkpoints.save(1, tree)
    files = [path for path in (tmp_path / "full").rglob("*") if path.is_file()]
    assert sum(-(-path.stat().st_size // 4096) * 4096 for path in files) <= needed
