"""Settings of a deployment, in a file of the app: what an experiment, which is simulated, does not say."""

import tomllib
from pathlib import Path
from typing import cast

from fedrecon.experiment.deploying.plan import PORT
from fedrecon.experiment.settings.sections import Section, SettingError, setting, validate

FILE = "deployment.toml"


class DeploymentSettings(Section):
    """The settings of a deployment on several machines."""

    address: str = setting(
        f"127.0.0.1:{PORT}", "HOST:PORT that nodes connect to; outside loopback only with TLS and node keys"
    )
    superlink_port: int = setting(PORT, "port of Flower's SuperLink on loopback", gt=0, lt=65536)
    nodes: int = setting(1, "nodes that must answer before the first round", ge=1)
    seconds: float = setting(600.0, "deadline of a round in seconds", gt=0, allow_inf_nan=False)
    min_answers: int = setting(1, "least number of answers: with fewer a round is begun again", ge=1)
    over_selection: float = setting(
        1.0,
        "clients asked for each of training.clients_per_round answers, at which a round ends",
        ge=1,
        allow_inf_nan=False,
    )
    max_staleness: int = setting(
        0, "rounds by which an answer may be late and still be counted; 0 refuses late answers", ge=0
    )
    staleness_exponent: float = setting(
        0.5,
        "exponent a of the discount (1 + s)^-a of an answer that is s rounds late",
        ge=0,
        allow_inf_nan=False,
    )
    num_clients: int = setting(
        0,
        "clients of all nodes together, for the noise of a private run; 0 for as many as the data has",
        ge=0,
    )
    one_person_per_client: bool = setting(True, "whether a client's examples are those of one person")
    accept_row_leak: bool = setting(
        False, "whether updates of single persons may leave loopback without noise, with the rows they name"
    )


def write_settings(folder: Path) -> None:
    """Writes the file with the defaults, each after a comment that says what it is."""
    import tomli_w

    lines = []
    for name, field in DeploymentSettings.model_fields.items():
        lines += [f"# {field.description}\n", tomli_w.dumps({name: field.default})]
    (folder / FILE).write_text("".join(lines), encoding="utf-8")


def read_settings(folder: Path) -> DeploymentSettings:
    """Reads the settings of an app; defaults where it has no such file.

    Raises:
        SettingError: The file cannot be read, or a setting is unknown or breaks a rule.
    """
    path = folder / FILE
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise SettingError(f"{path}: cannot be read: {error}") from None
    return cast(DeploymentSettings, validate(DeploymentSettings, values, str(path)))
