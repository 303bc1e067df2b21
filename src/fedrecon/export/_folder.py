"""The files of an export: written together or not at all."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedrecon._files import write_atomically
from fedrecon.export._graph.program import ExportError

FORMAT = 1
MODEL, DESCRIPTION, VECTORS, VOCABULARIES = "model.onnx", "model.json", "vectors.npz", "vocabularies.json"
ARCHIVE = "model.stablehlo"
UPDATE, UPDATE_DESCRIPTION = "update.onnx", "update.json"
_EXTERNAL = 10_000_000  # a model with a larger table, in bytes, has its tables in a file of their own


def write_model(model: Any, folder: Path) -> list[str]:
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


def plain(x: Any) -> Any:
    return x.item() if hasattr(x, "item") else x


def digest_of(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {"name": path.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def check_folder(out: Path) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise ExportError(f"{out}: an export needs a folder, this is a file")
    names = sorted(p.name for p in out.iterdir())
    if names and DESCRIPTION not in names:
        raise ExportError(
            f"{out}: an export needs an empty folder or one of an export, this holds {names[0]!r}"
        )


def move(source: Path, out: Path, names: Sequence[str]) -> None:
    """Moves the files of an export into its folder, the description last."""
    out.mkdir(parents=True, exist_ok=True)
    # The description names the digests of the other files. If the process is killed before it is replaced,
    # the old description does not fit the new files, and a session refuses the folder instead of using a mix.
    for name in [*names, DESCRIPTION]:
        write_atomically(out / name, (source / name).read_bytes())
    all_names = {MODEL, f"{MODEL}.data", ARCHIVE, VOCABULARIES, UPDATE, UPDATE_DESCRIPTION}
    for name in all_names - set(names):
        (out / name).unlink(missing_ok=True)  # left by an earlier export; the new description omits it
