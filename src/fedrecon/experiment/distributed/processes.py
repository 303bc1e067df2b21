"""The processes of a run: how they meet, agree, and end together."""

import itertools
import json
import math
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from fedrecon.errors import RunError
from fedrecon.experiment.distributed import exit_message
from fedrecon.experiment.settings.sections import SettingError

ADDRESS, COUNT, NUMBER = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"

# Seconds: without a sign of life from a process until the others end, and until all must have been started.
SILENCE, MEETING = 60, 300
_PAUSE = 0.1  # seconds between two looks for what another process says

_FAILED = "fedrecon/failed"
_ON = "started again, all go on from the last checkpoint"
_calls = itertools.count()


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of a run, of which the first writes its folder. All of them make the same calls.

    Attributes:
        number: Of this process, from 0.
        count: Of all.
    """

    number: int = 0
    count: int = 1

    @staticmethod
    def present() -> "ProcessGroup":
        """The processes of JAX's distributed runtime; this one alone where it does not run."""
        jax = sys.modules.get("jax")
        if jax is None or not jax.distributed.is_initialized():
            return ALONE
        # Asked of JAX itself, it would look for devices, and wait until the others do.
        return ProcessGroup(_runtime().process_id, _runtime().num_processes)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.number == 0

    def tell(self, value: Any = None) -> Any:
        """The first process's JSON value, in every process.

        Raises:
            RunError: Another process failed or was lost.
        """
        if self.count == 1:
            return value
        key = f"fedrecon/told/{next(_calls)}"
        if self.first:
            _client().key_value_set(key, json.dumps(value))
            return value
        return json.loads(_heard(key))

    def agree(self, values: Mapping[str, Any]) -> None:
        """Holds all processes to the same values, by their dotted names.

        Raises:
            RunError: They differ, or another process failed or was lost.
        """
        if self.count == 1:
            return
        name = f"fedrecon/agreed/{next(_calls)}"
        _client().key_value_set(f"{name}/{self.number}", json.dumps(values, default=str))
        found = [json.loads(_heard(f"{name}/{number}")) for number in range(self.count)]
        for number, other in enumerate(found):
            for setting in [*found[0], *other]:
                there, here = found[0].get(setting), other.get(setting)
                if there != here:
                    raise RunError(
                        "all processes of a run must be started with the same settings and data: "
                        f"{setting} is {there!r} in process 0 and {here!r} in process {number}"
                    )

    def all(self, well: bool) -> bool:
        """Whether what all processes computed together went well in each of them.

        Raises:
            RunError: Another process failed or was lost, or it went wrong here and others still wait for it.
        """
        if self.count == 1:
            return well
        name = f"fedrecon/well/{next(_calls)}"
        _client().key_value_set(f"{name}/{self.number}", json.dumps(well))
        # Who did not come to the end may be what others wait for in vain, and they cannot be told.
        patience = math.inf if well else float(SILENCE)
        found = [json.loads(_heard(f"{name}/{number}", patience)) for number in range(self.count)]
        return all(found)

    def share(self, tree: Any) -> Any:
        """The arrays of the first process, in every process; of the same shapes and types in all."""
        if self.count == 1:
            return tree
        from fedrecon.simulation._devices import from_the_first

        return from_the_first(tree)

    def pass_on(self) -> None:
        """Tells the others that this process was asked to stop: by JAX's own way, the signal to end."""
        if self.count > 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def stops(self, asked: bool, round: int) -> bool:
        """Whether to stop after this round, which all processes do after the same one.

        Args:
            asked: Whether this process was asked to.
            round: Its number.
        """
        if self.count == 1:
            return asked
        from jax.experimental.multihost_utils import reached_preemption_sync_point

        return bool(reached_preemption_sync_point(round))

    @contextmanager
    def together(self) -> Iterator[None]:
        """Says so where an error means that another process is gone.

        Raises:
            RunError: Another process failed or was lost.
        """
        import jax

        try:
            yield
        except jax.errors.JaxRuntimeError as error:
            if self.count == 1 or not _is_loss(error):
                raise
            raise _lost(error) from error


ALONE = ProcessGroup()


def join() -> ProcessGroup:
    """Makes this process one of several of a run, as the environment says; before JAX looks for devices.

    What it does not say is found by JAX, where it knows how: under SLURM, Open MPI and on cloud TPUs.

    Raises:
        SettingError: It is not said where the processes meet, or how many they are.
    """
    import jax

    address, count, number = os.environ.get(ADDRESS), _whole(COUNT, 1), _whole(NUMBER, 0)
    if address is not None and not address.rpartition(":")[2].isdecimal():
        raise SettingError(f"{ADDRESS} must be HOST:PORT of the first process, got {address!r}")
    if count is not None and number is not None and number >= count:
        raise SettingError(f"{NUMBER} must be below {COUNT}, {count}, got {number}")
    who = "this process" if number is None else f"process {number} of {count or 'several'}"
    where = f" at {address}" if address else ""
    print(f"fedrecon: {who} waits for the others{where}, {MEETING} s at most", file=sys.stderr, flush=True)
    given = None not in (address, count, number)
    try:
        jax.distributed.initialize(
            address,
            count,
            number,
            cluster_detection_method="deactivate" if given else None,
            heartbeat_timeout_seconds=SILENCE,
            initialization_timeout=MEETING,
        )
    except (ValueError, TypeError) as error:
        known = ", ".join(
            f"{name}={os.environ[name]}" for name in (ADDRESS, COUNT, NUMBER) if name in os.environ
        )
        raise SettingError(
            f"--distributed needs {ADDRESS} (HOST:PORT of the first process), {COUNT} and {NUMBER}, or a "
            f"cluster that JAX knows, such as SLURM; set: {known or 'none of them'} ({error})"
        ) from None
    processes = ProcessGroup.present()
    if processes.count > 1:
        # JAX's own farewell to the others, which may be gone, comes after these are withdrawn.
        exit_message.leave(
            f"fedrecon: process {processes.number} of {processes.count} was ended: from outside, or by JAX "
            f"since another process of this run was lost, see what they printed; {_ON}\n"
        )
    return processes


def leave(status: int, message: str) -> None:
    """Ends this process at once if it is one of several, and tells the others why; else it does nothing.

    JAX would have it wait for processes that may be gone.
    """
    processes = ProcessGroup.present()
    if processes.count == 1:
        return
    with suppress(Exception):
        _client().key_value_set(f"{_FAILED}/{processes.number}", message)
        if processes.first:
            time.sleep(5 * _PAUSE)  # the others hear it from this process
    sys.stdout.flush()
    sys.stderr.flush()
    exit_message.withdraw()
    os._exit(status)


def _whole(name: str, least: int) -> int | None:
    text = os.environ.get(name)
    if text is None:
        return None
    if not text.isdecimal() or int(text) < least:
        raise SettingError(f"{name} must be a whole number of at least {least}, got {text!r}")
    return int(text)


def _runtime() -> Any:
    """The state of JAX's distributed runtime, which has no public name."""
    from jax._src import distributed

    return distributed.global_state


def _client() -> Any:
    """What the processes tell each other through, before and beside computing."""
    return _runtime().client


def _heard(key: str, patience: float = math.inf) -> str:
    """What another process says; one that falls silent ends this process in `SILENCE` seconds.

    Raises:
        RunError: It said nothing for as many seconds as there is patience, or is lost.
    """
    import jax

    until = time.monotonic() + patience
    while True:
        _raise_failure()
        try:
            return str(_client().key_value_try_get(key))
        except jax.errors.JaxRuntimeError as error:
            if "NOT_FOUND" not in str(error):
                raise _lost(error) from error
        if time.monotonic() > until:
            raise RunError(f"another process of this run waits for this one, for {patience:.0f} s by now")
        time.sleep(_PAUSE)


def _raise_failure() -> None:
    with suppress(RuntimeError):
        for key, message in _client().key_value_dir_get(_FAILED):
            raise RunError(f"process {key.rpartition('/')[2]} of this run failed: {message}")


def _is_loss(error: Exception) -> bool:
    text = str(error).lower()
    return any(word in text for word in ("gloo", "nccl", "coordination", "connection", "socket", "heartbeat"))


def _lost(error: Exception) -> RunError:
    """What to say of another process that is gone: its own words, where it left any."""
    time.sleep(2 * _PAUSE)
    try:
        _raise_failure()
    except RunError as failure:
        return failure
    what = str(error).splitlines()[0]
    return RunError(f"another process of this run was lost, see what it printed; {_ON} ({what})")
