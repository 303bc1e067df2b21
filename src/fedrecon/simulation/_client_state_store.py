"""The states of clients between rounds: on the disk, and able to return to any checkpoint."""

import shutil
import tempfile
import weakref
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int, UInt64

from fedrecon.algorithms._base import Algorithm
from fedrecon.algorithms._building_blocks import subkeys
from fedrecon.core._types import ClientState, Params, PRNGKey
from fedrecon.data._clients import Clients
from fedrecon.errors import DataError
from fedrecon.simulation._append_log import Log

_ROUND, _CLIENT = "round", "client"
# A log is compacted when it has more than twice as many records as clients and so many bytes are superfluous.
_OUTDATED, _WORTH = 2, 2**24


class StoredClientState(NamedTuple):
    """The stored states of some clients.

    Attributes:
        seen: Whether a client has a stored state, `[client]`.
        value: The states, a pytree whose leaves start with the axis `client`; zeros for a client without one.
    """

    seen: Bool[Any, "*client"]
    value: Any


def current_client_state(
    algorithm: Algorithm, global_params: Params, stored: ClientState, key: PRNGKey
) -> Any:
    """A client's state at the start of a round: the stored one, or in its first round the initial one.

    Args:
        algorithm: The algorithm whose `init_client_state` makes the first state.
        global_params: The global parameters that reached the client.
        stored: The stored state of this client; `()` where nothing is stored for any client.
        key: The client's random key of this round.
    """
    fresh = algorithm.init_client_state(global_params, *subkeys(key, 1, first=2))
    if not isinstance(stored, StoredClientState):
        return fresh
    return jax.tree.map(lambda a, b: jnp.where(stored.seen, a, b), stored.value, fresh)


class ClientStateStore:
    """The states of all clients, by the hash of the client's name.

    Each round appends one record per client to a log, and a client's last record counts; nothing is changed
    in place. A checkpoint is therefore a number of records (`commit`), and a return to it forgets the records
    beyond that number. A log that is mostly outdated is compacted under another name, and the old one stays
    for the checkpoints that need it. Memory holds 16 bytes per client of the population.

    Args:
        like: Shapes and types of the leaves of one client's state.
        keys: The hashes of the names of all clients that may have a state, `[client]`.
        folder: The folder of the logs, made when the first record is written; None, the default, for a
            temporary folder.
    """

    def __init__(self, like: ClientState, keys: UInt64[np.ndarray, "client"], folder: Path | None = None):
        leaves, self._structure = jax.tree.flatten(like)
        self._names = [str(i) for i in range(len(leaves))]
        parts = [(n, x.dtype, x.shape) for n, x in zip(self._names, leaves, strict=True)]
        self.dtype = np.dtype([(_ROUND, np.int64), (_CLIENT, np.uint64), *parts])
        self._keys = np.sort(keys)
        self._last = np.full(len(keys), -1, np.int64)
        self._folder, self._temporary = folder, folder is None
        self._log = Log(self._path(0), self.dtype)
        self._clients = 0  # the number of clients with a record
        self._newest = -1  # the round of the last record
        self._since = 0  # the log can return to the state after any number of rounds from this one on
        self._pending: list[tuple[int, Any, Any]] = []
        self._held: str | None = None
        self._origin: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles the present states: what an earlier checkpoint needs stays with the files."""
        self._flush()
        shapes = [self.dtype[name] for name in self._names]
        like = jax.tree.unflatten(self._structure, [np.zeros(x.shape, x.base) for x in shapes])
        present = np.sort(self._last[self._last >= 0])
        return ClientStateStore._of_records, (like, self._keys, self._log.read(present))

    @staticmethod
    def _of_records(
        like: ClientState, keys: UInt64[np.ndarray, "client"], records: np.ndarray
    ) -> "ClientStateStore":
        """A store in a temporary folder with these records, one for each client that keeps something."""
        store = ClientStateStore(like, keys)
        if len(records):
            store._make_folder()
            store._log.append(records)
        store._go_to(len(records))
        store._since = store._newest + 1
        return store

    @staticmethod
    def of(algorithm: Algorithm, clients: Clients, folder: Path | None = None) -> "ClientStateStore | None":
        """The store for an algorithm's clients; None for a stateless algorithm.

        Args:
            algorithm: The algorithm whose clients have the states.
            clients: The clients of the population.
            folder: The folder of the logs; None, the default, for a temporary folder.
        """
        key = jax.random.key(0)
        like = jax.eval_shape(lambda k: algorithm.init_client_state(algorithm.model.init_global(k), k), key)
        return ClientStateStore(like, clients.keys, folder) if jax.tree.leaves(like) else None

    def knows(self, keys: UInt64[np.ndarray, "client"]) -> bool:
        """Whether any of these clients belongs to the population."""
        return bool(self._positions(keys)[1].any())

    def get(self, keys: UInt64[np.ndarray, "client"], places: int) -> StoredClientState:
        """The states of some clients; waits for rounds that are still computed.

        Args:
            keys: The hashes of the clients' names. A client outside the population counts as one without a
                state.
            places: The number of entries of the result: first those of the clients, then empty ones.
        """
        self._flush()
        numbers = np.full(places, -1, np.int64)
        where, known = self._positions(keys)
        numbers[: len(keys)][known] = self._last[where[known]]
        seen = numbers >= 0
        records = np.zeros(places, self.dtype)
        records[seen] = self._log.read(numbers[seen])
        leaves = [np.ascontiguousarray(records[name]) for name in self._names]
        return StoredClientState(seen, jax.tree.unflatten(self._structure, leaves))

    def put(self, round: int, keys: UInt64[np.ndarray, "client"], value: ClientState) -> None:
        """Stores the states of clients after a round; they are fetched from the device when next needed.

        Args:
            round: The number of rounds done before this one, not below that of an earlier call.
            keys: The hashes of the clients' names.
            value: The states, a pytree whose leaves start with the axes `[block, client]`; the first places
                belong to the clients.
        """
        self._pending.append((round, keys, value))

    def rewind(self, done: int) -> None:
        """Goes back to the states after `done` rounds.

        Raises:
            ValueError: The log was compacted after that round, and no longer has its states.
        """
        self._pending = [entry for entry in self._pending if entry[0] < done]
        if done > self._newest:
            return
        if done < self._since and done > 0:
            raise ValueError(
                f"what clients kept after {done} rounds is known no more, only since round {self._since}; "
                "start a new simulation from a checkpoint of that round"
            )
        self._go_to(int(np.searchsorted(self._log.column(_ROUND), done)))
        self._since = min(self._since, done)

    def commit(self, done: int) -> dict[str, Any]:
        """Puts the states after `done` rounds on the disk; those of earlier rounds may be gone afterwards.

        Returns:
            The mark with which `restore` returns to these states, as JSON values.
        """
        self.rewind(done)
        self._flush()
        self._tidy(done)
        return self.mark(done)

    def mark(self, done: int) -> dict[str, Any]:
        """Puts the states after `done` rounds on the disk as `commit` does, but never compacts the log."""
        self.rewind(done)
        self._flush()
        self._log.sync()
        return {
            "file": self._log.path.name,
            "records": self._log.count,
            "checksum": self._log.checksum(),
            "since": self._since,
            "record": self._described(),
        }

    def restore(self, mark: Mapping[str, Any] | None) -> None:
        """Returns to states that were committed; files change only with the next round.

        Args:
            mark: The mark that `commit` or `mark` returned; None for the start, without any states.

        Raises:
            DataError: The log is missing or damaged, or holds states of other shapes or types.
        """
        self._pending = []
        if mark is None:
            self._log, self._since = Log(self._path(0), self.dtype), 0
            self._go_to(0)
            return
        path = self._path(mark["file"])
        if mark["record"] != self._described():
            raise DataError(
                f"{path}: clients keep {mark['record']} there and {self._described()} in this run"
            )
        size, wanted = path.stat().st_size if path.exists() else 0, mark["records"] * self.dtype.itemsize
        if size < wanted:
            raise DataError(f"{path}: what clients keep is cut short: {size:,} of {wanted:,} bytes are there")
        self._log, self._since = Log(path, self.dtype, mark["records"]), mark["since"]
        if self._log.checksum() != mark["checksum"]:
            raise DataError(f"{path}: what clients keep is not what was written")
        self._go_to(mark["records"])

    def records(self, mark: Mapping[str, Any]) -> Any:
        """The records of the committed states of a mark, `[record]`, for `adopt`."""
        log = Log(self._path(mark["file"]), self.dtype, mark["records"])
        return log.read(np.arange(mark["records"]))

    def adopt(self, mark: Mapping[str, Any], records: np.ndarray) -> None:
        """Writes the records of another process's mark to a log, where `restore` finds them."""
        self._make_folder()
        Log(self._path(mark["file"]), self.dtype).append(records)

    def at(self, mark: Mapping[str, Any] | None) -> "ClientStateStore":
        """A second view of the store at a committed mark, or at the start, to be read only."""
        # `copy.copy` would copy as pickling does: the present states only, in a folder of their own.
        view = object.__new__(ClientStateStore)
        vars(view).update(vars(self))
        view._last, view._temporary = self._last.copy(), False
        view._origin = self  # keeps the store, and with it a temporary folder, alive
        view.restore(mark)
        return view

    def hold(self, mark: Mapping[str, Any] | None) -> None:
        """Keeps the log of a mark from being removed, until another mark is held."""
        self._held = None if mark is None else mark["file"]

    def remove_all_but(self, marks: Collection[Mapping[str, Any]]) -> None:
        """Removes the logs that neither these marks, the held mark, nor the present states need."""
        needed = {mark["file"] for mark in marks} | {self._log.path.name, self._held}
        for path in () if self._folder is None else self._folder.glob("*.log*"):
            if path.name not in needed:
                path.unlink()

    def _flush(self) -> None:
        if not self._pending:
            return
        fetched = jax.device_get([value for _, _, value in self._pending])
        for (round, keys, _), value in zip(self._pending, fetched, strict=True):
            where, known = self._positions(keys)
            if not known.all():
                raise ValueError("only clients of the population can keep something")
            records = np.empty(len(keys), self.dtype)
            records[_ROUND], records[_CLIENT] = round, keys
            for name, leaf in zip(self._names, jax.tree.leaves(value), strict=True):
                records[name] = np.reshape(leaf, (-1, *self.dtype[name].shape))[: len(keys)]
            self._make_folder()
            self._log.append(records)
            self._clients += int(np.count_nonzero(self._last[where] < 0))
            self._last[where] = self._log.count - len(keys) + np.arange(len(keys))
            self._newest = round
        self._pending = []
        if self._temporary:
            self._tidy(self._newest + 1)

    def _make_folder(self) -> None:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="fedrecon-kept-"))
            self._log.path = self._path(self._log.path.name)
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True, exist_ok=True)

    def _tidy(self, done: int) -> None:
        """Compacts the log to each client's last record if most of it is outdated.

        The new log cannot return to rounds before `done`. It has another name, so that checkpoints with a
        mark of the old one stay usable.
        """
        if self._log.count * self.dtype.itemsize < _WORTH:
            return
        excess = self._log.count - _OUTDATED * self._clients
        if excess * self.dtype.itemsize < _WORTH:
            return
        old, order = self._log, np.argsort(self._last)
        order = order[self._last[order] >= 0]
        self._log = old.copied(self._path(int(old.path.stem) + 1), self._last[order])
        self._last[order] = np.arange(len(order))
        if self._temporary:
            self.remove_all_but([])
        self._since = done

    def _go_to(self, count: int) -> None:
        self._log.cut(count)
        self._last[:] = -1
        where, _ = self._positions(self._log.column(_CLIENT))
        self._last[where] = np.arange(count)  # NumPy assigns in order: a client's last record wins
        self._clients = int(np.count_nonzero(self._last >= 0))
        self._newest = int(self._log.read(np.array([count - 1]))[_ROUND][0]) if count else -1

    def _positions(
        self, keys: UInt64[np.ndarray, "row"]
    ) -> tuple[Int[np.ndarray, "client"], Bool[np.ndarray, "client"]]:
        """The clients' places in the population, and which of them belong to it."""
        where = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return where, self._keys[where] == keys

    def _path(self, name: int | str) -> Path:
        file = f"{name}.log" if isinstance(name, int) else name
        return Path(file) if self._folder is None else self._folder / file

    def _described(self) -> str:
        return ", ".join(f"{x.base}{list(x.shape)}" for x in (self.dtype[name] for name in self._names))
