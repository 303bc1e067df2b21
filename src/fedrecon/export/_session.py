"""An exported file in Python: what a device does, for tests, servers and whoever wants to compare."""

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
from fedrecon.export._updates import Updates, checked

Fields = Mapping[str, Any]


class Session:
    """An export, checked against its description, in ONNX Runtime.

    Attributes:
        description: The content of `model.json`.
        digest: SHA-256 of `model.json`, by which an export can be pinned.
        vocabularies: For fields whose numbers stand for something, what they stand for.
        runtime: ONNX Runtime's own session.

    Args:
        folder: Of the export.
        threads: That share one operation.

    Raises:
        ExportError: A file is missing, or is not the one that the description names.
    """

    def __init__(self, folder: str | Path, *, threads: int = 1):
        require("onnxruntime")
        self.folder = Path(folder)
        text = _read(self.folder / DESCRIPTION)
        self.digest = hashlib.sha256(text).hexdigest()
        self.description: dict[str, Any] = described(self.folder / DESCRIPTION, text)
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
        """Support examples at most."""
        return int(self.description["support_max"])

    def __call__(self, support: Fields, **others: Any) -> dict[str, np.ndarray]:
        """All outputs of the file.

        Args:
            support: The fields of the user's examples, `[example, ...]`; none of them for a user without any.
            others: Other inputs of the file: `exclude`, `start` or `query_…`; empty where they are left out.

        Raises:
            ExportError: An input is missing, unknown, too long or outside of its range.
        """
        given = self._given(support, others)
        names = list(self._outputs)
        return dict(zip(names, self.runtime.run(names, given), strict=True))

    def personalize(self, support: Fields, start: Any = None) -> dict[str, np.ndarray]:
        """The user's local parameters, by their paths.

        Args:
            support: See the call.
            start: For a stateful algorithm what the user kept, as the output `local` gives it; None for
                nothing.
        """
        return self._leaves(self(support, **({} if start is None else {"start": start}))["local"])

    def predict(self, support: Fields, query: Fields, start: Any = None) -> Float[np.ndarray, "query *rest"]:
        """Predictions for some features.

        Args:
            support: See the call.
            query: The features, `[query, ...]`: rows of items, or whatever the model's `predict` takes.
            start: See `personalize`.
        """
        more = {} if start is None else {"start": start}
        wanted = {name for name in self._inputs if name.startswith("query_")}
        if wanted:
            others = {f"query_{name}": x for name, x in query.items() if f"query_{name}" in wanted}
            return self(support, **others, **more)["prediction"]
        field = self._item
        if field not in query:
            raise ExportError(f"query must hold the field {field!r}, it holds {sorted(query)}")
        items = self._checked(field, query[field])
        prediction: np.ndarray = self(support, **more)["prediction"][items]
        return prediction

    def top(
        self, support: Fields, exclude: Any = None, start: Any = None
    ) -> tuple[Int[np.ndarray, "rank"], Float[np.ndarray, "rank"]]:
        """The rows of the items with the highest scores, best first, and their scores.

        Args:
            support: See the call.
            exclude: Rows of items to leave out; None for the user's own.
            start: See `personalize`.

        Raises:
            ExportError: The export recommends nothing.
        """
        if "top_item" not in self._outputs:
            raise ExportError(
                "this export predicts for given features, and has no list of items to recommend"
            )
        field = self._item
        own = support.get(field, np.zeros(0, np.int32)) if exclude is None else exclude
        more = {} if start is None else {"start": start}
        found = self(support, exclude=np.asarray(own, np.int32).reshape(-1), **more)
        there = found["top_score"] > -np.inf
        return found["top_item"][there], found["top_score"][there]

    def update(self, broadcast: Broadcast, examples: Fields, key: Any = (0, 0), start: Any = None) -> Update:
        """A client's part of a round of training, by `update.onnx`.

        Args:
            broadcast: With whole tables; the client's examples say which of their rows are used.
            examples: The client's fields, `[example, ...]`.
            key: Data of the client's key in this round, two numbers of 32 bits, from which its draws follow.
            start: For a stateful algorithm what the client kept, as the output `state` of the file gives it.

        Returns:
            The update. Of a table its delta is that of the rows that `rows` names, which are those of the
            client's examples.

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
                given[name] = self._checked(name, support[name])
                if len(given[name]) != size:
                    raise ExportError(
                        f"support: all fields must be as long, got {size} and {len(given[name])} of {name!r}"
                    )
            elif name in others:
                given[name] = self._checked(name, others[name])
            else:
                shape = [d if isinstance(d, int) else 0 for d in entry["shape"]]
                given[name] = np.zeros(shape, entry["dtype"])
        return given

    def _checked(self, name: str, x: Any) -> np.ndarray:
        return checked(self._inputs[name], x)


def described(path: Path, text: bytes) -> dict[str, Any]:
    """The content of a description.

    Raises:
        ExportError: It is no description, or one of another format.
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
