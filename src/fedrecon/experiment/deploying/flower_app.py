"""The app that Flower sends to its processes: a few lines that import this library."""

from pathlib import Path

from fedrecon._files import write_atomically
from fedrecon.errors import RunError
from fedrecon.experiment import config as configs
from fedrecon.experiment.config import Config
from fedrecon.experiment.deploying.settings import write_settings

EXPERIMENT, PACKAGE = "experiment.toml", "fedrecon_app"
# The app holds neither plans nor data, which are in folders of the processes: Flower sends it to all nodes.
_PROJECT = """\
[project]
name = "fedrecon-app"
version = "1.0.0"
description = "Rounds of fedrecon over Flower"
license = "Apache-2.0"
dependencies = ["flwr>=1.42"]

[tool.flwr.app]
publisher = "fedrecon"

[tool.flwr.app.components]
serverapp = "fedrecon_app.server:app"
clientapp = "fedrecon_app.client:app"

[tool.flwr.app.config]
folder = ""
"""
_SERVER = """\
from fedrecon.experiment.deploying.flower_server import server_app

app = server_app()
"""
_CLIENT = """\
from fedrecon.experiment.deploying.flower_client import client_app

app = client_app()
"""


def write_app(folder: Path, config: Config) -> None:
    """Writes an app and its experiment to a new or empty folder.

    Args:
        folder: The folder of the app, which is created where it does not exist.
        config: The configuration of the experiment.

    Raises:
        RunError: The folder is not empty.
    """
    if folder.exists() and any(folder.iterdir()):
        raise RunError(f"{folder}: an app needs a new or empty folder, this one holds something")
    package = folder / PACKAGE
    package.mkdir(parents=True)
    write_atomically(folder / "pyproject.toml", _PROJECT)
    write_atomically(package / "__init__.py", "")
    write_atomically(package / "server.py", _SERVER)
    write_atomically(package / "client.py", _CLIENT)
    write_atomically(folder / EXPERIMENT, configs.text(config))
    write_settings(folder)


def experiment_of(folder: Path, overrides: tuple[str, ...] = ()) -> Config:
    """Reads the experiment of an app.

    Args:
        folder: The folder of the app.
        overrides: Settings that replace those of the file, each as `"name=value"`; none by default.

    Raises:
        RunError: The folder holds no app.
        SettingError: A setting is unknown, or its value is not allowed.
    """
    path = folder / EXPERIMENT
    if not path.is_file():
        raise RunError(f"{folder}: an app must have a {EXPERIMENT}, as `deploy init` writes it")
    return configs.load(path, overrides)
