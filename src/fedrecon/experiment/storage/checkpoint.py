"""Checkpoints of a run: pytrees of arrays, saved exactly and atomically."""

import errno
import json
import logging
import shutil
import threading
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrecon._files import being_written, leftovers, make_folder, remove, rename, sync_tree, write_atomically
from fedrecon.errors import RunError
from fedrecon.experiment.storage.digests import DIGEST, digest_of, seal, warn_unchecked

INFO = "info.json"
ARRAYS = "arrays"
# A checkpoint's bytes beside the arrays' own, measured with Orbax 0.12: at most .85 kB of names, types and
# digests for an array, and eight small files in blocks of 4 kB. Compressed arrays take less than their bytes.
_LEAF_BYTES, _FOLDER_BYTES = 1024, 65_536


class CheckpointError(RunError):
    """A checkpoint that is cut short or belongs to other parameters; the message names it."""


class Checkpoint(NamedTuple):
    """A checkpoint that was read.

    Attributes:
        round: The number of rounds done when it was saved.
        tree: The saved pytree, with NumPy arrays as its leaves.
        info: The JSON values that were saved beside the arrays.
    """

    round: int
    tree: Any
    info: dict[str, Any]


class Checkpoints:
    """The checkpoints in a folder, one subfolder for each round that has one.

    Orbax writes a checkpoint under another name; then it is synced to the disk with a list of its files, and
    renamed. So a checkpoint with its proper name is whole, unless somebody cut it short afterwards: the list
    of sizes and checksums shows that.

    Args:
        folder: The folder of the checkpoints; it is made when the first one is saved.
        keep: The number of the latest checkpoints that remain; 2 by default.
    """

    def __init__(self, folder: Path, keep: int = 2):
        # Orbax takes no relative paths.
        self.folder, self.keep = folder.absolute(), keep
        self._orbax: Any = None

    def rounds(self) -> list[int]:
        """The rounds of the committed checkpoints, in ascending order."""
        return sorted(int(p.name) for p in self.folder.glob("*") if p.name.isdecimal() and p.is_dir())

    def latest(self) -> int | None:
        """The round of the last committed checkpoint, never a half-written one; None if there is none."""
        return max(self.rounds(), default=None)

    def clean(self) -> None:
        """Removes the half-written and half-removed checkpoints that a kill left, and old ones."""
        for path in leftovers(self.folder):
            remove(path)
        self._forget_old()

    def save(self, round: int, tree: Any, info: Mapping[str, Any] | None = None) -> None:
        """Saves a checkpoint, and removes the oldest ones beyond `keep`.

        Args:
            round: The number of rounds done, which names the checkpoint's folder.
            tree: A pytree of arrays, which may be keys of `jax.random`. Saving waits until they are computed.
            info: JSON values to save beside the arrays; by default none.
        """
        final = self.folder / str(round)
        if final.exists():
            return
        if not self.folder.parent.exists():
            raise RunError(f"{self.folder.parent}: the run folder was removed while the run was using it")
        make_folder(self.folder)
        leaves = _leaves(tree)
        self._check_room(round, leaves)
        try:
            temporary = being_written(final)
            if temporary.exists():
                remove(temporary)
            temporary.mkdir()
            with _quiet():
                self._handler().save(temporary / ARRAYS, {n: x for n, x in leaves.items() if x.size})
            described = {
                "round": round,
                "info": dict(info or {}),
                "leaves": {name: _describe(leaf) for name, leaf in leaves.items()},
                "files": {name: _signature(temporary / name) for name in _files(temporary)},
            }
            write_atomically(temporary / INFO, json.dumps(seal(described), indent=1))
            # The list of checksums is written last, and all content is synced before the rename: the name
            # says that the checkpoint is whole, also after a power cut. An old checkpoint is removed only
            # after that, so that there is always one to resume from.
            sync_tree(temporary)
            rename(temporary, final)
        # Orbax raises many kinds of errors where a file cannot be written, and some do not name the file.
        except (OSError, ValueError, RuntimeError) as error:
            raise self._unwritable(round, error) from None
        self._forget_old()

    def _forget_old(self) -> None:
        for old in self.rounds()[: -self.keep]:
            remove(self.folder / str(old))

    def restore(self, round: int, target: Any) -> Checkpoint:
        """Reads the checkpoint of a round.

        Args:
            round: The round of a committed checkpoint.
            target: A pytree of arrays of the structure, shapes and types that were saved.

        Raises:
            CheckpointError: A file of the checkpoint is missing or not as it was written, or its arrays have
                other paths, shapes or types than those of `target`.
        """
        path = self.folder / str(round)
        described = self.describe(round)
        wanted = _leaves(target)
        saved = described["leaves"]
        for name in [*saved, *wanted]:
            here = _describe(wanted[name]) if name in wanted else None
            if saved.get(name) != here:
                there = _show(saved.get(name))
                raise CheckpointError(
                    f"{path}: the array {name} is {there} there and {_show(here)} in this run"
                )
        full = self._read(path, saved)
        flat, structure = jax.tree.flatten(target)
        arrays = [_as(like, full[name]) for like, name in zip(flat, wanted, strict=True)]
        return Checkpoint(round, jax.tree.unflatten(structure, arrays), described["info"])

    def arrays(self, round: int) -> dict[str, np.ndarray]:
        """The arrays of a round's checkpoint by their paths in the tree.

        Raises:
            CheckpointError: A file of the checkpoint is missing or not as it was written.
        """
        return self._read(self.folder / str(round), self.describe(round)["leaves"])

    def info(self, round: int) -> dict[str, Any]:
        """The JSON values that were saved beside the arrays of a round; `{}` if they cannot be read.

        The files of the arrays are not read, and not checked.
        """
        try:
            info: dict[str, Any] = self._info(round)["info"]
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        return info

    def describe_info(self, round: int) -> dict[str, Any]:
        """The JSON values that were saved beside the arrays of a round, after a check of their digest.

        The files of the arrays are not read, and not checked.

        Raises:
            CheckpointError: The values are not what was written, or cannot be read.
        """
        try:
            info: dict[str, Any] = self._info(round)["info"]
        except CheckpointError:
            raise
        except (OSError, ValueError, KeyError, TypeError):
            raise self._broken(self.folder / str(round), INFO, "is missing or cut short") from None
        return info

    def _info(self, round: int) -> dict[str, Any]:
        path = self.folder / str(round) / INFO
        values = json.loads(path.read_text())
        if DIGEST not in values:
            warn_unchecked(self.folder.parent)
            return dict(values)
        rest = {name: value for name, value in values.items() if name != DIGEST}
        if digest_of(rest) != values[DIGEST]:
            raise self._broken(path.parent, INFO, "is not what was written")
        return rest

    def describe(self, round: int) -> dict[str, Any]:
        """The content of a checkpoint's `info.json`, after all files were checked against it.

        Raises:
            CheckpointError: A file of the checkpoint is missing or not as it was written.
        """
        path = self.folder / str(round)
        try:
            described = self._info(round)
            files = described["files"]
        except CheckpointError:
            raise
        except (OSError, ValueError, KeyError, TypeError):
            raise self._broken(path, INFO, "is missing or cut short") from None
        for name, signature in files.items():
            if not (path / name).is_file():
                raise self._broken(path, name, "is missing")
            size, checksum = _signature(path / name)
            if size != signature[0]:
                raise self._broken(path, name, f"has {size:,} bytes, but {signature[0]:,} were written")
            if checksum != signature[1]:
                raise self._broken(path, name, "is not what was written")
        return described

    def _check_room(self, round: int, leaves: Mapping[str, Any]) -> None:
        """Checks that the file system has room for a checkpoint, before anything of it is written.

        Orbax fails on a full disk too, but its threads then go on printing tracebacks after the error.
        """
        needed = sum(leaf.nbytes + _LEAF_BYTES for leaf in leaves.values()) + _FOLDER_BYTES
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise RunError(
                f"{self.folder}: the checkpoint of round {round} cannot be written: no space is left on the "
                f"disk: it needs up to {needed:,} bytes, and {free:,} are free"
            )

    def _unwritable(self, round: int, error: Exception) -> RunError:
        if not self.folder.is_dir():
            return RunError(f"{self.folder.parent}: the run folder was removed while the run was using it")
        full = _is_full(self.folder, error)
        reason = "no space is left on the disk" if full else f"{type(error).__name__}: {error}".split("\n")[0]
        return RunError(f"{self.folder}: the checkpoint of round {round} cannot be written: {reason}")

    def _broken(self, path: Path, name: str, what: str) -> CheckpointError:
        others = [r for r in self.rounds() if str(r) != path.name]
        instead = f"from round {others[-1]}" if others else "from the start"
        return CheckpointError(
            f"{path}: this checkpoint is cut short: {name} {what}; remove its folder to resume {instead}"
        )

    def _read(self, path: Path, leaves: Mapping[str, Any]) -> dict[str, np.ndarray]:
        import orbax.checkpoint as ocp

        # Orbax cannot save arrays without entries, so that `save` leaves them out.
        full = {name: np.empty(shape, dtype) for name, (shape, dtype) in leaves.items() if 0 in shape}
        names = [name for name in leaves if name not in full]
        wanted = ocp.args.PyTreeRestore(
            item=dict.fromkeys(names, 0),
            restore_args={name: ocp.RestoreArgs(restore_type=np.ndarray) for name in names},
        )
        return {**full, **self._handler().restore(path / ARRAYS, args=wanted)}

    def _handler(self) -> Any:
        if self._orbax is None:
            # The import takes a third of a second.
            import orbax.checkpoint as ocp

            # In a run of several processes the first alone saves, while Orbax would wait for all of them.
            me = jax.process_index()
            alone = ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me})
            self._orbax = ocp.Checkpointer(
                ocp.PyTreeCheckpointHandler(multiprocessing_options=alone), multiprocessing_options=alone
            )
        return self._orbax


def _is_full(folder: Path, error: Exception) -> bool:
    """Whether there was no room for what was written; Orbax tells in its text alone."""
    text = str(error)
    return (
        getattr(error, "errno", None) == errno.ENOSPC
        or "No space left" in text
        or "os_error_code='28'" in text
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides Orbax's log of errors and the tracebacks of its threads, since the raised error says the same."""
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    hook, threading.excepthook = threading.excepthook, lambda _: None
    try:
        yield
    finally:
        threading.excepthook = hook
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _leaves(tree: Any) -> dict[str, Any]:
    """The arrays by their unique paths, as NumPy arrays on the host."""
    return {jax.tree_util.keystr(path): _plain(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}


def _plain(leaf: Any) -> Any:
    """A leaf as a NumPy array; Orbax cannot save keys of `jax.random`, of which this is their data."""
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _as(like: Any, array: np.ndarray) -> Any:
    """A saved array, which becomes a key of `jax.random` again if `like` is one."""
    return (
        jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(like))
        if _is_key(like)
        else array
    )


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _describe(leaf: Any) -> list[Any]:
    return [list(leaf.shape), str(leaf.dtype)]


def _show(description: list[Any] | None) -> str:
    if description is None:
        return "missing"
    shape, dtype = description
    return f"{dtype}[{', '.join(map(str, shape))}]"


def _files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def _signature(path: Path) -> list[int]:
    """Size in bytes and CRC-32 of a file."""
    data = path.read_bytes()
    return [len(data), zlib.crc32(data)]
