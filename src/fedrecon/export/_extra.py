"""Optional packages, by the extra that installs them."""

from importlib.util import find_spec

from fedrecon.export._graph.program import ExportError


def require(*packages: str) -> None:
    """Checks that the packages of an extra are installed.

    Args:
        packages: Names of the packages, as they are imported.

    Raises:
        ExportError: A package is not installed; the message names it and the extra.
    """
    for package in packages:
        if find_spec(package) is None:
            raise ExportError(
                f"an export needs the package {package}, which is not installed: "
                "pip install 'fedrecon[export]'"
            )
