"""Runs an exported file in Python as a device does, for servers, tests and comparisons."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from fedrecon.algorithms._base import Broadcast, Update
from fedrecon.export._check import session_of
from fedrecon.export._extra import require
from fedrecon.export._folder import DESCRIPTION, FORMAT, MODEL, VOCABULARIES
from fedrecon.export._graph.program import ExportError
from fedrecon.export._updates import Updates, check_input

Fields = Mapping[str, Any]


class Session:
    """An export in ONNX Runtime, whose files are checked against the description.

    Attributes:
        description: The content of `model.json`.
        digest: SHA-256 of `model.json` in hexadecimal, by which an export can be pinned.
        vocabularies: The ids that the row numbers of a field stand for, for the fields that have ids.
        runtime: The `InferenceSession` of ONNX Runtime.

    Args:
        folder: The folder of the export.
        threads: Number of threads that share one operation; 1 by default.

    Raises:
        ExportError: A file is missing, or is not the one that the description names.
    """

    def __init__(self, folder: str | Path, *, threads: int = 1):
        require("onnxruntime")
        self.folder = Path(folder)
        text = _read(self.folder / DESCRIPTION)
        self.digest = hashlib.sha256(text).hexdigest()
        self.description: dict[str, Any] = read_description(self.folder / DESCRIPTION, text)
        names = [entry["name"] for entry in self.description["files"]]
        if MODEL not in names:
            raise ExportError(
                f"{self.folder}: must be an export with {MODEL}, it has {names[0]}, which jax.export reads"
            )
        for entry in self.description["files"]:
            _check_file(self.folder / entry["name"], entry)
        path = self.folder / VOCABULARIES
        self.vocabularies: dict[str, list[Any]] = json.loads(_read(path)) if path.exists() else {}
        self._inputs = {entry["name"]: entry for entry in self.description["inputs"]}
        self._outputs = {entry["name"]: entry for entry in self.description["outputs"]}
        self.runtime = session_of(str(self.folder / MODEL), threads)
        self._updates: Updates | None = None

    @property
    def support_max(self) -> int:
        """The largest number of support examples that the export takes."""
        return int(self.description["support_max"])

    def __call__(self, support: Fields, **others: Any) -> dict[str, np.ndarray]:
        """Runs the file and returns all of its outputs by their names.

        Args:
            support: The user's support examples: an array `[example, ...]` for each field; an empty mapping
                for a user without examples.
            others: The file's other inputs by name: `exclude`, `start` or `query_…`; those that are left out
                are given as empty arrays.

        Raises:
            ExportError: An input is missing, unknown, too long or outside of its range.
        """
        given = self._given(support, others)
        names = list(self._outputs)
        return dict(zip(names, self.runtime.run(names, given), strict=True))

    def personalize(self, support: Fields, start: Any = None) -> dict[str, np.ndarray]:
        """The user's local parameters, by their paths.

        Args:
            support: The user's support examples: an array `[example, ...]` for each field.
            start: The user's earlier state as the output `local` gives it, for a stateful algorithm; None,
                the default, for a user without one.
        """
        return self._leaves(self(support, **({} if start is None else {"start": start}))["local"])

    def predict(self, support: Fields, query: Fields, start: Any = None) -> Float[np.ndarray, "query *rest"]:
        """Predictions for given features.

        Args:
            support: The user's support examples: an array `[example, ...]` for each field.
            query: The features to predict for, `[query, ...]`: rows of items, or the fields that the model's
                `predict` takes.
            start: The user's earlier state, as for `personalize`; None, the default, for a user without one.
        """
        more = {} if start is None else {"start": start}
        wanted = {name for name in self._inputs if name.startswith("query_")}
        if wanted:
            others = {f"query_{name}": x for name, x in query.items() if f"query_{name}" in wanted}
            return self(support, **others, **more)["prediction"]
        field = self._item
        if field not in query:
            raise ExportError(f"query must hold the field {field!r}, it holds {sorted(query)}")
        items = self._check(field, query[field])
        prediction: np.ndarray = self(support, **more)["prediction"][items]
        return prediction

    def top(
        self, support: Fields, exclude: Any = None, start: Any = None
    ) -> tuple[Int[np.ndarray, "rank"], Float[np.ndarray, "rank"]]:
        """The rows of the items with the highest scores, best first, and their scores.

        Args:
            support: The user's support examples: an array `[example, ...]` for each field.
            exclude: Rows of the items to leave out; None, the default, to leave out those of the support set.
            start: The user's earlier state, as for `personalize`; None, the default, for a user without one.

        Raises:
            ExportError: The export recommends nothing.
        """
        if "top_item" not in self._outputs:
            raise ExportError(
                "this export predicts for given features, and has no list of items to recommend"
            )
        field = self._item
        rated = support.get(field, np.zeros(0, np.int32)) if exclude is None else exclude
        more = {} if start is None else {"start": start}
        outputs = self(support, exclude=np.asarray(rated, np.int32).reshape(-1), **more)
        there = outputs["top_score"] > -np.inf
        return outputs["top_item"][there], outputs["top_score"][there]

    def update(self, broadcast: Broadcast, examples: Fields, key: Any = (0, 0), start: Any = None) -> Update:
        """A client's part of a round of training, by `update.onnx`.

        Args:
            broadcast: The round's broadcast with whole tables, of which the rows of the client's examples
                are used.
            examples: The client's examples: an array `[example, ...]` for each field.
            key: The two 32-bit numbers of the client's random key in this round; `(0, 0)` by default.
            start: The client's state for a stateful algorithm, as the output `state` of the file gives it;
                None, the default, for a client without one.

        Returns:
            The client's update. A table's delta has the rows that the update's `rows` names, which are those
            of the client's examples.

        Raises:
            ExportError: The export has no `update.onnx`, or an input does not fit it.
        """
        if self._updates is None:
            self._updates = Updates(self.folder)
        return self._updates(broadcast, examples, key, start)

    @property
    def _item(self) -> str:
        """The field of the items that are recommended."""
        return next(name for name, x in self._inputs.items() if x.get("items"))

    def _leaves(self, flat: Float[np.ndarray, "number"]) -> dict[str, np.ndarray]:
        leaves, start = {}, 0
        for entry in self._outputs["local"]["leaves"]:
            size = int(np.prod(entry["shape"], dtype=np.int64))
            leaves[entry["path"]] = flat[start : start + size].reshape(entry["shape"])
            start += size
        return leaves

    def _given(self, support: Fields, others: Fields) -> dict[str, np.ndarray]:
        names = [
            n for n in self._inputs if n not in ("mask", "exclude", "start") and not n.startswith("query_")
        ]
        known = {*self._inputs} - {"mask"} - set(names)
        for name in others:
            if name not in known:
                raise ExportError(f"{name}: the export has no such input, it has {sorted(self._inputs)}")
        if support and set(support) < set(names):
            missing = sorted(set(names) - set(support))
            raise ExportError(f"support must hold the fields {names}, it lacks {missing}")
        size = len(next(iter(support.values()))) if support else 0
        if size > self.support_max:
            raise ExportError(f"support must have at most {self.support_max} examples, got {size}")
        given = {}
        for name, entry in self._inputs.items():
            if name == "mask":
                given[name] = np.ones(size, bool)
            elif name in names and support:
                given[name] = self._check(name, support[name])
                if len(given[name]) != size:
                    raise ExportError(
                        f"support: all fields must be as long, got {size} and {len(given[name])} of {name!r}"
                    )
            elif name in others:
                given[name] = self._check(name, others[name])
            else:
                shape = [d if isinstance(d, int) else 0 for d in entry["shape"]]
                given[name] = np.zeros(shape, entry["dtype"])
        return given

    def _check(self, name: str, x: Any) -> np.ndarray:
        return check_input(self._inputs[name], x)


def read_description(path: Path, text: bytes) -> dict[str, Any]:
    """The content of a description.

    Raises:
        ExportError: The text is not a description, or one of another format.
    """
    try:
        description: dict[str, Any] = json.loads(text)
        form = description["format"]
    except (ValueError, KeyError, TypeError):
        raise ExportError(f"{path}: must be the description of an export, it is none") from None
    if form != FORMAT:
        raise ExportError(f"{path}: must be of format {FORMAT}, got {form!r}: export it again")
    return description


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ExportError(f"{path}: cannot be read: {error.strerror}") from None


def _check_file(path: Path, entry: Mapping[str, Any]) -> None:
    content = _read(path)
    if len(content) != entry["bytes"]:
        raise ExportError(
            f"{path}: must have {entry['bytes']:,} bytes, it has {len(content):,}: it is cut off"
        )
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise ExportError(f"{path}: is not the file that {DESCRIPTION} names: it was changed")
