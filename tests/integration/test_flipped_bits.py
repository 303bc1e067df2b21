"""A bit that flips in a file of a run folder, in a client file or in the cache is noticed or harmless."""

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from tests.small import rating_model, sgd, solver

import fedrecon as fr
from fedrecon.data._cache import load_or_convert
from fedrecon.errors import DataError, RunError, UncheckedWarning
from fedrecon.experiment.analysis.compare import comparison
from fedrecon.experiment.analysis.runs import methods

ROUNDS, SAVED = 4, 2
# Pictures and a page for readers, which nothing is computed from.
SHOWN = ("plots", "summary.md", ".lock")


def clients():
    rng = np.random.default_rng(0)
    made = {
        i: {
            "item": rng.permutation(40)[:12].astype(np.int32),
            "rating": rng.normal(3, 1, 12).astype(np.float32),
        }
        for i in range(16)
    }
    return fr.Clients.from_arrays(made)


def train(folder, people, rounds=ROUNDS):
    algorithm = fr.fedrecon(rating_model(), solver(), solver(), sgd(1.0))
    sets = people.split({"train": 0.5, "validation": 0.25, "test": 0.25}, 0)
    return fr.train(
        algorithm,
        sets["train"],
        rounds,
        clients_per_round=4,
        evaluate=sets["validation"],
        test=sets["test"],
        evaluate_every=1,
        checkpoint_every=SAVED,
        select="best",
        out=folder,
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A finished run, one that was ended after its first checkpoint, a client file and a cached one."""
    home = tmp_path_factory.mktemp("flips")
    people = clients()
    people.write(home / "c.arrow")
    cached(home / "cache")
    train(home / "finished", people)
    shutil.copytree(home / "finished", home / "half")
    for path in (home / "half" / "checkpoints").iterdir():
        if path.name != str(SAVED):
            shutil.rmtree(path)
    for name in ("result.json", "summary.md", "plots"):
        path = home / "half" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return home


def cached(folder):
    return load_or_convert(
        clients, kind="c", facts=1, fingerprint=lambda: "mark", where="source", folder=folder
    )


def everything(home):
    """All that is computed from the files: the results of the runs when they go on, and of comparisons."""
    results = []
    for people in (fr.Clients.open(home / "c.arrow"), cached(home / "cache")):
        results.append({name: people.column(name).tobytes() for name in people.fields})
        results.append([people.ids.tolist(), people.keys.tolist(), people.num_examples.tolist()])
    tables, _ = comparison(methods([home / "finished"]))
    results.append([table.rows for table in tables if table.name == "quality"])
    for name in ("half", "finished"):
        result = train(home / name, clients())
        values = {k: x.values() for k, x in result.evaluations.items()}
        results.append({k: {m: v.tobytes() for m, v in x.items()} for k, x in values.items()})
        results.append([row for row in result.records if row.metric != "seconds"])
    return results


def files(home):
    found = sorted(path for path in home.rglob("*") if path.is_file() and path.stat().st_size)
    return [path for path in found if not set(path.relative_to(home).parts) & set(SHOWN)]


def check(home, tmp_path, seed, count):
    whole = tmp_path / "whole"
    shutil.copytree(home, whole)
    right = everything(whole)
    rng = np.random.default_rng(seed)
    names = [path.relative_to(home) for path in files(home)]
    silent, noticed = [], 0
    for number in range(count):
        name = names[int(rng.integers(len(names)))]
        place = tmp_path / str(number)
        shutil.copytree(home, place)
        data = bytearray((place / name).read_bytes())
        at, bit = int(rng.integers(len(data))), int(rng.integers(8))
        data[at] ^= 1 << bit
        Path(place / name).write_bytes(data)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", UncheckedWarning)
                if everything(place) != right:
                    silent.append((str(name), at, bit))
        except (RunError, DataError, UncheckedWarning):
            noticed += 1
        shutil.rmtree(place)
    assert not silent
    assert noticed > count / 2


def test_some_flipped_bits(home, tmp_path):
    check(home, tmp_path, 0, 8)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_500_flipped_bits(home, tmp_path, part):
    check(home, tmp_path, 1 + part, 50)
