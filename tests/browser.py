"""What the tests of the page need beside Python: a browser, and scripts fetched before the tests.

`python -m tests.browser` fetches the scripts with the user's own npm; tests themselves need no network.
"""

import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest

from fedrecon.data._cache import cache_folder
from fedrecon.export._graph.program import ExportError
from fedrecon.export._web.runtime import FILES, PACKAGE, VERSION, runtime_files

AXE = "axe-core", "4.14.1"


def browser_path() -> str:
    """Debian's Chromium; skips the test where there is none."""
    pytest.importorskip("playwright", reason="needs the package playwright")
    for name in ("chromium", "chromium-browser", "google-chrome"):
        path = shutil.which(name)
        if path is not None:
            return path
    pytest.skip("needs Chromium: apt-get install chromium")


def runtime() -> str:
    """The folder of the browser's runtime; skips the test where it was not fetched."""
    folder = cache_folder() / f"{PACKAGE}-{VERSION}"
    if not all((folder / name).is_file() for name in FILES):
        pytest.skip("needs the browser's runtime: python -m tests.browser")
    return str(folder)


def axe() -> str:
    """The source of axe-core, which looks for faults of accessibility; skips the test where it is missing."""
    path = _axe_path()
    if not path.is_file():
        pytest.skip("needs axe-core: python -m tests.browser")
    return path.read_text(encoding="utf-8")


def _axe_path() -> Path:
    return cache_folder() / f"{AXE[0]}-{AXE[1]}" / "axe.min.js"


def fetch() -> None:
    """Fetches what is missing."""
    runtime_files()
    if _axe_path().is_file():
        return
    with tempfile.TemporaryDirectory() as work:
        subprocess.run(
            ["npm", "pack", "--silent", "@".join(AXE)], cwd=work, check=True, stdout=subprocess.PIPE
        )
        with tarfile.open(next(Path(work).glob("*.tgz"))) as archive:
            file = archive.extractfile("package/axe.min.js")
            assert file is not None
            _axe_path().parent.mkdir(parents=True, exist_ok=True)
            _axe_path().write_bytes(file.read())


if __name__ == "__main__":
    try:
        fetch()
    except (ExportError, OSError, subprocess.CalledProcessError) as error:
        print(f"the tests of the page will be skipped: {error}")
