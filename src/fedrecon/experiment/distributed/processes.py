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
from fedrecon.experiment.distributed import exit_message, jax_runtime
from fedrecon.experiment.settings.sections import SettingError

ADDRESS, COUNT, NUMBER = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"

# Seconds without a sign of life from a process after which the others end.
SILENCE = 60
# Seconds within which all processes must have been started.
MEETING = 300
# Seconds between two looks for the message of another process.
_PAUSE = 0.1

_FAILED = "fedrecon/failed"
_HOW_TO_GO_ON = "started again, all go on from the last checkpoint"
# All processes make the same calls in the same order, so that this count names the same call in each of them.
_calls = itertools.count()


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of a run, of which the first writes its folder. All of them make the same calls.

    Attributes:
        number: The number of this process, from 0.
        count: The number of processes; 1 for a run in a single process.
    """

    number: int = 0
    count: int = 1

    @staticmethod
    def present() -> "ProcessGroup":
        """The processes of JAX's distributed runtime; this one alone where it does not run."""
        jax = sys.modules.get("jax")
        if jax is None or not jax.distributed.is_initialized():
            return ALONE
        # `jax.process_index()` would look for devices, and wait until all other processes do.
        return ProcessGroup(*jax_runtime.number_and_count())

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.number == 0

    def tell(self, value: Any = None) -> Any:
        """The JSON value of the first process, in every process.

        Args:
            value: The value; only that of the first process counts.

        Raises:
            RunError: Another process failed or was lost.
        """
        if self.count == 1:
            return value
        key = f"fedrecon/told/{next(_calls)}"
        if self.first:
            jax_runtime.key_value_client().key_value_set(key, json.dumps(value))
            return value
        return json.loads(_wait_for(key))

    def agree(self, values: Mapping[str, Any]) -> None:
        """Refuses to go on unless all processes have the same values.

        Args:
            values: The values of this process by their dotted names.

        Raises:
            RunError: A value differs, or another process failed or was lost.
        """
        if self.count == 1:
            return
        name = f"fedrecon/agreed/{next(_calls)}"
        jax_runtime.key_value_client().key_value_set(f"{name}/{self.number}", json.dumps(values, default=str))
        of_all = [json.loads(_wait_for(f"{name}/{number}")) for number in range(self.count)]
        for number, other in enumerate(of_all):
            for setting in [*of_all[0], *other]:
                there, here = of_all[0].get(setting), other.get(setting)
                if there != here:
                    raise RunError(
                        "all processes of a run must be started with the same settings and data: "
                        f"{setting} is {there!r} in process 0 and {here!r} in process {number}"
                    )

    def all(self, well: bool) -> bool:
        """Whether what all processes computed together went well in each of them.

        Args:
            well: Whether it went well in this process.

        Raises:
            RunError: Another process failed or was lost, or it went wrong here and others still wait for it.
        """
        if self.count == 1:
            return well
        name = f"fedrecon/well/{next(_calls)}"
        jax_runtime.key_value_client().key_value_set(f"{name}/{self.number}", json.dumps(well))
        # If the computation failed here, other processes may wait inside it for this one, and nothing can
        # reach them there. So this process waits for their answers for a limited time only.
        patience = math.inf if well else float(SILENCE)
        answers = [json.loads(_wait_for(f"{name}/{number}", patience)) for number in range(self.count)]
        return all(answers)

    def share(self, tree: Any) -> Any:
        """The arrays of the first process, in every process.

        Args:
            tree: A pytree of arrays, of the same structure, shapes and types in all processes.
        """
        if self.count == 1:
            return tree
        from fedrecon.simulation._devices import from_the_first

        return from_the_first(tree)

    def pass_on(self) -> None:
        """Tells the others that this process was asked to stop.

        JAX passes the signal SIGTERM on to all processes, as the notice of a preemption; `stops` reads it.
        """
        if self.count > 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def stops(self, asked: bool, round: int) -> bool:
        """Whether to stop after a round. All processes get the same answer for the same round.

        Args:
            asked: Whether this process was asked to stop; counts only where it is the only one.
            round: The number of the round.
        """
        if self.count == 1:
            return asked
        from jax.experimental.multihost_utils import reached_preemption_sync_point

        return bool(reached_preemption_sync_point(round))

    @contextmanager
    def together(self) -> Iterator[None]:
        """While entered, an error of JAX that means that another process is gone becomes one that says so.

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
    """Makes this process one of several of a run. Must be called before JAX looks for devices.

    The environment variables `ADDRESS`, `COUNT` and `NUMBER` say where the processes meet, how many they are
    and which of them this one is. JAX finds out what they leave open under SLURM, Open MPI and on cloud TPUs.

    Raises:
        SettingError: A variable breaks a rule, or neither the variables nor a cluster say all three.
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
        variables = ", ".join(
            f"{name}={os.environ[name]}" for name in (ADDRESS, COUNT, NUMBER) if name in os.environ
        )
        raise SettingError(
            f"--distributed needs {ADDRESS} (HOST:PORT of the first process), {COUNT} and {NUMBER}, or a "
            f"cluster that JAX knows, such as SLURM; set: {variables or 'none of them'} ({error})"
        ) from None
    processes = ProcessGroup.present()
    if processes.count > 1:
        # At a regular exit the message is withdrawn before JAX's own shutdown runs, since functions of
        # `atexit` run in reverse order: that shutdown may abort this process where others are gone.
        exit_message.leave(
            f"fedrecon: process {processes.number} of {processes.count} was ended: from outside, or by JAX "
            f"since another process of this run was lost, see what they printed; {_HOW_TO_GO_ON}\n"
        )
    return processes


def leave(status: int, message: str) -> None:
    """Ends this process at once if it is one of several, and tells the others why; else does nothing.

    A regular exit would not do: in it JAX waits for all other processes, which may be gone.

    Args:
        status: The exit status.
        message: The reason, for the other processes.
    """
    processes = ProcessGroup.present()
    if processes.count == 1:
        return
    with suppress(Exception):
        jax_runtime.key_value_client().key_value_set(f"{_FAILED}/{processes.number}", message)
        if processes.first:
            # The first process serves the messages of all: the others need a moment to read this one.
            time.sleep(5 * _PAUSE)
    sys.stdout.flush()
    sys.stderr.flush()
    exit_message.withdraw()
    os._exit(status)


def _whole(name: str, least: int) -> int | None:
    """An environment variable as a whole number of at least `least`; None where it is not set."""
    text = os.environ.get(name)
    if text is None:
        return None
    if not text.isdecimal() or int(text) < least:
        raise SettingError(f"{name} must be a whole number of at least {least}, got {text!r}")
    return int(text)


def _wait_for(key: str, patience: float = math.inf) -> str:
    """The message of another process, once it is there; JAX ends this process if the other one falls silent.

    Args:
        key: The key of the message.
        patience: Seconds to wait at most; infinite by default.

    Raises:
        RunError: There was no message for that long, or another process failed or was lost.
    """
    import jax

    until = time.monotonic() + patience
    while True:
        _raise_failure()
        try:
            return str(jax_runtime.key_value_client().key_value_try_get(key))
        except jax.errors.JaxRuntimeError as error:
            if "NOT_FOUND" not in str(error):
                raise _lost(error) from error
        if time.monotonic() > until:
            raise RunError(f"another process of this run waits for this one, for {patience:.0f} s by now")
        time.sleep(_PAUSE)


def _raise_failure() -> None:
    with suppress(RuntimeError):
        for key, message in jax_runtime.key_value_client().key_value_dir_get(_FAILED):
            raise RunError(f"process {key.rpartition('/')[2]} of this run failed: {message}")


def _is_loss(error: Exception) -> bool:
    """Whether an error of JAX's runtime comes from the connection to another process, by its words."""
    text = str(error).lower()
    return any(word in text for word in ("gloo", "nccl", "coordination", "connection", "socket", "heartbeat"))


def _lost(error: Exception) -> RunError:
    """The error for another process that is gone: with its own message, if it left one."""
    # A process that fails leaves its message just before its connections break.
    time.sleep(2 * _PAUSE)
    try:
        _raise_failure()
    except RunError as failure:
        return failure
    what = str(error).splitlines()[0]
    return RunError(f"another process of this run was lost, see what it printed; {_HOW_TO_GO_ON} ({what})")
