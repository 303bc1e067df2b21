"""Measures the seconds of a run, those of its compilation, and its peak memory."""

import sys
import time

_COMPILING = (
    "/jax/core/compile/jaxpr_trace_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
)


class Stopwatch:
    """Measures the time of a run, until `close`.

    Args:
        started: When the run began, in seconds of `time.monotonic`; None, the default, for now.
        before: Seconds that earlier processes spent on the same run; 0 by default.

    Attributes:
        first_round: Seconds from the start of this process's run to the end of its first round; None before.
    """

    def __init__(self, started: float | None = None, before: float = 0.0):
        import jax

        self.before = before
        self.first_round: float | None = None
        self._started = time.monotonic() if started is None else started
        self._compiling: list[tuple[float, float]] = []
        self._listener = self._note_compilation
        jax.monitoring.register_event_duration_secs_listener(self._listener)

    def close(self) -> None:
        """Stops listening to the compiler."""
        import jax

        jax.monitoring.unregister_event_duration_listener(self._listener)

    def seconds(self) -> float:
        """Seconds since the run began, those of earlier processes included."""
        return self.before + time.monotonic() - self._started

    def first(self) -> None:
        """Notes that the first round of this process is done."""
        self.first_round = time.monotonic() - self._started

    def compilation(self) -> float:
        """Seconds spent tracing and compiling; times that overlap count once."""
        # Times overlap, since JAX reports the tracing of an inner function both alone and within the outer
        # one.
        total, end = 0.0, float("-inf")
        for start, stop in sorted(self._compiling):
            total += max(0.0, stop - max(start, end))
            end = max(end, stop)
        return total

    def _note_compilation(self, event: str, duration_secs: float, **_: object) -> None:
        if event in _COMPILING:
            now = time.monotonic()
            self._compiling.append((now - duration_secs, now))


def peak_memory() -> int | None:
    """The most memory this process has held so far, bytes; None where the system does not say."""
    try:
        # On Linux `getrusage` counts the memory of the process that started this one, up to the exec, too.
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        # This is not Linux.
        pass
    try:
        import resource
    except ImportError:
        # This is Windows.
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def device_memory() -> int | None:
    """The most memory that a device has held so far, bytes; None where no device tells, as on a CPU."""
    import jax

    peaks = [(d.memory_stats() or {}).get("peak_bytes_in_use") for d in jax.local_devices()]
    return max((int(p) for p in peaks if p is not None), default=None)
