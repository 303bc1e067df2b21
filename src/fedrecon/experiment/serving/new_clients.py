"""Prepares clients of other data for serving, in the way in which a run serves its own clients.

The order of the steps is fixed here, for all commands: the clients are loaded, their ids are mapped to the
run's vocabularies, fields are narrowed to 32 bits, and the fields that serving needs are added; for an
evaluation also the mark on held-out examples.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Int

from fedrecon.data._client_file.file import is_client_file
from fedrecon.data._clients import Clients
from fedrecon.data._holdout import HELD_OUT
from fedrecon.data._vocabulary_mapper import VocabularyMapper
from fedrecon.errors import DataError
from fedrecon.experiment.config import Config, override
from fedrecon.experiment.tasks._spec import no_other_data, task_spec
from fedrecon.experiment.tasks._task import Task

Purpose = Literal["evaluation", "personalization"]


class Prepared(NamedTuple):
    """Clients prepared for serving.

    Attributes:
        mapped: The clients in the run's vocabularies, with all of their items.
        served: The same clients with only the examples and fields that the run serves clients by.
        left_out: The number of examples that were left out, because the run does not know their items.
    """

    mapped: Clients
    served: Clients
    left_out: int


@dataclass(frozen=True, eq=False)
class NewClients:
    """Clients of other data that are loaded and can be prepared, all at once or part by part.

    Attributes:
        config: The configuration of the run that serves them.
        loaded: The clients as they were read, before any other step.
        remark: The remark of the task on the clients' vocabulary; `""` where `mapper` maps their ids.
        mapper: Maps the ids of the clients' fields to the run's; None where the task has done that.
        fields: The fields that the run serves clients by.
        purpose: Whether the clients are prepared for `"evaluation"` or for `"personalization"`.
    """

    config: Config
    loaded: Clients
    remark: str
    mapper: VocabularyMapper | None
    fields: tuple[str, ...]
    purpose: Purpose

    def prepare(self, indices: Int[np.ndarray, " clients"] | None = None) -> Prepared:
        """Prepares some of the clients, or all of them, in the way in which the run serves its own.

        Several threads may call it at the same time.

        Args:
            indices: The positions of the clients among those loaded, `[clients]`; None, the default, for all.

        Raises:
            DataError: An example has several numbers of a field whose vocabulary is another; or no client is
                left to evaluate.
        """
        spec, config = task_spec(self.config.task), self.config
        some = self.loaded if indices is None else self.loaded.take(indices)
        mapped, left_out = (some, 0) if self.mapper is None else self.mapper(some)
        served = spec.narrow_fields(config, mapped)
        if self.purpose == "evaluation":
            served = spec.hold_out_for_evaluation(config, served)
        else:
            served = spec.add_serving_fields(config, served)
        served = config.algorithm.prepare_unseen(served)
        marked = self.purpose == "evaluation" and HELD_OUT in served.fields
        return Prepared(mapped, served.select(*self.fields, *([HELD_OUT] if marked else [])), left_out)


def prepare_new_clients(
    config: Config,
    data: str,
    vocabularies: Mapping[str, list[Any]],
    fields: tuple[str, ...],
    purpose: Purpose,
) -> NewClients:
    """Loads clients of other data; `NewClients.prepare` then does the other steps.

    Args:
        config: The configuration of the run.
        data: The path of data that the run's task reads, or for a personalisation of a client file.
        vocabularies: The original ids of each field that has them, in the order of the run's numbers.
        fields: The fields that the run serves clients by, as `served_fields` returns them.
        purpose: Whether the clients are prepared for `"evaluation"` or for `"personalization"`.

    Raises:
        SettingError: The task reads no data but its own.
        DataError: The data cannot be read, hold no client to personalise, lack a vocabulary that the run has,
            or have no id in common with it.
    """
    loaded, remark = _load(config, data, vocabularies, fields, purpose)
    if purpose == "personalization" and not len(loaded):
        raise DataError(f"{data}: there must be a client to personalise, there is none")
    mapper = None if remark else VocabularyMapper(loaded.vocabularies, vocabularies)
    return NewClients(config, loaded, remark, mapper, fields, purpose)


def served_fields(task: Task) -> tuple[str, ...]:
    """The fields that a run serves clients by: those of its evaluation, which may have more than training."""
    sets = (task.test, task.validation, *task.held_out.values(), task.train)
    first = next(clients for clients in sets if clients is not None)
    return tuple(name for name in first.fields if name != HELD_OUT)


def _load(
    config: Config,
    data: str,
    vocabularies: Mapping[str, list[Any]],
    fields: tuple[str, ...],
    purpose: Purpose,
) -> tuple[Clients, str]:
    """The clients, and the remark of their task if it puts them into the run's vocabularies itself."""
    spec = task_spec(config.task)
    if purpose == "personalization" and is_client_file(data):
        clients, remark = spec.open_client_file(config, data), ""
    else:
        if "path" not in spec.Data.model_fields:
            raise no_other_data(config.task, data)
        moved = override(config, {"data": {"path": data}})
        clients, remark = spec.load_in_vocabulary(moved, vocabularies) or (spec.load_all_clients(moved), "")
    needed = spec.fields_to_load(fields)
    if purpose == "personalization" and needed is not None:
        # Other fields are left out: they would be mapped and held in memory, and not be used.
        clients = clients.select(*(name for name in needed if name in clients.fields))
    return clients, remark
