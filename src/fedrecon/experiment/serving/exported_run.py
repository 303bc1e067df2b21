"""A run as it is exported: algorithm, parameters and fields, and clients that an export is compared on."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fedrecon.algorithms._base import Algorithm
from fedrecon.data._clients import Clients
from fedrecon.datasets.text._vocabulary import OWN_FIELDS
from fedrecon.errors import DataError
from fedrecon.experiment.config import Config
from fedrecon.experiment.serving.evaluate import hold_to_data, hold_to_use, restore_parameters
from fedrecon.experiment.serving.new_clients import served_fields
from fedrecon.experiment.serving.served_run import from_folder, task_from_folder
from fedrecon.experiment.storage.digests import read_json
from fedrecon.experiment.storage.run_folder import RESULT
from fedrecon.experiment.tasks._spec import task_spec
from fedrecon.experiment.tasks._task import Task
from fedrecon.experiment.training.build import spec_of, task_of
from fedrecon.experiment.training.run_spec import RunSpec
from fedrecon.experiment.training.vocabularies import vocabularies_of
from fedrecon.export._cases import Case, cases, fields_of, ranges_of
from fedrecon.export._export import Subject
from fedrecon.export._graph.program import ExportError
from fedrecon.serving._personalization import TopK

_MOVIELENS = (
    "Trained on MovieLens data of GroupLens, University of Minnesota: their ids and titles may not be "
    "redistributed without permission, and results need the citation that their README asks for."
)

# Numbers of a user's own words: a user may have more of them than the run's clients had.
_OWN_NUMBERS = 0, 2**16 - 1

Ranges = Mapping[str, tuple[float | int, float | int]]


class Loaded(NamedTuple):
    """A run that was loaded for its export.

    Attributes:
        spec: The specification of the run; None where its data cannot be read.
        subject: The algorithm, parameters and fields that are exported.
        clients: The run's test clients, in its vocabularies; None if it has none, or its data cannot be read.
        cases: The support and query sets of these clients under the export's key.
        remarks: Remarks for the user on the parameters and the data, as sentences without a full stop.
    """

    spec: RunSpec | None
    subject: Subject
    clients: Clients | None
    cases: list[Case]
    remarks: list[str]


def load_run(run: Path, config: Config, top: int, seed: int) -> Loaded:
    """Loads a run with its data, or where these cannot be read and the folder is enough, from its folder.

    Args:
        run: The run folder.
        config: The configuration of the run.
        top: The number of items to recommend, if the run has items.
        seed: The seed of the export's key, with which the clients' examples are split.

    Raises:
        DataError: The run's data cannot be read, and its folder is not enough.
        RunError: The run's data are others than those it was trained on, or the folder is damaged.
        ExportError: The run is a centralised one.
    """
    try:
        task = task_of(config)
    except DataError as error:
        return _load_folder(run, config, top, error)
    hold_to_data(run, task, "its model is made for them: put them back where it found them")
    spec = spec_of(config, task)
    round, state, _ = restore_parameters(run, spec)
    remark = hold_to_use(run, state.global_params)
    if spec.algorithm.exchanges == "examples":
        raise ExportError(
            f"{run}: a centralised run has a row for each of its own clients, and reconstructs nobody"
        )
    # Those of the specification are numbered as the training clients are.
    clients = spec.test if spec.test is not None else spec.validation.get("validation")
    of_clients = [] if clients is None else list(cases(clients, spec.split, seed))
    ranges = _public_ranges(config) if config.privacy.on else _ranges(task)
    subject = _subject(run, config, task, spec.algorithm, state, round, ranges, top)
    return Loaded(spec, subject, clients, of_clients, [remark] if remark else [])


def _load_folder(run: Path, config: Config, top: int, error: DataError) -> Loaded:
    """Loads a run without its data; raises the error that they cannot be read where that is impossible."""
    alone, task = from_folder(run, config), task_from_folder(run, config)
    if alone is None or task is None:
        raise error
    remark = hold_to_use(run, alone.state.global_params)
    ranges = _public_ranges(config)
    subject = _subject(run, config, task, alone.algorithm, alone.state, alone.round, ranges, top)
    missing = f"the run's data cannot be read ({error}), so that random inputs alone are checked"
    return Loaded(None, subject, None, [], [x for x in (remark, missing) if x])


def _subject(
    run: Path,
    config: Config,
    task: Task,
    algorithm: Algorithm,
    state: Any,
    round: int,
    ranges: Ranges,
    top: int,
) -> Subject:
    vocabularies = vocabularies_of(run)
    fields: Collection[str] = set(served_fields(task))
    example = task.test if task.test is not None else task.train
    recommended = None
    if len(vocabularies) == 1 and config.task != "next_word":
        ((field, ids),) = vocabularies.items()
        recommended = TopK(min(top, len(ids)), field, len(ids))
    movielens = config.task in ("movielens", "ratings", "ranking") and _is_movielens(config)
    return Subject(
        algorithm=algorithm,
        state=state,
        fields={name: x for name, x in fields_of(example).items() if name in fields},
        ranges={
            name: _OWN_NUMBERS if config.task == "next_word" and name in OWN_FIELDS else ends
            for name, ends in ranges.items()
            if name in fields
        },
        top=recommended,
        vocabularies=vocabularies,
        run=config.name,
        round=round,
        privacy=privacy_of(run),
        data_notice=_MOVIELENS if movielens else "",
    )


def _public_ranges(config: Config) -> Ranges:
    """The ends of fields as settings and formats tell them, for a private run or one without its data."""
    return task_spec(config.task).public_ranges(config)


def _ranges(task: Task) -> Ranges:
    """The ends of each served field's numbers over all clients."""
    fields = set(served_fields(task))
    sets = [clients for clients in (task.train, task.validation, task.test) if clients is not None]
    every = [ranges_of(clients.select(*(f for f in clients.fields if f in fields))) for clients in sets]
    return {
        name: (min(r[name][0] for r in every if name in r), max(r[name][1] for r in every if name in r))
        for name in {name for r in every for name in r}
    }


def privacy_of(run: Path) -> dict[str, Any]:
    """The section on privacy in `model.json`: the ledger in the run's `result.json`, where there is one.

    A run without a recorded ledger makes no claim, whatever its settings.
    """
    saved = read_json(run / RESULT) if (run / RESULT).is_file() else {}
    ledger = saved.get("privacy")
    return {"differential_privacy": False} if ledger is None else {"differential_privacy": True, **ledger}


def _is_movielens(config: Config) -> bool:
    """Whether the ratings may be those of MovieLens: no other column names are set."""
    columns = getattr(config.data, "columns", None)
    return columns is None or not any(columns.model_dump().values())
