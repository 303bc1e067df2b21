"""Personalisation by Spark's `mapInArrow`, as docs/scaling.md shows it."""

import os
import shutil

import pyarrow as pa
import pytest
from tests.unit.experiment.serving.test_batches import home, table, together  # noqa: F401

import fedrecon as fr

pytest.importorskip("pyspark", reason="Spark is not installed: pip install pyspark")
if shutil.which("java") is None and not os.environ.get("JAVA_HOME"):
    pytest.skip("Spark needs a Java virtual machine, and there is none", allow_module_level=True)


# Spark starts its Java process by a fork, and warns of pandas 3, which this test does not use.
pytestmark = [
    pytest.mark.filterwarnings("ignore:os.fork"),
    pytest.mark.filterwarnings("ignore:PySpark does not yet fully support pandas"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def spark():
    from pyspark.sql import SparkSession

    settings = {
        "spark.ui.enabled": "false",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.sql.shuffle.partitions": "3",
        "spark.sql.execution.arrow.maxRecordsPerBatch": "7",
    }
    builder = SparkSession.builder.master("local[2]")
    for name, value in settings.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    yield session
    session.stop()


def rated(spark, table):  # noqa: F811
    """A row for each rating, as a table of Spark."""
    rows = [
        (client, item, float(rating), int(time))
        for client, *lists in zip(*(table[name].to_pylist() for name in table.column_names), strict=True)
        for item, rating, time in zip(*lists, strict=True)
    ]
    return spark.createDataFrame(rows, "client long, item long, rating double, time long").repartition(4)


@pytest.mark.parametrize("top", [6])
def test_spark_gives_what_one_call_gives(spark, home, table, top):  # noqa: F811
    from pyspark.sql.functions import array_sort, col, collect_list, struct

    personalize = fr.personalize_batches(home / "ranked", top=top)
    # Lists of a client are in the order of time, and of equal times in that of items.
    clients = (
        rated(spark, table)
        .groupBy("client")
        .agg(array_sort(collect_list(struct("time", "item", "rating"))).alias("rated"))
        .select("client", *(col(f"rated.{name}").alias(name) for name in ("item", "rating", "time")))
    )
    schema = "client long, item array<long>, score array<float>"
    if top is None:
        schema = ", ".join(
            f"`{name}` {'long' if name == 'client' else 'array<float>'}" for name in names(personalize)
        )
    found = clients.mapInArrow(personalize, schema).orderBy("client").collect()
    ordered = [
        sorted(zip(*lists, strict=True), key=lambda x: (x[2], x[0]))
        for lists in zip(*(table[name].to_pylist() for name in ("item", "rating", "time")), strict=True)
    ]
    columns = {
        name: [[x[i] for x in rows] for rows in ordered] for i, name in enumerate(("item", "rating", "time"))
    }
    whole = pa.table({"client": table["client"], **columns}, table.schema)
    expected = together(personalize, whole.combine_chunks().to_batches())
    assert [tuple(row) for row in found] == [tuple(row.values()) for row in expected.to_pylist()]


def names(personalize):
    return personalize.schema(pa.int64()).names
