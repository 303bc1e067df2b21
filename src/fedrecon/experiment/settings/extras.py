"""Optional packages, by the extra that installs them."""

from importlib.util import find_spec

from fedrecon.experiment.settings.sections import SettingError


def require(package: str, extra: str, what: str) -> None:
    """Refuses what needs a package that is not installed.

    Args:
        package: As it is imported.
        extra: Of this project, which installs it.
        what: Needs it.

    Raises:
        SettingError: It is not installed; the message names the extra.
    """
    if find_spec(package) is None:
        raise SettingError(
            f"{what} needs the package {package}, which is not installed: pip install 'fedrecon[{extra}]'"
        )
