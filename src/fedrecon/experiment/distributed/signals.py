"""Ctrl-C as a wish to stop at the next good moment."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any


class Interrupt:
    """While entered, the first Ctrl-C sets `asked`; the second one sets `insisted`, and raises
    KeyboardInterrupt as usual.

    Outside the main thread, where Python lets nobody listen to signals, it changes nothing.

    Args:
        on_first: Is called at the first Ctrl-C; by default nothing is called.

    Attributes:
        asked: Whether there was a Ctrl-C.
    """

    def __init__(self, on_first: Callable[[], Any] = lambda: None) -> None:
        self.asked, self.insisted, self._on_first = False, False, on_first
        self._old: Any = None

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            self._old = signal.signal(signal.SIGINT, self._heard)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._old is not None:
            signal.signal(signal.SIGINT, self._old)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            self.insisted = True
            raise KeyboardInterrupt
        self.asked = True
        self._on_first()


@contextmanager
def defer_interrupt() -> Iterator[None]:
    """While entered, the first Ctrl-C waits; at the end it is raised again for the code outside."""
    interrupt = Interrupt()
    try:
        with interrupt:
            yield
    finally:
        if interrupt.asked:
            signal.raise_signal(signal.SIGINT)
