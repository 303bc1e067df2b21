"""The check that an optional package is installed."""

from importlib.util import find_spec

from fedrecon.experiment.settings.sections import SettingError


def require(package: str, extra: str, what: str) -> None:
    """Refuses to go on if an optional package is not installed.

    Args:
        package: The name under which the package is imported.
        extra: The extra of this project that installs the package.
        what: What needs the package, as the start of the message.

    Raises:
        SettingError: The package is not installed; the message names the extra.
    """
    if find_spec(package) is None:
        raise SettingError(
            f"{what} needs the package {package}, which is not installed: pip install 'fedrecon[{extra}]'"
        )
