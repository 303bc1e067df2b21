"""What a personalisation writes of each client, in a file or in record batches."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from fedrecon.algorithms._base import Algorithm, ServerState
from fedrecon.data._arrow_bridge import to_arrow, to_lists
from fedrecon.data._columns import offsets_of
from fedrecon.experiment.settings.sections import SettingError
from fedrecon.serving._personalization import TopK


class Wanted(NamedTuple):
    """The options of a personalisation, which decide what is written of each client.

    Attributes:
        top: The number of items to recommend; None, the default, to write the local parameters.
        field: The field that names items; None, the default, for the only one that has original ids.
        seen: Whether items that a client has may be recommended; False by default.
    """

    top: int | None = None
    field: str | None = None
    seen: bool = False


def top_of(wanted: Wanted, vocabularies: Mapping[str, Any]) -> TopK | None:
    """The recommendation that is wanted; None for local parameters.

    Args:
        wanted: The options of the personalisation.
        vocabularies: The original ids of the run's fields.

    Raises:
        SettingError: The field is unclear or unknown, or there are fewer items.
    """
    if wanted.top is None:
        return None
    field = wanted.field
    if field is None:
        if len(vocabularies) != 1:
            raise SettingError(
                "--field must name the field of the items: the run knows original ids of "
                f"{sorted(vocabularies)}"
            )
        (field,) = vocabularies
    if field not in vocabularies:
        raise SettingError(
            f"--field must be one of {sorted(vocabularies)}, of which the run knows ids, got {field!r}"
        )
    try:
        return TopK(wanted.top, field, len(vocabularies[field]), wanted.seen)
    except ValueError as error:
        rule = str(error).removeprefix("count ")
        raise SettingError(f"--top {rule}") from None


def local_leaves(algorithm: Algorithm, state: ServerState) -> Any:
    """A client's local parameters as shapes and types.

    Raises:
        SettingError: There are none.
    """
    local = jax.eval_shape(algorithm.personal_model.init_local, state.global_params, jax.random.key(0))
    if not jax.tree.leaves(local):
        raise SettingError("the run's model has no local parameters to write; --top K writes recommendations")
    return local


def local_bytes(algorithm: Algorithm, state: ServerState) -> int:
    """The bytes of a client's local parameters.

    Raises:
        SettingError: There are none.
    """
    leaves = jax.tree.leaves(local_leaves(algorithm, state))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def table_of(
    ids: np.ndarray, results: Mapping[str, np.ndarray], top: TopK | None, vocabularies: Mapping[str, Any]
) -> Any:
    """The Arrow table of some clients: a row for each, with its id and its results.

    Args:
        ids: The clients' names, `[client]`.
        results: What `Personalization` returned for them.
        top: The recommendation that was made; None for local parameters.
        vocabularies: The original ids of the run's fields.
    """
    import pyarrow as pa

    columns = {"client": to_arrow(ids)}
    if top is None:
        return pa.table(columns | {name: to_arrow(values) for name, values in results.items()})
    # Items that may not be recommended have the score minus infinity.
    allowed = results["score"] > -np.inf
    ids = np.asarray(vocabularies[top.field])
    ids = ids.astype(object) if ids.dtype.kind == "U" else ids
    offsets = offsets_of(allowed.sum(axis=1))
    columns[top.field] = to_lists(ids[results[top.field][allowed]], offsets)
    columns["score"] = to_lists(results["score"][allowed], offsets)
    return pa.table(columns)
