"""A socket on loopback that passes bytes on and counts them."""

import socket
import threading
from types import TracebackType

_PART = 2**16


class CountingProxy:
    """Passes connections on to another port of loopback, each by two threads.

    Attributes:
        port: The port that it listens at.

    Args:
        target: The port to which it passes on.
    """

    def __init__(self, target: int):
        self._target, self._count, self._lock = target, 0, threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open = set[socket.socket]()

    @property
    def count(self) -> int:
        """Number of bytes passed on so far, in both directions."""
        return self._count

    def __enter__(self) -> "CountingProxy":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in [self._listener, *self._open]:
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                here = self._listener.accept()[0]
                there = socket.create_connection(("127.0.0.1", self._target))
            except OSError:  # the listener was closed, or the target has ended
                return
            self._open |= {here, there}
            for one, other in ((here, there), (there, here)):
                threading.Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(_PART):
                with self._lock:
                    self._count += len(data)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return
