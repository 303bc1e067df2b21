import signal
import time

import jax
import pytest

from fedrecon.experiment.distributed.signals import Interrupt
from fedrecon.experiment.storage.resource_usage import Stopwatch, device_memory, peak_memory


def test_compilation_is_part_of_the_time():
    stopwatch = Stopwatch()
    jax.jit(lambda x: jax.numpy.sin(x) @ x.T)(jax.numpy.ones((3, 3)))
    stopwatch.close()
    assert 0 < stopwatch.compilation() <= stopwatch.seconds()
    before = stopwatch.compilation()
    jax.jit(lambda x: jax.numpy.cos(x) @ x.T)(jax.numpy.ones((3, 3)))
    assert stopwatch.compilation() == before, "a closed watch still listens"


def test_nested_compilations_count_once(monkeypatch):
    stopwatch = Stopwatch()
    event = "/jax/core/compile/backend_compile_duration"
    for now, duration in ((10.0, 2.0), (11.0, 4.0), (20.0, 1.0)):
        monkeypatch.setattr(time, "monotonic", lambda now=now: now)
        stopwatch._note_compilation(event, duration)
        stopwatch._note_compilation("/jax/something/else", 100.0)
    monkeypatch.undo()
    stopwatch.close()
    assert stopwatch.compilation() == pytest.approx(4.0 + 1.0)


def test_seconds_of_earlier_processes_count():
    stopwatch = Stopwatch(started=time.monotonic() - 5.0, before=100.0)
    assert 105.0 <= stopwatch.seconds() < 106.0
    assert stopwatch.first_round is None
    stopwatch.first()
    assert 5.0 <= stopwatch.first_round < 6.0
    stopwatch.close()


def test_memory_is_in_bytes():
    before = peak_memory()
    assert 5e7 < before < 1e11
    block = b"x" * 300_000_000  # every page is written
    assert peak_memory() >= max(before, len(block))
    assert device_memory() is None or device_memory() > 0


def test_memory_is_that_of_this_process_alone(run_python):
    """Not that of the one that started it, which large ones do."""
    block = b"x" * 700_000_000
    peak = run_python(
        "from fedrecon.experiment.storage.resource_usage import peak_memory; print(peak_memory())"
    )
    assert int(peak) < len(block)


def test_the_first_interrupt_is_a_wish_and_the_second_is_not():
    old = signal.getsignal(signal.SIGINT)
    with Interrupt() as interrupt:
        assert not interrupt.asked
        signal.raise_signal(signal.SIGINT)
        assert interrupt.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is old
