"""From an algorithm and its parameters to a folder that a device can use."""

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedrecon._files import write_atomically
from fedrecon.algorithms._base import Algorithm, ServerState
from fedrecon.export._cases import Case
from fedrecon.export._check import (
    TOLERANCE,
    Difference,
    Reference,
    compare,
    random_inputs,
    refuse,
    run,
    same_list,
    session_of,
)
from fedrecon.export._extra import require
from fedrecon.export._folding import fold
from fedrecon.export._functions import Exported, personal
from fedrecon.export._graph import Input, model_of, ranges_of
from fedrecon.export._precision import PRECISIONS, Precision, Stored, stored
from fedrecon.export._program import ExportError, program_of
from fedrecon.export._simplify import simplify
from fedrecon.export._writer import OPSET
from fedrecon.serving._personalization import TopK

FORMAT = 1
MODEL, DESCRIPTION, VECTORS, VOCABULARIES = "model.onnx", "model.json", "vectors.npz", "vocabularies.json"
_EXTERNAL = 10_000_000  # bytes of a table from which on it is a file of its own
_RANDOM, _VECTORS = 200, 8


class Checks(NamedTuple):
    """What a comparison with JAX found.

    Attributes:
        max_abs_diff: The largest difference of a score or prediction, of random inputs and all clients.
        users: Clients that were compared.
        topk_identical: Those with the same list of items, up to scores closer than 1e-5.
        rmse_jax: Root of the mean squared error over the clients' query examples; None without ratings.
        rmse_export: Likewise, of the file.
    """

    max_abs_diff: float
    users: int
    topk_identical: int
    rmse_jax: float | None
    rmse_export: float | None


@dataclass(frozen=True, eq=False)
class Subject:
    """What is exported.

    Attributes:
        algorithm: Whose `personalize` and `personal_model` are used.
        state: The server's.
        fields: Shape and type of an example's fields, each a structure such as `jax.ShapeDtypeStruct`.
        ranges: Of fields the lowest and the highest number that is allowed.
        top: What to recommend; None to predict for features that are given.
        vocabularies: For fields whose numbers stand for something, what they stand for.
        run: Name of the run.
        privacy: What protects the people in the training data, for the description.
        data_notice: What the data's owners ask to be told, for the description.
    """

    algorithm: Algorithm
    state: ServerState
    fields: Mapping[str, Any]
    ranges: Mapping[str, tuple[float | int, float | int]]
    top: TopK | None = None
    vocabularies: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    run: str = ""
    privacy: Mapping[str, Any] = field(default_factory=lambda: {"differential_privacy": False})
    data_notice: str = ""


def export(
    subject: Subject,
    out: Path,
    *,
    support_max: int,
    precision: Precision = "float32",
    seed: int = 0,
    clients: Sequence[Case] = (),
) -> Checks:
    """Writes `model.onnx`, `model.json` and `vectors.npz`, checked against JAX.

    Args:
        subject: What is exported.
        out: The folder; made where it does not exist. One that holds an export is replaced.
        support_max: Support examples at most.
        precision: How tables are stored.
        seed: Of what a client draws: the same numbers for every user of the file.
        clients: Whose results are compared with JAX, beside those of random inputs.

    Returns:
        What the comparison found.

    Raises:
        ExportError: Something cannot be exported, the file differs from JAX, or the folder holds something
            else. The folder is as it was.
    """
    require("onnx", "onnxruntime")
    if precision not in PRECISIONS:
        raise ExportError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if support_max < 1:
        raise ExportError(f"support_max must be at least 1, got {support_max}")
    _check_folder(out)
    exported = personal(subject.algorithm, subject.state, subject.fields, support_max, subject.top, seed)
    weights = [stored(x, precision) for x in exported.weights]
    program, inputs = _program(exported, weights)
    model = model_of(program, inputs, exported.outputs, weights)
    given = random_inputs(inputs, subject.ranges, _RANDOM, seed)
    with tempfile.TemporaryDirectory(prefix="fedrecon-export-") as folder:
        files = _write_model(model, Path(folder))
        session = session_of(str(Path(folder) / MODEL))
        own = Reference(exported.fn, [w.array for w in weights], exported.inputs, exported.outputs)
        checks, worst = compared(session, own, exported, clients, given)
        if worst.value > TOLERANCE:
            refuse(program, inputs, exported.outputs, weights, worst)
        if precision != "float32":  # beside the run's own parameters, which nobody has rounded
            reference = Reference(exported.fn, exported.weights, exported.inputs, exported.outputs)
            checks, _ = compared(session, reference, exported, clients)
        vectors = _vectors(session, given[:_VECTORS])
        np.savez_compressed(Path(folder) / VECTORS, **vectors)
        files.append(VECTORS)
        if subject.vocabularies:
            content = {name: [_plain(x) for x in ids] for name, ids in subject.vocabularies.items()}
            (Path(folder) / VOCABULARIES).write_text(json.dumps(content), encoding="utf-8")
            files.append(VOCABULARIES)
        description = _description(subject, exported, inputs, precision, seed, support_max, checks)
        description["files"] = [_digest(Path(folder) / name) for name in files]
        text = json.dumps(description, indent=1) + "\n"
        (Path(folder) / DESCRIPTION).write_text(text, encoding="utf-8")
        _move(Path(folder), out, files)
    return checks


def _program(exported: Exported, weights: Sequence[Stored]) -> tuple[Any, list[Input]]:
    """The program and the inputs of the file: fields that nothing reads are left out."""
    program, _ = program_of(exported.fn, [w.array for w in weights], exported.shapes)
    fold(program)
    simplify(program, dict(ranges_of(program, exported.inputs)))
    read = {*program.outputs, *(value for node in program.nodes for value in node.reads())}
    inputs, slots, kept = [], iter(program.inputs), []
    for one in exported.inputs:
        values = [next(slots) for _ in range(2 if one.given else 1)]
        if one.name in ("mask", "exclude", "start") or any(value in read for value in values):
            inputs.append(one)
            kept += values
    program.inputs = kept
    return program, inputs


def compared(
    session: Any,
    reference: Reference,
    exported: Exported,
    clients: Sequence[Case],
    more: Sequence[Mapping[str, np.ndarray]] = (),
) -> tuple[Checks, Difference]:
    """Compares a file with JAX over clients and other arguments; also the worst of all results."""
    apart, same = 0.0, 0
    worst = Difference(0.0, {})
    errors: list[tuple[float, float, int]] = []
    for case in [*more, *clients]:
        given = arguments(exported.inputs, case) if isinstance(case, Case) else case
        found, wanted = run(session, given), reference(given)
        apart = max(apart, _apart(found, wanted))
        value = compare(found, wanted)
        worst = Difference(value, given) if value > worst.value else worst
        if exported.top is not None and isinstance(case, Case):
            same += same_list(found, wanted)
            if "rating" in case.query:
                errors.append(_errors(case, exported.top.field, found, wanted))
    mine, theirs, count = (sum(x) for x in zip(*errors, strict=True)) if errors else (0, 0, 0)
    rmse = [float(np.sqrt(total / count)) if count else None for total in (theirs, mine)]
    return Checks(apart, len(clients), int(same), *rmse), worst


def _errors(case: Case, field: str, found: Any, wanted: Any) -> tuple[float, float, int]:
    rating = case.query["rating"].astype(np.float64)
    items = case.query[field]
    mine, theirs = (x["prediction"][items].astype(np.float64) for x in (found, wanted))
    return float(np.sum((mine - rating) ** 2)), float(np.sum((theirs - rating) ** 2)), len(rating)


def _apart(found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> float:
    x, y = found["prediction"].astype(np.float64), wanted["prediction"].astype(np.float64)
    if x.shape != y.shape:
        return float("inf")
    return float(np.max(np.abs(x - y), initial=0.0))


def arguments(inputs: Sequence[Input], case: Case) -> dict[str, np.ndarray]:
    """What a file takes for a client: its support set, of which nothing is recommended, and its query set."""
    size = len(next(iter(case.support.values())))
    given: dict[str, np.ndarray] = {}
    for one in inputs:
        if one.name == "mask":
            given[one.name] = np.ones(size, bool)
        elif one.name == "exclude":
            given[one.name] = case.support[inputs[0].name].astype(np.int32)
        elif one.name == "start":
            given[one.name] = np.zeros(0, np.float32)
        elif one.name.startswith("query_"):
            given[one.name] = case.query[one.name.removeprefix("query_")].astype(one.dtype)
        else:
            given[one.name] = case.support[one.name].astype(one.dtype)
    return given


def _vectors(session: Any, given: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Random inputs with what the file makes of them."""
    arrays = {}
    for i, one in enumerate(given):
        arrays |= {f"{i}/in/{name}": x for name, x in one.items()}
        arrays |= {f"{i}/out/{name}": x for name, x in run(session, one).items()}
    return arrays


def _write_model(model: Any, folder: Path) -> list[str]:
    import onnx

    large = any(len(x.raw_data) > _EXTERNAL for x in model.graph.initializer)
    if not large:
        (folder / MODEL).write_bytes(model.SerializeToString())
        return [MODEL]
    name = MODEL + ".data"
    onnx.save_model(
        model,
        str(folder / MODEL),
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=name,
        size_threshold=_EXTERNAL,
    )
    return [MODEL, name]


def _description(
    subject: Subject,
    exported: Exported,
    inputs: Sequence[Input],
    precision: Precision,
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
            entry["range"] = [_plain(x) for x in bounds]
        if exported.top is not None and one.name == exported.top.field:
            entry["items"] = exported.top.items
        if one.name == "start":
            entry["leaves"] = _leaves(exported.start)
        entries.append(entry)
    return {
        "format": FORMAT,
        "run": subject.run,
        "round": int(subject.state.round),
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


def _plain(x: Any) -> Any:
    return x.item() if hasattr(x, "item") else x


def _digest(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {"name": path.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _check_folder(out: Path) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise ExportError(f"{out}: an export needs a folder, this is a file")
    names = sorted(p.name for p in out.iterdir())
    if names and DESCRIPTION not in names:
        raise ExportError(
            f"{out}: an export needs an empty folder or one of an export, this holds {names[0]!r}"
        )


def _move(source: Path, out: Path, names: Sequence[str]) -> None:
    """Puts files in their place, the description last: it names the digests of the others."""
    out.mkdir(parents=True, exist_ok=True)
    for name in [*names, DESCRIPTION]:
        write_atomically(out / name, (source / name).read_bytes())
