"""The files of a deployment on several machines, before any of its processes starts."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tomli_w

from fedrecon._files import make_folder, write_atomically
from fedrecon.errors import RunError
from fedrecon.experiment.config import Config, override
from fedrecon.experiment.deploying.addresses import is_loopback, split_address
from fedrecon.experiment.deploying.keys import CA_CERTIFICATE, NODE_KEY, SERVER, Keys, check_name
from fedrecon.experiment.deploying.node import CONFIG
from fedrecon.experiment.deploying.plan import INITIAL, DeploymentPlan, digest_of_file
from fedrecon.experiment.deploying.settings import DeploymentSettings
from fedrecon.experiment.settings.sections import SettingError
from fedrecon.experiment.storage.array_files import write_arrays

if TYPE_CHECKING:
    from fedrecon.experiment.training.run_spec import RunSpec

APP, JOB, KEYS, NODES = "app", "job", "keys", "nodes"


def with_numbers(config: Config) -> Config:
    """The configuration with numbers in place of settings that are read from the data.

    A private one stays as it is: a number that was read from the clients' examples is not public.
    """
    if config.privacy.on:
        return config
    from fedrecon.experiment.training.build import task_of

    return override(config, {"model": dict(task_of(config).settings_from_data)})


def plan_of(config: Config, spec: "RunSpec", run: str, settings: DeploymentSettings) -> DeploymentPlan:
    """The plan of a deployment.

    Args:
        config: The configuration of the experiment, with numbers in place of settings that data decide.
        spec: The training run that the configuration describes.
        run: The name of the run.
        settings: The settings of the deployment.

    Raises:
        SettingError: The sampling simulates devices, which a deployment has, clients are counted without
            need, or more clients are asked than the sampling or the accounting of noise allows.
    """
    if config.training.sampling == "availability":
        raise SettingError(
            'training.sampling must not be "availability" in a deployment, whose devices are away, slow or '
            'lost by themselves; take "uniform" and a deadline'
        )
    privacy, chosen = spec.algorithm.privacy, settings.model_dump()
    if settings.over_selection > 1 and config.training.sampling not in ("uniform", "up_to"):
        raise SettingError(
            f"over_selection must be 1 unless training.sampling is 'uniform' or 'up_to', here "
            f"{config.training.sampling!r}, got {settings.over_selection:g}"
        )
    for name, off in (("over_selection", 1), ("max_staleness", 0)):
        if privacy is not None and chosen[name] != off:
            raise SettingError(
                f"{name} must be {off} under privacy, whose accounting knows each round's clients, got "
                f"{chosen[name]:g}"
            )
    if privacy is None and settings.num_clients:
        raise SettingError(
            f"num_clients must be 0 without privacy.epsilon or privacy.noise_multiplier, whose noise alone "
            f"depends on it, got {settings.num_clients}"
        )
    if privacy is not None:
        chosen["num_clients"] = settings.num_clients or len(spec.clients)
    return DeploymentPlan(
        run=run,
        settings=config.model_dump(),
        vocabularies={name: np.asarray(ids).tolist() for name, ids in spec.clients.vocabularies.items()},
        rounds=spec.rounds,
        public_inputs={} if privacy is None else dict(privacy.public_inputs),
        **chosen,
    )


def start_of(plan: DeploymentPlan, spec: "RunSpec") -> dict[str, np.ndarray]:
    """The parameters with which the rounds start, by their paths; none if the model without data draws them.

    Args:
        plan: The plan of the deployment.
        spec: The training run that the plan deploys, whose model and start may depend on data.

    Raises:
        SettingError: The model without data has other parameters, or those of a private run would start from
            others than drawn ones.
    """
    from fedrecon.core._model import leaves_of
    from fedrecon.simulation._client_step import first_state

    task = plan.config().task
    wanted, drawn = (
        leaves_of(first_state(algorithm, spec.seed, start)[0].global_params)
        for algorithm, start in ((spec.algorithm, spec.initial_global_params), (plan.algorithm(), None))
    )
    shapes = [{name: (x.shape, str(x.dtype)) for name, x in leaves.items()} for leaves in (wanted, drawn)]
    if shapes[0] != shapes[1]:
        raise SettingError(
            f"task: the model that {task} builds without data must have the parameters of the one with data, "
            f"{shapes[0]}, got {shapes[1]}"
        )
    if all(np.array_equal(x, drawn[name]) for name, x in wanted.items()):
        return {}
    if spec.algorithm.privacy is not None:
        raise SettingError(
            "training.initial_global_params must be '' in a private deployment, and its model must draw its "
            "start without data: no ledger would cover another start"
        )
    return {name: np.asarray(x) for name, x in wanted.items()}


def write_start(start: Mapping[str, Any], folder: Path) -> str:
    """Writes the parameters that `start_of` returns into a server's folder; without any, no file is left.

    Returns:
        The digest of the file, for the plan; `""` without one.
    """
    (folder / INITIAL).unlink(missing_ok=True)
    if start:
        write_arrays(folder / INITIAL, start)
    return digest_of_file(folder / INITIAL)


def prepare_server(app: Path, config: Config, settings: DeploymentSettings, folder: Path) -> None:
    """Writes the folder of a server's machine: the plan and the app.

    Args:
        app: The folder of the app.
        config: The configuration of the experiment. Its data are read for the vocabularies, and nothing of a
            client is written.
        settings: The settings of the deployment.
        folder: The folder of the server, which must be new or empty.

    Raises:
        RunError: The folder holds something.
        SettingError: A setting does not fit the others, or people would not be protected.
    """
    from fedrecon.experiment.training.build import spec_of, task_of

    if folder.exists() and any(folder.iterdir()):
        raise RunError(f"{folder}: a deployment needs a new or empty folder, this one holds something")
    if split_address(settings.address)[1] == settings.superlink_port and not is_loopback(settings.address):
        raise SettingError(
            f"superlink_port must differ from the port of address, which is that of a proxy on the same "
            f"machine, got {settings.superlink_port}"
        )
    config = with_numbers(config)
    spec = spec_of(config, task_of(config))
    plan = plan_of(config, spec, folder.absolute().name, settings)
    plan.check_protection(settings.address)
    start = start_of(plan, spec)
    make_folder(folder)
    plan = replace(plan, initial_params=write_start(start, folder))
    shutil.copytree(app, folder / APP, ignore=shutil.ignore_patterns("__pycache__"))
    plan.write(folder)


def create_keys(folder: Path, nodes: tuple[str, ...]) -> list[Path]:
    """Makes the keys of a deployment, where they are missing, and the folders of nodes.

    Args:
        folder: The folder of the server, as `prepare_server` writes it.
        nodes: The names of new nodes.

    Returns:
        The folders to hand to the nodes, one for each name.

    Raises:
        RunError: A name is not allowed, or its node has a key already.
    """
    plan, keys = DeploymentPlan.read(folder), keys_of(folder)
    keys.create_authority(plan.address)
    folders = []
    for node in nodes:
        target = folder / NODES / node
        keys.create_node(node, target)
        _write_node(plan, target, _flower_access(plan))
        folders.append(target)
    return folders


def rotate_keys(folder: Path, node: str) -> Path:
    """Revokes a node's key and makes a new one, or makes a new certificate for the server.

    Args:
        folder: The folder of the server.
        node: The name of the node, or `"server"`.

    Returns:
        The folder to hand to the node; of the server, that of its keys.

    Raises:
        RunError: The node has no active key.
    """
    plan, keys = DeploymentPlan.read(folder), keys_of(folder)
    if node == SERVER:
        keys.rotate_server(plan.address)
        return keys.folder
    target = folder / NODES / node
    keys.rotate_node(node, target)
    _write_node(plan, target, _flower_access(plan))
    return target


def prepare_job(folder: Path, nodes: tuple[str, ...]) -> list[Path]:
    """Writes the job of NVFlare, and folders of nodes without keys, which NVFlare has itself.

    Args:
        folder: The folder of the server, as `prepare_server` writes it.
        nodes: The names of new nodes.

    Returns:
        The folder of the job, and those to hand to the nodes, one for each name.

    Raises:
        RunError: A name is not allowed.
        SettingError: People would not be protected.
    """
    from fedrecon.experiment.deploying.nvflare_engine.job import write_job

    plan = DeploymentPlan.read(folder)
    # The address of the plan is Flower's: NVFlare's nodes connect elsewhere.
    plan.check_protection(None)
    targets = [folder / NODES / check_name(node) for node in nodes]
    write_job(folder / JOB, folder)
    for target in targets:
        make_folder(target)
        _write_node(plan, target, {})
    return [folder / JOB, *targets]


def keys_of(folder: Path) -> Keys:
    """The keys of a deployment.

    Args:
        folder: The folder of the server.
    """
    return Keys(folder / KEYS)


def _write_node(plan: DeploymentPlan, folder: Path, access: Mapping[str, str]) -> None:
    plan.write(folder)
    if not (folder / CONFIG).exists():
        settings = {"data": "clients.arrow", **access}
        text = "# data: a client file (.arrow), a Parquet file or an SQLite file, see docs/deploying.md\n"
        write_atomically(folder / CONFIG, text + tomli_w.dumps(settings))


def _flower_access(plan: DeploymentPlan) -> dict[str, str]:
    return {"superlink": plan.address, "authority": CA_CERTIFICATE, "key": NODE_KEY}
