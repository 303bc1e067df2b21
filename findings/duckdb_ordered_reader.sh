#!/usr/bin/env bash
# With `preserve_insertion_order = false`, which DuckDB's documentation recommends for data larger than memory, the order
# that `ORDER BY` asks for is kept by `fetchall()` and by `connection.sql(query).to_arrow_reader()`, but not by
# `connection.execute(query).to_arrow_reader()`: its batches arrive in another order.
#
# Who meets it: who sorts ratings by user and streams them to make clients of them. A client is then cut in two.
# Instead: `connection.sql(query).to_arrow_reader()`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet duckdb==2.0.1 pyarrow==26.0.1

cat > "$folder/show.py" <<'PYTHON'
import warnings

import duckdb
import pyarrow

# It says that the call below makes a copy of the rows, and names the other one; it does not mention the order.
warnings.filterwarnings("ignore", "Arrow output on a DB-API result")
print("duckdb", duckdb.__version__, "pyarrow", pyarrow.__version__)
connection = duckdb.connect()
connection.execute("SET threads = 2")
connection.execute("CREATE TABLE ratings AS SELECT hash(i) % 1000000 AS user_id FROM range(2000000) t(i)")
query = "SELECT user_id FROM ratings ORDER BY user_id"


def is_sorted(reader):
    values = [x for batch in reader for x in batch.column(0).to_pylist()]
    assert len(values) == 2_000_000
    return all(a <= b for a, b in zip(values, values[1:]))


print("expected: sorted in every case")
for preserve in ("true", "false"):
    connection.execute(f"SET preserve_insertion_order = {preserve}")
    print(f"preserve_insertion_order = {preserve}")
    print("  sql(query).to_arrow_reader() sorted:", is_sorted(connection.sql(query).to_arrow_reader()))
    # One reading may happen to be in order: ten of them are not.
    every = all(is_sorted(connection.execute(query).to_arrow_reader()) for _ in range(10))
    print("  execute(query).to_arrow_reader() sorted:", every)
PYTHON

cat > "$folder/expected" <<'TEXT'
duckdb 2.0.1 pyarrow 26.0.1
expected: sorted in every case
preserve_insertion_order = true
  sql(query).to_arrow_reader() sorted: True
  execute(query).to_arrow_reader() sorted: True
preserve_insertion_order = false
  sql(query).to_arrow_reader() sorted: True
  execute(query).to_arrow_reader() sorted: False
TEXT

"$folder/venv/bin/python" "$folder/show.py" | tee "$folder/seen"
diff "$folder/expected" "$folder/seen" || { echo "The output has changed." >&2; exit 1; }
