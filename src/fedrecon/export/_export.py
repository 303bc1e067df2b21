"""Writes an algorithm and its parameters as a folder that a device can use."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedrecon.algorithms._base import Algorithm, ServerState
from fedrecon.data._from_arrays import vocabulary
from fedrecon.data._vocabulary_mapper import same_ids
from fedrecon.export._cases import Case
from fedrecon.export._check import Reference, compare, random_inputs, run, session_of
from fedrecon.export._compare import Checks, compare_clients, compare_inputs
from fedrecon.export._extra import require
from fedrecon.export._folder import (
    ARCHIVE,
    DESCRIPTION,
    FORMAT,
    MODEL,
    VECTORS,
    VOCABULARIES,
    check_folder,
    digest_of,
    move,
    plain,
    write_model,
)
from fedrecon.export._functions import Exported, personal
from fedrecon.export._graph.model import Input, model_of, ranges_of
from fedrecon.export._graph.precision import PRECISIONS, Stored, to_stored
from fedrecon.export._graph.program import Block, ExportError, program_of
from fedrecon.export._graph.simplify import reduce_program
from fedrecon.export._graph.writer import OPSET
from fedrecon.export._refuse import refuse
from fedrecon.export._stablehlo import Archive, archive_of, check_archive
from fedrecon.export._training import Training, write_update
from fedrecon.serving._personalization import TopK
from fedrecon.simulation._trained_state import vocabularies_of

FORMATS = ("onnx", "stablehlo")
_RANDOM, _VECTORS = 200, 8


@dataclass(frozen=True, eq=False)
class Subject:
    """A trained algorithm to export, with what its description says of the run.

    Attributes:
        algorithm: The algorithm whose `personalize` and `personal_model` are exported.
        state: The server's state, whose global parameters are stored in the file.
        fields: Shape and type of each field of one example, for instance a `jax.ShapeDtypeStruct`.
        ranges: The lowest and the highest number that a field may hold, for the fields that have a range.
        top: The item field and the number of items to recommend; None, the default, for a file that predicts
            for features that the caller gives.
        vocabularies: The ids that the row numbers of a field stand for, for the fields that have ids; by
            default what `state` knows of them, as that of `train` does.
        run: Name of the run, for the description; `""` by default.
        round: The round that the parameters are of, for the description: earlier than that of `state` where a
            run selects its best ones, which clients are served with as in the last round. None, the default,
            for the round of `state`.
        privacy: The protection of the people in the training data, for the description; by default none.
        data_notice: The notice that the data's owners ask users to pass on, for the description; `""`, the
            default, for none.

    Raises:
        ExportError: `vocabularies` has other ids than those that `state` was trained on.
    """

    algorithm: Algorithm
    state: ServerState
    fields: Mapping[str, Any]
    ranges: Mapping[str, tuple[float | int, float | int]]
    top: TopK | None = None
    vocabularies: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    run: str = ""
    round: int | None = None
    privacy: Mapping[str, Any] = field(default_factory=lambda: {"differential_privacy": False})
    data_notice: str = ""

    def __post_init__(self) -> None:
        trained = vocabularies_of(self.state) or {}
        for name, ids in self.vocabularies.items():
            if name in trained and not same_ids(vocabulary(name, ids), trained[name]):
                raise ExportError(
                    f"the vocabulary of {name!r} must be the one that the state was trained on, whose ids "
                    "are others or in another order"
                )
        if not self.vocabularies:
            lists = {name: ids.tolist() for name, ids in trained.items()}
            object.__setattr__(self, "vocabularies", lists)


def export(
    subject: Subject,
    out: Path,
    *,
    support_max: int,
    precision: str = "float32",
    seed: int = 0,
    clients: Sequence[Case] = (),
    training: Training | None = None,
    format: str = "onnx",
) -> Checks:
    """Writes `model.onnx` or `model.stablehlo`, `model.json` and `vectors.npz`, checked against JAX.

    Args:
        subject: The trained algorithm to export.
        out: The folder to write; created where it does not exist. An export that it holds is replaced.
        support_max: The largest number of support examples that the file takes.
        precision: The type in which the parameters are stored: `"float32"`, the default, `"float16"` or
            `"int8"`.
        seed: Seed of the client's random draws, which are the same for every user of the file; 0 by default.
        clients: Clients whose results are compared with JAX, in addition to random inputs; none by default.
        training: Describes the training clients, and makes the export hold `update.onnx`, a client's part of
            a round; None, the default, for a file that serves only.
        format: `"onnx"`, the default, for a graph of ONNX, or `"stablehlo"` for an archive of `jax.export`
            for CPUs, CUDA and TPUs, which needs no extra and takes no `training`.

    Returns:
        The results of the comparison with JAX.

    Raises:
        ExportError: An operation cannot be exported, the file differs from JAX, or the folder holds
            something else. The folder is then unchanged.
    """
    if format not in FORMATS:
        raise ExportError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    if format == "onnx":
        require("onnx", "onnxruntime")
    elif training is not None:
        raise ExportError("training must be None for StableHLO: a client's update is written in ONNX alone")
    if precision not in PRECISIONS:
        raise ExportError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if support_max < 1:
        raise ExportError(f"support_max must be at least 1, got {support_max}")
    check_folder(out)
    exported = personal(subject.algorithm, subject.state, subject.fields, support_max, subject.top, seed)
    weights = [to_stored(x, precision) for x in exported.weights]
    program, inputs = _program(exported, weights)
    given = random_inputs(inputs, subject.ranges, _RANDOM, seed)
    own = Reference(exported.fn, [w.array for w in weights], exported.inputs, exported.outputs)
    parts = _Parts(exported, weights, program, inputs, given, own)
    with tempfile.TemporaryDirectory(prefix="fedrecon-export-") as name:
        folder = Path(name)
        write = _write_graph if format == "onnx" else _write_archive
        session, checks, vectors, files = write(parts, folder, clients)
        if precision != "float32":  # the reported differences are those from the run's unrounded parameters
            checks, _ = compare_clients(session, own.with_weights(exported.weights), exported, clients)
        np.savez_compressed(folder / VECTORS, allow_pickle=False, **vectors)
        files.append(VECTORS)
        if subject.vocabularies:
            content = {name: [plain(x) for x in ids] for name, ids in subject.vocabularies.items()}
            (folder / VOCABULARIES).write_text(json.dumps(content), encoding="utf-8")
            files.append(VOCABULARIES)
        if training is not None:
            files += write_update(subject.algorithm, subject.state, training, folder, seed)
        description = _description(subject, exported, inputs, precision, seed, support_max, checks)
        if isinstance(session, Archive):
            description |= session.description(description["inputs"])
        description["files"] = [digest_of(folder / name) for name in files]
        text = json.dumps(description, indent=1) + "\n"
        (folder / DESCRIPTION).write_text(text, encoding="utf-8")
        move(folder, out, files)
    return checks


class _Parts(NamedTuple):
    """A function to write, with what its file is compared with.

    Attributes:
        exported: The function, with the inputs and outputs of its file.
        weights: How each parameter is stored.
        program: The simplified program of the function.
        inputs: The inputs that the program reads.
        given: Random arguments of the file.
        reference: The function in JAX with the parameters as they are stored.
    """

    exported: Exported
    weights: Sequence[Stored]
    program: Block
    inputs: Sequence[Input]
    given: Sequence[Mapping[str, np.ndarray]]
    reference: Reference


class _Written(NamedTuple):
    """A file that was written and compared with JAX.

    Attributes:
        session: Runs the file.
        checks: The results of the comparison.
        vectors: Some random arguments of the file with its results.
        files: The names of the files that hold it.
    """

    session: Any
    checks: Checks
    vectors: dict[str, np.ndarray]
    files: list[str]


def _write_graph(parts: _Parts, folder: Path, clients: Sequence[Case]) -> _Written:
    """Writes `model.onnx`, and runs it as it is written as well as optimised by the runtime."""
    exported, weights, program, inputs, given, reference = parts
    files = write_model(model_of(program, inputs, exported.outputs, weights), folder)
    session = session_of(str(folder / MODEL))
    # The page gives its first answers before the runtime has optimised the graph.
    as_written = session_of(str(folder / MODEL), optimised=False)
    apart, (worst, worst_as_written) = compare_inputs([session, as_written], reference, given)
    checks, worst_of_clients = compare_clients(session, reference, exported, clients)
    for one in (worst, worst_of_clients):
        if one.value:
            refuse(program, inputs, exported.outputs, weights, one)
    if worst_as_written.value:
        refuse(program, inputs, exported.outputs, weights, worst_as_written, optimised=False)
    checks = checks._replace(max_abs_diff=max(apart, checks.max_abs_diff))
    return _Written(session, checks, _vectors(session, given[:_VECTORS], given[:_VECTORS]), files)


def _write_archive(parts: _Parts, folder: Path, clients: Sequence[Case]) -> _Written:
    """Writes `model.stablehlo`."""
    content = archive_of(parts.exported, parts.weights, parts.inputs)
    (folder / ARCHIVE).write_bytes(content)
    names = [output.name for output in parts.exported.outputs]
    session = Archive(content, parts.inputs, names)
    apart, (worst,) = compare_inputs([session], parts.reference, parts.given)
    checks, worst_of_clients = compare_clients(session, parts.reference, parts.exported, clients)
    checks = checks._replace(max_abs_diff=max(apart, checks.max_abs_diff))
    check_archive(worst_of_clients)
    for one in parts.given[:2]:  # no example and one, at these lengths
        outputs = dict(zip(names, session.call(names, one), strict=True))
        worst = worst.or_worse(compare(outputs, parts.reference(one)), one, parts.reference)
    check_archive(worst)
    some = parts.given[:_VECTORS]
    vectors = _vectors(session, some, [session.arguments(one) for one in some])
    return _Written(session, checks, vectors, [ARCHIVE])


def _program(exported: Exported, weights: Sequence[Stored]) -> tuple[Any, list[Input]]:
    """The program and the inputs of the file, without the fields that no operation reads."""
    program, _ = program_of(exported.fn, [w.array for w in weights], exported.shapes)
    reduce_program(program, dict(ranges_of(program, exported.inputs)))
    read = {*program.outputs, *(value for node in program.nodes for value in node.reads())}
    inputs, slots, kept = [], iter(program.inputs), []
    for one in exported.inputs:
        values = [next(slots) for _ in range(2 if one.given else 1)]
        if one.name in ("mask", "exclude", "start") or any(value in read for value in values):
            inputs.append(one)
            kept += values
    program.inputs = kept
    return program, inputs


def _vectors(
    session: Any, given: Sequence[Mapping[str, np.ndarray]], shown: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Random inputs, as the file takes them, and its outputs, by which another runtime can be checked."""
    arrays: dict[str, np.ndarray] = {}
    for i, one in enumerate(given):
        arrays |= {f"{i}/in/{name}": x for name, x in shown[i].items()}
        arrays |= {f"{i}/out/{name}": x for name, x in run(session, one).items()}
    return arrays


def _description(
    subject: Subject,
    exported: Exported,
    inputs: Sequence[Input],
    precision: str,
    seed: int,
    support_max: int,
    checks: Checks,
) -> dict[str, Any]:
    outputs: list[dict[str, Any]] = []
    for output in exported.outputs:
        entry: dict[str, Any] = {"name": output.name, "shape": list(output.shape)}
        entry["dtype"] = "int32" if output.name == "top_item" else "float32"
        if output.name == "local":
            entry["leaves"] = _leaves(exported.local)
        outputs.append(entry)
    entries = []
    for one in inputs:
        entry = {"name": one.name, "shape": list(one.shape), "dtype": np.dtype(one.dtype).name}
        bounds = subject.ranges.get(one.name.removeprefix("query_"))
        if one.high is not None:
            bounds = 0, one.high
        if bounds is not None:
            entry["range"] = [plain(x) for x in bounds]
        if exported.top is not None and one.name == exported.top.field:
            entry["items"] = exported.top.items
        if one.name == "start":
            entry["leaves"] = _leaves(exported.start)
        entries.append(entry)
    return {
        "format": FORMAT,
        "run": subject.run,
        "round": int(subject.state.round) if subject.round is None else subject.round,
        "algorithm": subject.algorithm.name,
        "precision": precision,
        "opset": OPSET,
        "seed": seed,
        "support_max": support_max,
        "top_k": None if exported.top is None else exported.top.count,
        "inputs": entries,
        "outputs": outputs,
        "files": [],
        "checks": checks._asdict(),
        "privacy": dict(subject.privacy),
        "data_notice": subject.data_notice,
    }


def _leaves(leaves: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"path": path, "shape": list(x.shape)} for path, x in leaves.items()]
