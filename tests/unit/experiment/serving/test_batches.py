"""Clients in Arrow record batches are personalised alike, whatever batches they come in."""

import io
import pickle
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from rich.console import Console

import fedrecon as fr
from fedrecon.datasets.ratings._prepare import prepare
from fedrecon.errors import DataError, RunError
from fedrecon.experiment.config import load_saved, resolve
from fedrecon.experiment.serving.batches import _open
from fedrecon.experiment.serving.personalize import personalize_run
from fedrecon.experiment.serving.wanted import Wanted
from fedrecon.experiment.settings.sections import SettingError
from fedrecon.experiment.training.run_experiment import run_experiment

ITEMS, USERS = 40, 90
COLUMNS = {"client": "user", "item": "film", "rating": "stars", "time": "when"}


def written(path, users, seed):
    """Ratings of films whose ids are multiples of seven."""
    rng = np.random.default_rng(seed)
    lines = ["user,film,stars,when"]
    for user in users:
        items = 7 * rng.permutation(ITEMS)[: rng.integers(1, ITEMS)]
        lines += [f"{user},{item},{rng.integers(1, 6)},{rng.integers(0, 2**33)}" for item in items]
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("batches")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setattr("fedrecon.experiment.reporting.plots.write", lambda *_: [])
        written(folder / "ratings.csv", range(30), 0)
        written(folder / "new.csv", range(100, 100 + USERS), 1)
        for name, settings in {
            "newton": {"task": "movielens", "algorithm": {"reconstruct": {"kind": "newton"}}},
            "steps": {"task": "movielens"},
            "ranked": {
                "task": "ranking",
                "algorithm": {"split": {"name": "none"}},
                "data": {"protocol": {"name": "leave_one_out", "sampled": 3, "k": [2]}},
            },
        }.items():
            run(folder, name, settings)
        yield folder


def run(folder, name, settings, rounds=2):
    data = {"path": str(folder / "ratings.csv"), "columns": COLUMNS, **settings.get("data", {})}
    training = {"rounds": rounds, "clients_per_round": 5}
    common = {"data": data, "model": {"factors": 5}, "training": training}
    run_experiment(resolve({**settings, **common}, "test"), folder / name, Console(file=io.StringIO()))


@pytest.fixture(scope="module")
def table(home):
    """The new users, a row for each, with the ids of the file; the same in a client file."""
    clients = prepare(home / "new.csv", columns=COLUMNS, cache=home / "cache")
    clients.write(home / "new.arrow")
    names = clients.vocabularies["item"]
    rows = [clients[client] for client in clients.ids.tolist()]
    return pa.table(
        {
            "client": clients.ids.tolist(),
            "item": [names[x["item"]].tolist() for x in rows],
            "rating": [x["rating"].tolist() for x in rows],
            "time": [x["time"].tolist() for x in rows],
        },
        pa.schema(
            [
                ("client", pa.int64()),
                ("item", pa.list_(pa.int64())),
                ("rating", pa.list_(pa.float64())),
                ("time", pa.list_(pa.int64())),
            ]
        ),
    )


def together(personalize, batches):
    results = list(personalize(iter(batches)))
    assert [len(x) for x in results] == [len(x) for x in batches]
    return pa.Table.from_batches(results)


@pytest.mark.parametrize("name", ["newton", "steps", "ranked"])
@pytest.mark.parametrize("top", [None, 6])
def test_neighbours_change_no_bit(home, table, name, top):
    personalize = fr.personalize_batches(home / name, top=top)
    whole = together(personalize, table.combine_chunks().to_batches())
    assert whole.schema == personalize.schema(pa.int64())
    for seed in range(3):
        rng = np.random.default_rng(seed)
        order = rng.permutation(USERS)
        cuts = np.sort(rng.choice(USERS, 5))
        parts = [table.take(x).combine_chunks() for x in np.split(order, cuts)]
        batches = [x.to_batches()[0] if len(x) else empty(table) for x in parts]
        assert together(personalize, batches).combine_chunks() == whole.take(order).combine_chunks()


def empty(table):
    return pa.RecordBatch.from_pylist([], table.schema)


@pytest.mark.parametrize(("name", "top"), [("newton", None), ("steps", None), ("ranked", 6)])
def test_clients_get_what_the_command_writes(home, table, name, top):
    out = home / f"{name}-{top}.parquet"
    config = load_saved(home / name)
    screen = Console(file=io.StringIO())
    personalize_run(home / name, config, str(home / "new.arrow"), out, screen, Wanted(top=top))
    wanted = pyarrow.parquet.read_table(out)
    personalized = together(fr.personalize_batches(home / name, top=top), table.combine_chunks().to_batches())
    assert personalized.column_names == wanted.column_names
    for column in wanted.column_names:
        one, other = (x[column].to_pylist() for x in (personalized, wanted))
        if column in ("client", "item"):
            assert one == other
        else:
            for a, b in zip(one, other, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_unknown_items_are_left_out_without_regard_to_neighbours(home, table):
    """Where a batch has no known item at all, and where one more id makes texts of all."""
    personalize = fr.personalize_batches(home / "newton")
    whole = together(personalize, table.combine_chunks().to_batches())
    kinds = pa.schema(
        [("client", pa.string()), ("item", pa.list_(pa.string())), ("rating", pa.list_(pa.float32()))]
    )
    first = table.slice(0, 1).to_pylist()[0]
    known = {"client": "100", "item": [str(x) for x in first["item"]], "rating": first["rating"]}
    stranger = {"client": "x", "item": ["none", "007"], "rating": [1.0, 2.0]}
    alone = {}
    for rows in ([known], [stranger], [stranger, known]):
        (batch,) = personalize([pa.RecordBatch.from_pylist(rows, kinds)])
        for row in batch.to_pylist():
            assert alone.setdefault(row["client"], row) == row
    assert alone["100"]["user/factors"] == whole["user/factors"].to_pylist()[0]


def test_the_function_goes_to_other_processes(home, table, tmp_path):
    personalize = fr.personalize_batches(home / "newton", top=3)
    whole = together(personalize, table.combine_chunks().to_batches())
    (tmp_path / "function").write_bytes(pickle.dumps(personalize))
    pyarrow.parquet.write_table(table, tmp_path / "clients.parquet")
    program = (
        "import sys, pickle, pyarrow as pa, pyarrow.parquet as pq\n"
        "function = pickle.load(open(sys.argv[1] + '/function', 'rb'))\n"
        "rows = pq.read_table(sys.argv[1] + '/clients.parquet').slice(20, 30).combine_chunks().to_batches()\n"
        "pq.write_table(pa.Table.from_batches(list(function(rows))), sys.argv[1] + '/out.parquet')\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, timeout=120)
    assert pyarrow.parquet.read_table(tmp_path / "out.parquet") == whole.slice(20, 30)


def test_another_run_in_its_place_is_refused(home, table):
    run(home, "moved", {"task": "movielens"})
    personalize = fr.personalize_batches(home / "moved")
    (home / "moved").rename(home / "before")
    run(home, "moved", {"task": "movielens", "seed": 1})
    _open.cache_clear()
    with pytest.raises(RunError, match="must be the run for which the function was made"):
        list(personalize(table.to_batches()))


def test_what_cannot_be_served_is_named(home, table):
    personalize = fr.personalize_batches(home / "newton")
    for batch, message in (
        (table.drop_columns("client"), "column 'client', which names the client, is missing"),
        (table.drop_columns("item"), "column 'item', by which clients are served, is missing"),
        (table.drop_columns("rating"), "column 'rating', by which clients are served, is missing"),
        (table.set_column(2, "rating", [range(USERS)]), "a row must be a client, and column 'rating' hold"),
        (table.set_column(0, "client", [[1] * USERS]), "client ids must be unique"),
    ):
        with pytest.raises(DataError, match=message):
            list(personalize(batch.combine_chunks().to_batches()))
    short = fr.personalize_batches(home / "newton", lengths=[2, 5])
    with pytest.raises(DataError, match="blocks are laid out for at most 5 examples per client, got"):
        list(short(table.combine_chunks().to_batches()))
    with pytest.raises(RunError, match=r"nowhere: a run folder must have a config\.toml"):
        fr.personalize_batches(home / "nowhere")
    with pytest.raises(SettingError, match="top must be at most the 40 items, got 1000"):
        fr.personalize_batches(home / "newton", top=1000)
    for lengths in ([], [3, 3], [0], [5, 2]):
        with pytest.raises(ValueError, match="lengths must"):
            fr.personalize_batches(home / "newton", lengths=lengths)


def test_other_columns_and_layouts_are_read(home, table):
    personalize = fr.personalize_batches(home / "newton")
    whole = together(personalize, table.combine_chunks().to_batches())
    (batch,) = table.combine_chunks().to_batches()
    views = pa.RecordBatch.from_arrays(
        [
            batch["client"],
            batch["item"].cast(pa.large_list(pa.int32())),
            batch["rating"].cast(pa.list_(pa.float32())),
            pa.array([{"a": 1}] * USERS),
        ],
        names=["client", "item", "rating", "note"],
    )
    assert together(personalize, [views.slice(10, 20)]) == whole.slice(10, 20)
