"""What a node reads, and what its clients keep."""

import sqlite3
import stat

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedrecon.data._clients import Clients
from fedrecon.deployment._store import Store, read_clients
from fedrecon.errors import DataError

ROWS = {"user": ["ann", "ann", "bob"], "item": [30, 10, 20], "rating": [4.0, 5.0, 1.0]}
KNOWN = {"item": np.array([10, 20, 30, 40])}


def sqlite(path, rows=ROWS, table="ratings"):
    with sqlite3.connect(path) as database:
        database.execute(f"create table {table} ({', '.join(rows)})")
        marks = ", ".join("?" * len(rows))
        database.executemany(f"insert into {table} values ({marks})", zip(*rows.values(), strict=True))
    database.close()
    return path


def parquet(path, rows=ROWS):
    pq.write_table(pa.table(rows), path)
    return path


def arrow(path):
    Clients.from_table(pa.table(ROWS), "user").write(path)
    return path


@pytest.mark.parametrize(("make", "name"), [(sqlite, "r.sqlite"), (parquet, "r.parquet"), (arrow, "r.arrow")])
def test_every_kind_of_file_is_read_and_left_as_it_is(tmp_path, make, name):
    path = make(tmp_path / name)
    before = path.read_bytes()
    clients = read_clients(path, client="user", vocabularies=KNOWN)
    assert clients.ids.tolist() == ["ann", "bob"]
    assert clients["ann"]["item"].tolist() == [2, 0]
    assert clients["bob"]["rating"].tolist() == [1.0]
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == [name]


@pytest.mark.parametrize(("make", "name"), [(sqlite, "r.db"), (parquet, "r.parquet")])
def test_file_of_one_client_needs_no_column_for_it(tmp_path, make, name):
    rows = {key: ROWS[key] for key in ("item", "rating")}
    clients = read_clients(make(tmp_path / name, rows), name="hospital 3")
    assert clients.ids.tolist() == ["hospital 3"]
    assert clients["hospital 3"]["item"].tolist() == [30, 10, 20]


def test_items_that_the_run_does_not_know_are_left_out(tmp_path):
    clients = read_clients(
        parquet(tmp_path / "r.parquet"), client="user", vocabularies={"item": np.array([10, 20])}
    )
    assert clients["ann"]["item"].tolist() == [0]


def test_clients_of_a_node_draw_as_those_of_the_simulation(tmp_path):
    """One odd name makes all of a column texts, of which "7" is the integer still."""
    path = parquet(tmp_path / "r.parquet", {"user": ["7", "7", "ann"], "item": [5, 9, 5]})
    whole = Clients.from_parquet(path, "user")
    node = read_clients(path, client="user", vocabularies={"item": np.array([5, 9])})
    assert node.keys.tolist() == whole.keys.tolist()


def test_statement_selects(tmp_path):
    path = sqlite(tmp_path / "r.sqlite")
    sqlite(path, table="other")
    with pytest.raises(DataError, match=r"query must say .* \['other', 'ratings'\]"):
        read_clients(path, client="user")
    query = "select user, item, rating from ratings where user = 'bob'"
    assert read_clients(path, client="user", query=query).ids.tolist() == ["bob"]
    with pytest.raises(DataError, match="cannot be read"):
        read_clients(path, client="user", query="delete from ratings")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.arrow", None, "no such file"),
        ("r.csv", b"", "with the ending"),
        ("r.sqlite", b"no database at all", "cannot be read"),
    ],
)
def test_unusable_file_is_named(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=f"{name}: .*{message}"):
        read_clients(path)


def test_name_beside_a_column_is_refused(tmp_path):
    with pytest.raises(DataError, match="must not be given"):
        read_clients(parquet(tmp_path / "r.parquet"), client="user", name="one")


@pytest.fixture
def store(tmp_path):
    found = Store(Clients.from_table(pa.table(ROWS), "user"), tmp_path / "node")
    yield found
    found.close()


def states(store, rounds=range(9)):
    found = {round: store.state("run", "ann", round) for round in rounds}
    return {round: data for round, data in found.items() if data is not None}


def test_state_is_that_after_a_round(store):
    store.put_state("run", "ann", 2, b"2")
    assert states(store) == {2: b"2"}
    assert store.state("run", "bob", 2) is None
    assert store.state("other", "ann", 2) is None


def test_state_that_was_counted_stays_until_another_one_is(store):
    store.put_state("run", "ann", 0, b"0")
    store.put_state("run", "ann", 2, b"lost", counted=0)
    store.put_state("run", "ann", 3, b"3", counted=0)
    assert states(store) == {0: b"0", 3: b"3"}
    store.put_state("run", "ann", 3, b"again", counted=0)
    store.put_state("run", "ann", 5, b"5", counted=3)
    assert states(store) == {3: b"again", 5: b"5"}


def test_state_of_the_checkpoint_stays(store):
    store.put_state("run", "ann", 0, b"0")
    store.put_state("run", "ann", 2, b"2", counted=0, durable=0)
    store.put_state("run", "ann", 3, b"3", counted=2, durable=0)
    assert states(store) == {0: b"0", 2: b"2", 3: b"3"}


def test_states_and_pseudonyms_outlive_the_process(tmp_path, store):
    store.put_state("run", "ann", 0, b"kept")
    again = Store(store.clients, tmp_path / "node")
    assert again.state("run", "ann", 0) == b"kept"
    assert again.pseudonym("ann") == store.pseudonym("ann") != store.pseudonym("bob")
    again.close()
    other = Store(store.clients, tmp_path / "elsewhere")
    assert other.pseudonym("ann") != store.pseudonym("ann")
    other.close()
    key = tmp_path / "node" / "pseudonyms.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
