"""Messages over a socket, each after its length; the module imports the standard library only."""

import socket
import struct

_LENGTH = struct.Struct("<I")
_PART = 2**20


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
