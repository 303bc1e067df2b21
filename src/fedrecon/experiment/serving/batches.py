"""Personalises clients that come in Arrow record batches, in whatever process the batches are.

Ray, Spark and others cut a table of clients into batches as they like, and may do a batch again. So a
client's results must depend on nothing but the client: clients are padded to lengths that are fixed
beforehand, ids are mapped by the run's vocabularies alone, and types follow from the schema and not from the
values of a batch.
"""

import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fedrecon.core._array_like import FilePath
from fedrecon.core._model import leaves_of
from fedrecon.data import _arrow_bridge as bridge
from fedrecon.data._clients import Clients
from fedrecon.data._vocabulary_mapper import VocabularyMapper
from fedrecon.errors import DataError, RunError
from fedrecon.experiment.config import Config, load_saved
from fedrecon.experiment.serving.evaluate import hold_to_use, serve
from fedrecon.experiment.serving.new_clients import NewClients
from fedrecon.experiment.serving.served_run import ServedRun
from fedrecon.experiment.serving.wanted import Wanted, local_leaves, table_of, top_of
from fedrecon.experiment.settings.sections import SettingError
from fedrecon.experiment.storage.digests import digest_of
from fedrecon.experiment.storage.run_folder import CONFIG, read_fingerprint
from fedrecon.experiment.tasks._spec import task_spec
from fedrecon.experiment.training.run_spec import arrays_digest, ids_digest
from fedrecon.experiment.training.vocabularies import vocabularies_of
from fedrecon.serving._personalization import Personalization, TopK, check_lengths

if TYPE_CHECKING:
    import pyarrow as pa

# Each about half again as long as the one before: a third of the places is empty at most, and there are few
# programs to compile.
_LENGTHS: tuple[int, ...] = (
    10,
    20,
    30,
    50,
    80,
    120,
    180,
    270,
    400,
    600,
    900,
    1350,
    2000,
    3000,
    4500,
    6800,
    10_000,
)
_LENGTHS += tuple(length * 1000 for length in (15, 22, 33, 50, 75, 110, 165, 250, 375, 560, 840, 1260))


@dataclass(frozen=True)
class BatchPersonalizer:
    """Personalises clients in Arrow record batches; `personalize_batches` makes it.

    It can be pickled, and opens the run again in the process in which it is called, once for many calls.

    Attributes:
        run: The absolute path of the run folder.
        wanted: The options, which decide what is written of each client.
        client: The name of the column that holds the clients' names.
        code: Modules and functions that the run names and that may run.
        lengths: The numbers of examples to which clients are padded, ascending.
        identity: A digest of the run as it was when this was made. A process that finds another run in its
            place refuses it.
    """

    run: str
    wanted: Wanted
    client: str
    code: tuple[str, ...]
    lengths: tuple[int, ...]
    identity: str

    def __call__(self, batches: "Iterable[pa.RecordBatch]") -> "Iterator[pa.RecordBatch]":
        """Personalises batch after batch.

        Args:
            batches: Record batches with a row for each client: its name, and for each field a list with a
                value per example. Ids of items are those of the data that the run was trained on; examples
                of others are left out.

        Yields:
            For each batch one with as many rows in the same order: the column of names as it came, and the
            results, as `schema` says. They are the same bits whatever other clients are in a batch, on
            processors of one kind and the same number of devices.

        Raises:
            DataError: A batch has no such columns, values are missing, or a client has too many examples.
            RunError: The run is another than when this was made, or its folder is damaged.
        """
        opened = _open(self)
        for batch in batches:
            yield _personalized(self, opened, batch)

    def schema(self, client: "pa.DataType") -> "pa.Schema":
        """The schema of what comes back.

        Args:
            client: The type of the column of names.
        """
        return _schema(self, _open(self), client)


def personalize_batches(
    run: FilePath,
    *,
    top: int | None = None,
    field: str | None = None,
    seen: bool = False,
    client: str = "client",
    code: Sequence[str] = (),
    lengths: Sequence[int] = _LENGTHS,
) -> BatchPersonalizer:
    """A function that personalises clients in Arrow record batches, for engines such as Spark and Ray.

    Args:
        run: The folder of a finished run, which every process that calls the function must see.
        top: The number of items to recommend to each client; None, the default, for its local parameters.
        field: The field of the items; None, the default, for the only one that has original ids.
        seen: Whether items that a client has may be recommended; False by default.
        client: The name of the column that holds the clients' names.
        code: Modules and functions that the run names and that may run; none by default.
        lengths: The numbers of examples to which clients are padded, ascending; a program is compiled for
            each that is used. By default 10, 20, 30, 50, 80 and so on up to 1,260,000.

    Returns:
        A function of an iterable of record batches, which gives an iterator of record batches and can be
        pickled.

    Raises:
        RunError: The run cannot be served.
        SettingError: The options do not fit the run.
        ValueError: `lengths` do not ascend.

    Example:
        >>> import fedrecon as fr
        >>> personalize = fr.personalize_batches("runs/mine", top=20)  # doctest: +SKIP
        >>> best = list(personalize(clients.to_batches()))  # doctest: +SKIP
    """
    path = Path(run).absolute()
    if not (path / CONFIG).is_file():
        raise RunError(f"{path}: a run folder must have a {CONFIG}, this has none")
    ascending = tuple(check_lengths(lengths))
    try:
        opened = _Opened.of(path, tuple(code), Wanted(top, field, seen), ascending)
    except SettingError as error:  # which names the options of the command
        raise SettingError(re.sub(r"--(top|field)\b", r"\1", str(error))) from None
    return BatchPersonalizer(
        str(path),
        Wanted(top, field, seen),
        client,
        tuple(code),
        ascending,
        opened.identity,
    )


class _Opened(NamedTuple):
    """A run that is open to serve clients."""

    config: Config
    served: ServedRun
    vocabularies: dict[str, Any]
    top: TopK | None
    personalization: Personalization
    identity: str

    @staticmethod
    def of(path: Path, code: tuple[str, ...], wanted: Wanted, lengths: tuple[int, ...]) -> "_Opened":
        config = load_saved(path, code)
        served = serve(path, config)
        hold_to_use(path, served.state.global_params)
        vocabularies = vocabularies_of(path)
        top = top_of(wanted, vocabularies)
        if top is None:
            local_leaves(served.algorithm, served.state)
        personalization = Personalization(
            served.algorithm,
            served.state,
            np.zeros(0, np.int64),
            seed=served.seed,
            top=top,
            client_states=served.client_states,
            lengths=lengths,
        )
        content = {
            "run": read_fingerprint(path),
            "round": served.round,
            "params": arrays_digest(served.state.global_params),
            "vocabularies": ids_digest(vocabularies),
        }
        return _Opened(config, served, vocabularies, top, personalization, digest_of(content))


@functools.lru_cache(maxsize=2)  # few, since each keeps its compiled programs
def _open(personalizer: BatchPersonalizer) -> _Opened:
    run, wanted = Path(personalizer.run), personalizer.wanted
    opened = _Opened.of(run, personalizer.code, wanted, personalizer.lengths)
    if opened.identity != personalizer.identity:
        raise RunError(
            f"{run}: must be the run for which the function was made, holds another one, or was trained on"
        )
    return opened


def _personalized(personalizer: BatchPersonalizer, opened: _Opened, batch: "pa.RecordBatch") -> Any:
    import pyarrow as pa

    columns = _served_columns(personalizer.client, opened, batch.schema)
    names = bridge.decoded(batch.column(personalizer.client))
    schema = _schema(personalizer, opened, names.type)
    if not len(batch):
        return pa.RecordBatch.from_pylist([], schema)
    # Other columns are left out, whatever they hold.
    rows = pa.Table.from_batches([batch]).select([personalizer.client, *columns])
    clients = Clients.from_table(rows, personalizer.client, vocabularies=list(opened.vocabularies))
    clients = task_spec(opened.config.task).accept_clients(opened.config, clients, "a batch")
    mapper = VocabularyMapper(clients.vocabularies, opened.vocabularies, is_part=True)
    new = NewClients(opened.config, clients, "", mapper, opened.served.fields, "personalization")
    mapped, served, _ = new.prepare()
    try:
        results = opened.personalization(_in_32_bits(served, batch.schema), mapped)
    except ValueError as error:
        raise DataError(f"a batch of clients cannot be personalised: {error}") from error
    table = table_of(clients.ids, results, opened.top, opened.vocabularies)
    arrays = [names, *(bridge.one_chunk(table[name]) for name in schema.names[1:])]
    arrays = [x if x.type == kind else x.cast(kind) for x, kind in zip(arrays, schema.types, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _served_columns(client: str, opened: _Opened, schema: "pa.Schema") -> list[str]:
    """The names of the columns that clients are served by.

    Raises:
        DataError: One is missing, or holds no lists.
    """
    names = [name for name in schema.names if name != client]
    if client not in schema.names:
        raise DataError(f"column {client!r}, which names the client, is missing; there are {names}")
    needed = task_spec(opened.config.task).fields_to_load(opened.served.fields)
    columns = list(dict.fromkeys([*opened.vocabularies, *(names if needed is None else needed)]))
    for name in columns:
        if name not in names:
            raise DataError(f"column {name!r}, by which clients are served, is missing; there are {names}")
        kind = schema.field(name).type
        if not bridge.is_list(kind):
            raise DataError(f"a row must be a client, and column {name!r} hold lists, got {kind}")
    return columns


def _in_32_bits(clients: Clients, schema: "pa.Schema") -> Clients:
    """Clients whose floats are of 32 bits, which `Clients` stores as other numbers where all of them fit."""
    import pyarrow as pa

    other = {}
    for name in clients.fields:
        kind = schema.field(name).type if name in schema.names else pa.null()
        while bridge.is_list(kind) or pa.types.is_fixed_size_list(kind):
            kind = kind.value_type
        if pa.types.is_floating(kind) and clients.blank(name, 0).dtype != np.float32:
            other[name] = clients.column(name).astype(np.float32)
    return clients.with_columns(**other) if other else clients


def _schema(personalizer: BatchPersonalizer, opened: _Opened, client: "pa.DataType") -> "pa.Schema":
    import pyarrow as pa

    columns = [(personalizer.client, bridge.without_views(bridge.value_type(client)))]
    top, served = opened.top, opened.served
    if top is not None:
        is_whole = np.asarray(opened.vocabularies[top.field]).dtype.kind in "iu"
        kinds = {top.field: pa.int64() if is_whole else pa.string(), "score": pa.float32()}
        # Plain lists, since Spark has no large ones.
        return pa.schema([*columns, *((name, pa.list_(kind)) for name, kind in kinds.items())])
    for name, leaf in leaves_of(local_leaves(served.algorithm, served.state)).items():
        kind = pa.from_numpy_dtype(leaf.dtype)
        for length in reversed(leaf.shape):
            kind = pa.list_(kind, length)
        columns.append((name, kind))
    return pa.schema(columns)
