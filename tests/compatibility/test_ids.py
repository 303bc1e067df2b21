"""Columns of integers, of decimals alone and of other texts alone give what commit fbc829d gave.

`MEASURED` was made by that commit: `measure` of this file, run there with the modules' names of then. It
covers the order of the clients and items, the cut into sets, the order within clients, and the digests by
which runs know their data again.
"""

import hashlib
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedrecon.data._clients import Clients
from fedrecon.datasets.ratings._prepare import prepare
from fedrecon.experiment.training.run_spec import digest, ids_digest

COLUMNS = {"client": "user", "item": "item", "rating": "stars", "time": "when"}


def rows(kind):
    random = np.random.default_rng(3)
    users = np.sort(random.choice(5000, 30, replace=False)) - 900
    users[:2] = -(2**63), 2**63 - 1
    items = random.choice(10**6, 40, replace=False)
    owner, item = np.repeat(users, 10), np.concatenate([random.permutation(items)[:10] for _ in users])
    order = random.permutation(len(owner))
    names = {"integers": (owner, item), "texts": ([f"u{x}" for x in owner], [f"{x:07}" for x in item])}
    user, thing = (np.asarray(x)[order] for x in names["texts" if kind == "texts" else "integers"])
    stars = random.integers(1, 6, len(order))
    return {"user": user, "item": thing, "stars": stars, "when": 10**9 + random.permutation(len(order))}


def source(kind, folder):
    table, path = rows(kind.split()[0]), folder / "ratings.csv"
    if "frame" in kind:
        return Clients.from_table(pd.DataFrame(table), client="user")
    if "parquet" in kind:
        path = folder / "ratings.parquet"
        pq.write_table(pa.table({name: x.tolist() for name, x in table.items()}), path)
    else:
        lines = [",".join(table), *(",".join(map(str, row)) for row in zip(*table.values(), strict=True))]
        path.write_text("\n".join(lines) + "\n")
    return prepare(path, columns=COLUMNS, cache=folder / "cache")


def short(values):
    return hashlib.blake2b(json.dumps(values).encode(), digest_size=8).hexdigest()


def measure(clients):
    sets = clients.shuffled(5).split({"train": 0.8, "test": 0.2}, 5)
    own = {name: {str(i): x[i]["item"].tolist() for i in x.ids.tolist()} for name, x in sets.items()}
    kind = "str" if clients.ids.dtype == object else "int"
    return {
        "ids": short([kind, clients.ids.tolist()]),
        "keys": short(clients.keys.tolist()),
        "sets": short(own),
        "vocabularies": ids_digest(clients.vocabularies),
        "digest": digest(clients),
        "test digest": digest(sets["test"]),
    }


MEASURED = {
    "integers csv": {
        "ids": "3d807f5f118637b4",
        "keys": "76712077794e7ff0",
        "sets": "9afd39db9c2e0e6b",
        "vocabularies": "c60b5f50108a5b66",
        "digest": "f3a64c507d18631f",
        "test digest": "9958f585f278d1b1",
    },
    "integers parquet": {
        "ids": "3d807f5f118637b4",
        "keys": "76712077794e7ff0",
        "sets": "9afd39db9c2e0e6b",
        "vocabularies": "c60b5f50108a5b66",
        "digest": "f3a64c507d18631f",
        "test digest": "9958f585f278d1b1",
    },
    "integers frame": {
        "ids": "3d807f5f118637b4",
        "keys": "76712077794e7ff0",
        "sets": "b0de9e8b4683e3aa",
        "vocabularies": "01e7b720ff566d53",
        "digest": "c6109f8bfd4ed28d",
        "test digest": "42a785e5e5a585ff",
    },
    "texts csv": {
        "ids": "010e8031e9c1058f",
        "keys": "9451b91f76729451",
        "sets": "c8102e6ee0264677",
        "vocabularies": "6b1a6e9be65d7553",
        "digest": "d998ce128110c697",
        "test digest": "b8836ac971e3c648",
    },
    "texts parquet": {
        "ids": "010e8031e9c1058f",
        "keys": "9451b91f76729451",
        "sets": "c8102e6ee0264677",
        "vocabularies": "6b1a6e9be65d7553",
        "digest": "d998ce128110c697",
        "test digest": "b8836ac971e3c648",
    },
    "texts frame": {
        "ids": "010e8031e9c1058f",
        "keys": "9451b91f76729451",
        "sets": "ca1272eb7cc3296d",
        "vocabularies": "4921edf6171ba67f",
        "digest": "46b42b2699533310",
        "test digest": "fa25c49d5edf64de",
    },
}


@pytest.mark.parametrize("kind", MEASURED)
def test_ids_order_cuts_and_digests_are_those_of_before(kind, tmp_path):
    assert measure(source(kind, tmp_path)) == MEASURED[kind]
