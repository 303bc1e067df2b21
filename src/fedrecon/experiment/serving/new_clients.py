"""Clients that a run did not have, made ready to be served as it serves its own."""

from collections.abc import Mapping
from typing import Any

from fedrecon.data._arrow import is_client_file
from fedrecon.data._clients import Clients
from fedrecon.data._holdout import HELD_OUT
from fedrecon.experiment.config import Config, override, task_module
from fedrecon.experiment.serving.vocabulary_mapping import VocabularyMapper
from fedrecon.experiment.settings.sections import SettingError
from fedrecon.experiment.tasks._base import Task


def in_vocabularies(config: Config, data: str, known: Mapping[str, list[Any]]) -> tuple[Clients, str]:
    """All clients of other data in a run's vocabularies, and what there is to say about them.

    Args:
        config: The run's.
        data: What its task reads.
        known: The run's vocabularies.

    Raises:
        SettingError: The task reads no data but its own.
        DataError: They cannot be read.
    """
    clients, said = _read(config, data, known)
    if said:
        return clients, said
    clients, unknown = VocabularyMapper(clients.vocabularies, known)(clients)
    return clients, f"{unknown:,} examples left out, of items unknown to the run"


def to_serve(config: Config, data: str, known: Mapping[str, list[Any]], fields: tuple[str, ...]) -> Clients:
    """All clients of other data, with what `ready` needs of them; yet to be matched.

    Args:
        config: The run's.
        data: A client file, or what the run's task reads.
        known: The run's vocabularies.
        fields: Those that the run serves clients by.

    Raises:
        SettingError: It is no client file, and the task reads no data but its own.
        DataError: They cannot be read.
    """
    if hasattr(task_module(config.task), "served"):
        return _read(config, data, known)[0]
    clients = Clients.open(data) if is_client_file(data) else _read(config, data, known)[0]
    return clients.select(*(name for name in fields if name in clients.fields))


def ready(config: Config, clients: Clients, fields: tuple[str, ...]) -> Clients:
    """Clients in a run's vocabularies, with the fields that it serves clients by."""
    module = task_module(config.task)
    if hasattr(module, "served"):
        clients = module.served(config, clients)
    if hasattr(module, "narrowed"):
        clients = module.narrowed(config, clients)
    unseen: Clients = config.algorithm.prepare_unseen(clients)
    return unseen.select(*fields)


def asked(config: Config, clients: Clients, fields: tuple[str, ...]) -> Clients:
    """Clients as `ready`; with a mark on what they are asked for, where the run's task knows."""
    module = task_module(config.task)
    if not hasattr(module, "asked"):
        return ready(config, clients, fields)
    unseen: Clients = config.algorithm.prepare_unseen(module.asked(config, clients))
    return unseen.select(*(name for name in unseen.fields if name in (*fields, HELD_OUT)))


def served_fields(task: Task) -> tuple[str, ...]:
    """The fields that a run serves clients by: those of its evaluation, maybe more than in training."""
    sets = (task.test, task.validation, *task.held_out.values(), task.train)
    first = next(clients for clients in sets if clients is not None)
    return tuple(name for name in first.fields if name != HELD_OUT)


def _read(config: Config, data: str, known: Mapping[str, list[Any]]) -> tuple[Clients, str]:
    """The clients; where their task puts them in a run's vocabularies, what there is to say about that."""
    module = task_module(config.task)
    if hasattr(module, "matched"):
        found: tuple[Clients, str] = module.matched(override(config, {"data": {"path": data}}), known)
        return found
    if hasattr(module, "everyone"):
        return module.everyone(override(config, {"data": {"path": data}})), ""
    raise SettingError(
        f"--data: runs of the task {config.task} take no data but their own, and where clients are "
        f"personalised a client file, got {data!r}"
    )
