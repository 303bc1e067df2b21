"""Writes a client's part of a round beside the personal model, checked against JAX."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedrecon.algorithms._base import Algorithm, ServerState
from fedrecon.core._model import leaves_of
from fedrecon.export._check import Difference, Reference, compare, random_inputs, run, session_of
from fedrecon.export._folder import FORMAT, UPDATE, UPDATE_DESCRIPTION, plain
from fedrecon.export._functions import Exported
from fedrecon.export._graph.model import Input, model_of, ranges_of
from fedrecon.export._graph.program import program_of
from fedrecon.export._graph.simplify import reduce_program
from fedrecon.export._refuse import refuse
from fedrecon.export._update import DELTA, update

_RANDOM = 20


class Training(NamedTuple):
    """The training clients of an export that holds `update.onnx`.

    Attributes:
        fields: Shape and type of each field of one training example.
        ranges: The lowest and the highest number that a field may hold, for the fields that have a range.
        examples_max: The largest number of examples of a client.
        clients: The examples of clients whose updates are compared with JAX, an array `[example, ...]` for
            each field; none by default.
        keys: The numbers of these clients' random keys as the simulator gives them, `[client, 2]`, uint32;
            none by default.
    """

    fields: Mapping[str, Any]
    ranges: Mapping[str, tuple[float | int, float | int]]
    examples_max: int
    clients: Sequence[Mapping[str, np.ndarray]] = ()
    keys: Any = ()


def write_update(
    algorithm: Algorithm, state: ServerState, training: Training, folder: Path, seed: int
) -> list[str]:
    """Writes `update.onnx` and its description, and returns their names.

    Raises:
        ExportError: An operation of the update cannot be exported, or the file differs from JAX.
    """
    exported = update(algorithm, state, training.fields, training.examples_max)
    program, _ = program_of(exported.fn, [], exported.shapes)
    reduce_program(program, dict(ranges_of(program, exported.inputs)))
    model = model_of(program, exported.inputs, exported.outputs, [])
    (folder / UPDATE).write_bytes(model.SerializeToString())
    session = session_of(str(folder / UPDATE))
    reference = Reference(exported.fn, [], exported.inputs, exported.outputs)
    worst, apart = Difference(0.0, {}), 0.0
    for number, given in enumerate(_cases(exported, state, training, seed)):
        # A delta is a sum over the examples, whose rounding grows with the root of their number.
        count = max(len(given["mask"]), 1)
        found, wanted = run(session, given), reference(given)
        worst = worst.or_worse(compare(found, wanted) / float(np.sqrt(count)), given, reference)
        if number >= _RANDOM:  # a client's; random examples are no measure of how large a delta is
            apart = max(apart, _apart(found, wanted))
    if worst.value:
        refuse(program, exported.inputs, exported.outputs, [], worst)
    description = {
        "format": FORMAT,
        "examples_max": training.examples_max,
        "inputs": [_entry(one, training, exported.inputs) for one in exported.inputs],
        "outputs": [{"name": x.name, "shape": list(x.shape)} for x in exported.outputs],
        "checks": {"max_abs_diff": apart, "clients": len(training.clients)},
    }
    (folder / UPDATE_DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    return [UPDATE, UPDATE_DESCRIPTION]


def _apart(found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> float:
    """The largest absolute difference of a delta, which the file gives times the client's weight."""
    weight = float(wanted["weight"]) or 1.0
    deltas = [name for name in wanted if name.startswith(DELTA)]
    apart = (float(np.max(np.abs(found[name] - wanted[name]), initial=0)) for name in deltas)
    return max(apart, default=0.0) / weight


def _entry(one: Input, training: Training, inputs: Sequence[Input]) -> dict[str, Any]:
    entry = {"name": one.name, "shape": list(one.shape), "dtype": np.dtype(one.dtype).name}
    if one.high is not None:
        entry["range"] = [0, one.high]
    elif one.name in training.ranges:
        entry["range"] = [plain(x) for x in training.ranges[one.name]]
    if one.name in training.fields and one.high is not None:
        # `rows` is the name of the length of the tables that the field indexes.
        entry["rows"] = next(x.shape[0] for x in inputs if x.room == one.high + 1 and "/" in x.name)
    if one.room is not None:
        entry["room"] = one.room
    return entry


def _cases(
    exported: Exported, state: ServerState, training: Training, seed: int
) -> list[dict[str, np.ndarray]]:
    params = {f"global/{path}": np.asarray(x) for path, x in leaves_of(state.global_params).items()}
    round = np.asarray(state.round, np.int32)
    made = random_inputs(
        [one for one in exported.inputs if one.name not in params], training.ranges, _RANDOM, seed
    )
    rng = np.random.default_rng(seed)
    for given in made:
        given |= params
        given |= {"round": round, "key": rng.integers(0, 2**32, 2, np.uint32)}
    for examples, key in zip(training.clients, training.keys, strict=True):
        size = len(next(iter(examples.values())))
        own = {one.name: examples[one.name] for one in exported.inputs if one.name in training.fields}
        made.append(
            {
                **{name: np.asarray(x) for name, x in own.items()},
                **params,
                "mask": np.ones(size, bool),
                "round": round,
                "key": np.asarray(key, np.uint32),
                "start": np.zeros(0, np.float32),
            }
        )
    return made
