"""ONNX Runtime for the browser: two files of one release, checked by their digests."""

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from fedrecon._files import write_atomically
from fedrecon.data._cache import cache_folder
from fedrecon.export._graph.program import ExportError

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
FILES = {
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
_SECONDS = 300  # time limit of `npm pack`


def runtime_files(place: str | None = None) -> dict[str, Path]:
    """The files that the page loads, by their names.

    Args:
        place: A folder that holds them, itself or in `dist`; None, the default, for the cache, which is
            filled by the user's own `npm pack` where they are missing.

    Raises:
        ExportError: The files are missing and cannot be fetched, or they are those of another release.
    """
    if place is not None:
        folders = [Path(place), Path(place) / "dist", Path(place) / "package" / "dist"]
        for folder in folders:
            if all((folder / name).is_file() for name in FILES):
                return _check_files(folder)
        raise ExportError(
            f"{place}: --runtime must name a folder with {' and '.join(FILES)}, it has not both"
        )
    folder = cache_folder() / f"{PACKAGE}-{VERSION}"
    if not all((folder / name).is_file() for name in FILES):
        _pack(folder)
    return _check_files(folder)


def _check_files(folder: Path) -> dict[str, Path]:
    for name, digest in FILES.items():
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
            raise ExportError(f"{folder / name}: must be that of {PACKAGE} {VERSION}, it is another file")
    return {name: folder / name for name in FILES}


def _pack(folder: Path) -> None:
    """Fetches the package with the user's `npm` and its settings, and keeps the two files."""
    npm = shutil.which("npm")
    if npm is None:
        raise ExportError(
            f"the page needs {PACKAGE} {VERSION}: install npm, or give the folder of the package's files "
            "with --runtime PATH"
        )
    with tempfile.TemporaryDirectory(prefix="fedrecon-runtime-") as work:
        command = [npm, "pack", "--silent", f"{PACKAGE}@{VERSION}"]
        try:
            done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            raise ExportError(f"npm pack {PACKAGE}@{VERSION}: did not end in {_SECONDS} s") from None
        archives = list(Path(work).glob("*.tgz"))
        if done.returncode or not archives:
            lines = done.stderr.strip().splitlines() or ["it wrote nothing"]
            raise ExportError(f"npm pack {PACKAGE}@{VERSION}: {lines[0]}; or give --runtime PATH")
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archives[0]) as archive:
            for name in FILES:
                file = archive.extractfile(f"package/dist/{name}")
                assert file is not None
                write_atomically(folder / name, file.read())
