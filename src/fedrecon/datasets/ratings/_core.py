"""The k-core of ratings in a database: the most clients and items of which each has enough of the others."""

from typing import TYPE_CHECKING

from fedrecon.errors import DataError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


def keep_core(connection: "DuckDBPyConnection", least: int, *, repeats: bool) -> int:
    """Leaves out clients and items with fewer ratings than a number, until there are none.

    Args:
        connection: The database, with the table `ratings`.
        least: The number of ratings that each client and each item that is left must have.
        repeats: Whether several ratings of an item by a client count each; otherwise they count once.

    Returns:
        The number of ratings that are left.

    Raises:
        DataError: None is left.
    """
    while True:
        gone = 0
        # In either order the same ratings are left: the core is the largest set in which all have enough.
        for role, other in (("client", "item"), ("item", "client")):
            counted = "count(*)" if repeats else f"count(DISTINCT {other})"
            few = f"SELECT {role} FROM ratings GROUP BY {role} HAVING {counted} < {least}"
            deleted = connection.execute(f"DELETE FROM ratings WHERE {role} IN ({few})").fetchone()
            gone += deleted[0] if deleted else 0
        if not gone:
            break
    (left,) = connection.sql("SELECT count(*) FROM ratings").fetchall()[0]
    if not left:
        raise DataError(f"core must leave a rating, no clients and items have {least} of each other")
    return int(left)
