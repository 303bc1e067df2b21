"""Messages over a socket, each after its length; the module imports the standard library only."""

import socket
import struct
import time
from collections.abc import Sequence

_LENGTH = struct.Struct("<I")
_PART = 2**20
# Seconds between two attempts at a connection.
_PAUSE = 0.1


def send(connection: socket.socket, data: bytes) -> None:
    """Sends a message of less than 4 GiB.

    Raises:
        OSError: The other side has closed the connection, or the socket's timeout is over.
    """
    connection.sendall(_LENGTH.pack(len(data)) + data)


def receive(connection: socket.socket) -> bytes:
    """Waits for the next message and returns it.

    Raises:
        OSError: The other side has closed the connection, or the socket's timeout is over.
    """
    return _exactly(connection, _LENGTH.unpack(_exactly(connection, _LENGTH.size))[0])


def ask(path: str, messages: Sequence[bytes], *, timeout: float, patience: float) -> list[bytes]:
    """The answers of a process that listens at a Unix socket.

    The process may end and be started again meanwhile: messages whose answers have not arrived are sent
    again. Whoever answers must give the same answer to a message that it gets twice.

    Args:
        path: The path of the socket.
        messages: The messages, which are sent one after the other.
        timeout: The longest time to wait for an answer, in seconds.
        patience: The longest time to go without a connection before it is given up, in seconds.

    Raises:
        OSError: There was no connection for too long, or no answer came in time.
    """
    answers = list[bytes]()
    end = time.monotonic() + patience
    while len(answers) < len(messages):
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(timeout)
                connection.connect(path)
                # One message at a time: if both sides sent, each could wait for the other to receive.
                for data in messages[len(answers) :]:
                    send(connection, data)
                    answers.append(receive(connection))
                    end = time.monotonic() + patience
        except TimeoutError:
            raise
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(_PAUSE)
    return answers


def _exactly(connection: socket.socket, size: int) -> bytes:
    # In a loop: `MSG_WAITALL` does not wait on a socket that has a timeout.
    parts = []
    while size:
        data = connection.recv(min(size, _PART))
        if not data:
            raise ConnectionError("the other side has gone")
        parts.append(data)
        size -= len(data)
    return b"".join(parts)
