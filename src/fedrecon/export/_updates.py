"""Computes a client's part of a round with an exported file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fedrecon.algorithms._base import Broadcast, Update
from fedrecon.core._mean import Mean
from fedrecon.core._model import leaves_of, path_of
from fedrecon.export._check import session_of
from fedrecon.export._folder import UPDATE, UPDATE_DESCRIPTION
from fedrecon.export._graph.program import ExportError


class Updates:
    """`update.onnx` in ONNX Runtime.

    Args:
        folder: The folder of the export.

    Raises:
        ExportError: The export has no `update.onnx`.
    """

    def __init__(self, folder: Path):
        if not (folder / UPDATE).exists():
            raise ExportError(f"{folder}: has no {UPDATE}: export it with --with update")
        self._description = json.loads((folder / UPDATE_DESCRIPTION).read_text(encoding="utf-8"))
        self._inputs = {entry["name"]: entry for entry in self._description["inputs"]}
        self._session = session_of(str(folder / UPDATE))

    def __call__(
        self, broadcast: Broadcast, examples: Mapping[str, Any], key: Any, start: Any = None
    ) -> Update:
        """A client's update; `Session.update` describes the arguments."""
        fields = [
            name for name in self._inputs if self._inputs[name]["shape"][:1] == ["n"] and name != "mask"
        ]
        if set(examples) < set(fields):
            raise ExportError(f"examples must hold the fields {fields}, they hold {sorted(examples)}")
        given = {name: check_input(self._inputs[name], examples[name]) for name in fields}
        size, most = len(next(iter(given.values()))), self._description["examples_max"]
        if size > most or any(len(x) != size for x in given.values()):
            raise ExportError(f"examples must be at most {most}, of every field as many, got {size}")
        leaves = {path: np.asarray(x) for path, x in leaves_of(broadcast.global_params).items()}
        lengths = {name: self._inputs[name].get("rows") for name in fields}
        asked: dict[str, np.ndarray] = {}
        for length in {x for x in lengths.values() if x is not None}:
            indexed = [name for name in fields if lengths[name] == length]
            ids = np.unique(np.concatenate([given[name].reshape(-1) for name in indexed]))
            for name in indexed:
                given[name] = np.searchsorted(ids, given[name]).astype(given[name].dtype)
            asked[length] = ids.astype(np.int32)
        rows: dict[str, np.ndarray] = {}
        for path, leaf in leaves.items():
            entry = self._inputs[f"global/{path}"]
            if entry["shape"][:1] and entry["shape"][0] in asked:
                rows[path] = asked[entry["shape"][0]]
                leaf = check_input({**entry, "shape": ["r", *entry["shape"][1:]]}, leaf)[rows[path]]
            given[entry["name"]] = check_input(entry, leaf)
        given |= {"mask": np.ones(size, bool), "key": np.asarray(key, np.uint32)}
        given["round"] = np.asarray(broadcast.round, np.int32)
        if "start" in self._inputs:
            given["start"] = np.asarray([] if start is None else start, np.float32)
        names = [entry["name"] for entry in self._description["outputs"]]
        readable = {one.name for one in self._session.get_inputs()}
        arrays = {name: x for name, x in given.items() if name in readable}
        outputs = dict(zip(names, self._session.run(names, arrays), strict=True))
        total = jax.tree_util.tree_map_with_path(
            lambda path, _: outputs[f"delta/{path_of(path)}"], broadcast.global_params
        )
        return Update(Mean(total, outputs["weight"]), rows, {})


def check_input(entry: Mapping[str, Any], x: Any) -> np.ndarray:
    """An input in the type that the file takes, checked against its shape and range.

    Args:
        entry: The input's entry of the description: `name`, `shape`, `dtype` and, where it has one, `range`.
        x: The array that the caller gives.

    Raises:
        ExportError: The array has another shape, a number outside of the range, or a fraction where the file
            takes whole numbers.
    """
    array, name, shape = np.asarray(x), entry["name"], entry["shape"]
    fits = array.ndim == len(shape) and all(
        isinstance(d, str) or d == size for d, size in zip(shape, array.shape, strict=True)
    )
    if not fits:
        shown = f"({', '.join(str(d) for d in shape)}{',' if len(shape) == 1 else ''})"
        raise ExportError(f"{name} must be of shape {shown}, got {array.shape}")
    whole = np.dtype(entry["dtype"]).kind == "i"
    if whole and array.size and not np.array_equal(array, np.round(array.astype(np.float64))):
        raise ExportError(f"{name} must hold whole numbers, got {array.reshape(-1)[0].item()!r}")
    if "range" in entry and array.size:
        low, high = entry["range"]
        wrong = ~((array >= low) & (array <= high))
        if wrong.any():
            number = array[wrong].reshape(-1)[0]
            raise ExportError(f"{name} must hold numbers from {low} to {high}, got {number}")
    return array.astype(entry["dtype"])
