"""Writes a run's function as an archive of StableHLO, which JAX reads on CPUs and accelerators."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedrecon.export._check import TOLERANCE, Difference
from fedrecon.export._functions import Exported
from fedrecon.export._graph.model import Input
from fedrecon.export._graph.precision import Stored
from fedrecon.export._graph.program import ExportError

PLATFORMS = ("cpu", "cuda", "tpu")
_GIVEN = "_given"  # added to an input's name, the name of the flag that says whether it was given
_FEWEST = 256  # the smallest length to which a check pads, since JAX compiles anew for each length

Arrays = Mapping[str, np.ndarray]


class Archive:
    """An archive that is called as the ONNX graph of the same function is, to compare it with JAX.

    The archive's lengths are at least 1, since JAX knows no symbolic length of 0: where the graph takes empty
    arrays, the archive takes an example whose `mask` is false, and a row to exclude that no item has.

    Args:
        content: The serialised archive.
        inputs: The inputs of the graph of the same function.
        outputs: The names of the outputs.
    """

    def __init__(self, content: bytes, inputs: Sequence[Input], outputs: Sequence[str]):
        self.exported = jax.export.deserialize(bytearray(content))
        self._inputs, self._outputs = inputs, outputs
        self._call = jax.jit(self.exported.call)

    def get_inputs(self) -> list[Any]:
        """The inputs of the graph of the same function, by their names."""
        return [SimpleNamespace(name=one.name) for one in self._inputs]

    def get_outputs(self) -> list[Any]:
        """The outputs, by their names."""
        return [SimpleNamespace(name=name) for name in self._outputs]

    def run(self, names: Sequence[str], given: Arrays) -> list[np.ndarray]:
        """The named outputs for arguments of the graph, padded so that JAX compiles for few lengths."""
        return self.call(names, given, _FEWEST)

    def call(self, names: Sequence[str], given: Arrays, least: int = 1) -> list[np.ndarray]:
        """The named outputs for arguments of the graph, padded as `arguments` pads them."""
        results = self._call(**self.arguments(given, least))
        queries = [len(x) for name, x in given.items() if name.startswith("query_")]
        arrays = {name: np.asarray(results[name]) for name in names}
        if queries:
            arrays["prediction"] = arrays["prediction"][: queries[0]]
        return [arrays[name] for name in names]

    def arguments(self, given: Arrays, least: int = 1) -> dict[str, np.ndarray]:
        """The archive's arguments for those of the graph.

        Args:
            given: The arguments of the graph by their names.
            least: The smallest length. Above 1, longer arguments are padded, too: to the most examples that
                the archive takes, or to a power of two.
        """
        arrays: dict[str, np.ndarray] = {}
        for one in self._inputs:
            x = np.asarray(given[one.name], one.dtype)
            if one.given:
                arrays[one.name + _GIVEN] = np.asarray(len(x) > 0)
                arrays[one.name] = x if len(x) else np.zeros(one.room or 0, one.dtype)
                continue
            length = max(len(x), 1)
            if least > 1:
                length = one.room or max(least, 1 << (length - 1).bit_length())
            fill = np.full((length - len(x), *x.shape[1:]), one.fill, one.dtype)
            arrays[one.name] = np.concatenate([x, fill])
        return arrays

    def description(self, inputs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What `model.json` says of the archive otherwise than of a graph.

        Args:
            inputs: The description of the inputs of the graph of the same function.
        """
        entries: list[dict[str, Any]] = []
        for one, entry in zip(self._inputs, inputs, strict=True):
            entries.append({**entry, "shape": [one.room]} if one.given else dict(entry))
            if one.given:
                entries.append({"name": one.name + _GIVEN, "shape": [], "dtype": "bool"})
        version = self.exported.calling_convention_version
        stablehlo = {"platforms": list(PLATFORMS), "calling_convention": version, "jax": jax.__version__}
        return {"inputs": entries, "opset": None, "stablehlo": stablehlo}


def archive_of(exported: Exported, weights: Sequence[Stored], inputs: Sequence[Input]) -> bytes:
    """The serialised archive of a function.

    Args:
        exported: The function.
        weights: How each of its parameters is stored; they are constants of the archive.
        inputs: The inputs of the graph of the same function: those that it reads.

    Raises:
        ExportError: JAX cannot write an operation for one of the platforms.
    """
    kept = {one.name for one in inputs}

    def fn(**arrays: Any) -> dict[str, Any]:
        parameters = [_widened(x) for x in weights]
        given: list[Any] = []
        for one in exported.inputs:
            if one.name not in kept:  # no operation reads it
                given.append(jnp.zeros((one.room or 1, *one.shape[1:]), one.dtype))
            elif one.given:
                given += [arrays[one.name], arrays[one.name + _GIVEN]]
            else:
                given.append(_padded(arrays[one.name], one))
        results = exported.fn(*parameters, *given)
        return {output.name: x for output, x in zip(exported.outputs, results, strict=True)}

    shapes = _shapes(inputs)
    try:
        made = jax.export.export(jax.jit(fn), platforms=list(PLATFORMS))(**shapes)
        return bytes(made.serialize())
    except (NotImplementedError, ValueError) as error:
        line = str(error).strip().splitlines()[0]
        raise ExportError(f"the function cannot be written as StableHLO for {PLATFORMS}: {line}") from error


def check_archive(worst: Difference) -> None:
    """Raises an ExportError where an archive differs from JAX by more than its bound."""
    if worst.value:
        raise ExportError(
            f"the archive differs from JAX by {worst.value:.2g}, more than {TOLERANCE:g}, and was not kept"
        )


def _shapes(inputs: Sequence[Input]) -> dict[str, Any]:
    symbols = sorted({d for one in inputs if not one.given for d in one.shape if isinstance(d, str)})
    rooms = {one.shape[0]: one.room for one in inputs if one.room is not None and not one.given}
    bounds = [f"{name} <= {rooms[name]}" for name in symbols if name in rooms]
    dims: dict[int | str, Any] = dict(
        zip(symbols, jax.export.symbolic_shape(", ".join(symbols), constraints=bounds), strict=True)
    )
    shapes: dict[str, Any] = {}
    for one in inputs:
        shape = (one.room,) if one.given else tuple(dims.get(d, d) for d in one.shape)
        shapes[one.name] = jax.ShapeDtypeStruct(shape, one.dtype)
        if one.given:
            shapes[one.name + _GIVEN] = jax.ShapeDtypeStruct((), bool)
    return shapes


def _padded(x: Any, one: Input) -> Any:
    """An argument at the length that the function takes, with ids that are rows of a table."""
    if one.room is not None:
        x = jnp.concatenate([x, jnp.full((one.room, *x.shape[1:]), one.fill, one.dtype)])[: one.room]
    return x if one.high is None else jnp.clip(x, 0, one.high)


def _widened(stored: Stored) -> Any:
    """A parameter as the function computes with it; the archive holds it as it is stored."""
    part = jnp.asarray(stored.parts[0])
    if len(stored.parts) == 2:
        scale = jnp.asarray(stored.parts[1]).astype(jnp.float32)
        return part.astype(jnp.float32) * scale.reshape(-1, *[1] * (part.ndim - 1))
    return part.astype(stored.array.dtype)
