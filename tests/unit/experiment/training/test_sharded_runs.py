"""Runs, evaluations and personalisations of a folder of shards are those of one client file, bit for bit."""

import io

import jax
import numpy as np
import pyarrow.parquet
import pytest
from rich.console import Console

from fedrecon.data._clients import Clients
from fedrecon.data._shards import columns as shard_columns
from fedrecon.data._shards.folder import write_shards
from fedrecon.errors import DataError, RunError
from fedrecon.experiment.analysis import comparability
from fedrecon.experiment.analysis.runs import Method, Run
from fedrecon.experiment.cli.main import main
from fedrecon.experiment.cli.runs import holds_ratings
from fedrecon.experiment.config import resolve
from fedrecon.experiment.serving.evaluate import evaluate_run
from fedrecon.experiment.serving.personalize import personalize_run
from fedrecon.experiment.serving.wanted import Wanted
from fedrecon.experiment.storage.run_folder import read_fingerprint
from fedrecon.experiment.training.build import spec_of, task_of
from fedrecon.experiment.training.run import run

ITEMS = 9


def ratings(count=40, seed=0):
    """Clients with different items in any order of time, rated by stars."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, ITEMS + 1, count)
    items = np.concatenate([rng.permutation(ITEMS)[:n] for n in lengths])
    columns = {
        "item": items,
        "rating": rng.integers(1, 11, len(items)) / 2,
        "time": rng.integers(0, 99, len(items)),
    }
    vocabulary = {"item": [f"film {i}" for i in range(ITEMS)]}
    return Clients.from_columns(range(count), np.concatenate([[0], np.cumsum(lengths)]), columns, vocabulary)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedrecon.experiment.reporting.plots.write", lambda *_: [])
        ratings().write(folder / "one.arrow")
        write_shards(folder / "four", ratings(), 4)
        yield folder


TASKS = {
    "movielens": {"data": {"order": "file"}},
    "shuffled": {"data": {"order": "shuffled", "cap": 5}},
    "held out": {
        "data": {"order": "time", "held_out": {"test": 0.3}, "fractions": {"validation": 0, "test": 0}}
    },
    "ranking": {
        "task": "ranking",
        "data": {"protocol": {"name": "leave_one_out", "sampled": 3, "k": [2]}},
        "algorithm": {"split": {"name": "none"}},
    },
    "stateful": {"algorithm": {"name": "fedalt"}, "data": {"order": "file"}},
}


def configuration(home, data, task):
    own = TASKS[task]
    return resolve(
        {
            "task": "movielens",
            "training": {"rounds": 4, "clients_per_round": 6, "checkpoint_every": 1},
            **own,
            "model": {"factors": 2},
            "evaluation": {"every": 2},
            "data": {**own["data"], "path": str(home / data)},
        },
        "test",
    )


def trained(home, data, task, out=None, callbacks=()):
    """The specification of a run, and its result."""
    config = configuration(home, data, task)
    spec = spec_of(config, task_of(config))
    return spec, run(spec, out=None if out is None else home / out, callbacks=callbacks)


def bits(params):
    return [
        (jax.tree_util.keystr(path), x.tobytes())
        for path, x in jax.tree.leaves_with_path(jax.device_get(params))
    ]


@pytest.mark.parametrize(
    "task",
    [
        task if task in ("movielens", "held out") else pytest.param(task, marks=pytest.mark.slow)
        for task in TASKS
    ],
)
def test_a_run_on_four_shards_is_that_on_one_file(home, task):
    (spec, one), (other, four) = (trained(home, data, task) for data in ("one.arrow", "four"))
    assert bits(one.global_params) == bits(four.global_params)
    assert repr(one.metrics) == repr(four.metrics) and one.metrics  # as text, in which NaN is equal
    for name, evaluation in one.evaluations.items():
        found = four.evaluations[name]
        assert evaluation.ids.tolist() == found.ids.tolist()
        assert bits(evaluation.per_client) == bits(found.per_client)
    # Either run may go on with the data of the other: then equal data have equal digests.
    there = spec.fingerprint()
    other.compare_with(there["clients"])
    assert other.fingerprint() == there
    assert other.examples() == spec.examples()


def stop(report):
    if report.round == 2:
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("first", "second"), [("one.arrow", "four"), ("four", "one.arrow"), ("four", "four")]
)
def test_a_run_goes_on_with_the_same_clients_elsewhere(home, first, second):
    out = f"from-{first}-to-{second}"
    assert trained(home, first, "movielens", out, [stop])[1].interrupted
    _, resumed = trained(home, second, "movielens", out)
    assert resumed.resumed_from == 2
    assert bits(resumed.global_params) == bits(trained(home, "one.arrow", "movielens")[1].global_params)
    write_shards(home / f"{out}-other", ratings(seed=1), 4)
    with pytest.raises(RunError, match="the training clients"):
        trained(home, f"{out}-other", "movielens", out)


@pytest.fixture(scope="module")
def runs(home):
    for data in ("one.arrow", "four"):
        trained(home, data, "movielens", f"run-{data}")
    return {data: home / f"run-{data}" for data in ("one.arrow", "four")}


def test_the_digests_of_a_folder_need_no_example(home, runs, monkeypatch):
    saved = [read_fingerprint(path)["clients"] for path in runs.values()]
    assert {len(x) for x in saved[0].values()} == {16}
    assert all(x.startswith("by-client:") for x in saved[1].values())
    config = configuration(home, "four", "movielens")
    spec = spec_of(config, task_of(config))

    def refuse(*_):
        raise AssertionError("an example was read")

    monkeypatch.setattr(shard_columns.ShardFiles, "column", refuse)
    assert spec.fingerprint()["clients"] == saved[1]


def test_evaluation_and_personalisation_take_either(home, runs):
    screen, tables = Console(file=io.StringIO()), []
    for path in runs.values():
        for data in ("one.arrow", "four"):
            config = configuration(home, data, "movielens")
            for wanted in (Wanted(), Wanted(top=3)):
                out = home / f"{path.name}-{data}-{wanted.top}.parquet"
                personalize_run(path, config, str(home / data), out, screen, wanted)
                tables.append(pyarrow.parquet.read_table(out).replace_schema_metadata(None))
    assert all(table.equals(tables[i % 2]) for i, table in enumerate(tables))
    assert tables[0]["client"].to_pylist() == list(range(40))
    for path in runs.values():
        found = [
            evaluate_run(path, configuration(home, data, "movielens"), None, screen)
            for data in ("one.arrow", "four")
        ]
        assert found[0].keys() == found[1].keys() and found[0]
        for one, four in zip(found[0].values(), found[1].values(), strict=True):
            assert one.ids.tolist() == four.ids.tolist()
            assert bits(one.per_client) == bits(four.per_client)
    kinds = comparability.warnings([Method(p.name, p, (Run(p),)) for p in runs.values()])
    assert any(
        "clients of a folder of shards and others, whose digests cannot be compared" in x for x in kinds
    )


def test_a_damaged_shard_ends_a_run_where_it_is_read(home, tmp_path, capsys):
    write_shards(tmp_path / "four", ratings(), 4)
    shard = tmp_path / "four" / "shard-00002-of-00004.arrow"
    content, column = shard.read_bytes(), Clients.open(shard).column("rating").tobytes()
    shard.write_bytes(content.replace(column, column[:-1] + bytes([column[-1] ^ 4])))
    with pytest.raises(DataError, match=r"shard-00002-of-00004.arrow: is damaged: some of field 'rating'"):
        trained(tmp_path, "four", "movielens")
    assert main(["check", str(tmp_path / "four"), str(home / "one.arrow")]) == 1
    lines = capsys.readouterr()
    assert f"damaged: {shard}: is damaged" in lines.out and lines.out.count("good: ") == 5
    assert "1 file of those checked must be put back" in lines.err
    shard.write_bytes(content)
    assert main(["check", str(tmp_path / "four")]) == 0
    assert "damaged: " not in capsys.readouterr().out
    shard.unlink()
    assert main(["check", str(tmp_path / "four")]) == 1
    assert f"{shard}: this shard is missing" in capsys.readouterr().out
    assert main(["check", str(tmp_path / "none")]) == 1


def test_commands_take_a_folder_for_ratings(home):
    assert holds_ratings(home / "four")
    config = configuration(home, "four", "movielens")
    assert config.data.describe_source() == "a client file"
