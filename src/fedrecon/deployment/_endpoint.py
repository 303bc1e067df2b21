"""The server's end of the messages: it encodes, decodes and counts their bytes."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from fedrecon.deployment._client import client_state_like
from fedrecon.deployment._messages import (
    ask_message,
    broadcast_message,
    refusal_from,
    request_from,
    update_from,
)
from fedrecon.deployment._refusals import Refusal, RefusedError
from fedrecon.deployment._server import Outcome, Server
from fedrecon.deployment._wire import MAX_BYTES, decode, encode


class Endpoint:
    """Encodes the messages of a server to its clients, and decodes theirs.

    Attributes:
        server: The server whose messages are encoded and decoded.
        bytes_down: Number of bytes sent to clients in the present round.
        bytes_up: Number of bytes received from clients in the present round, refused messages included.

    Args:
        server: The server whose messages are encoded and decoded.
        max_bytes: The largest number of bytes of a message from a client; a longer one is refused; 2 GiB by
            default.
    """

    def __init__(self, server: Server, max_bytes: int = MAX_BYTES):
        self.server, self._max_bytes = server, max_bytes
        self._names = {str(name): name for name in server.clients}
        self._stateful = bool(jax.tree.leaves(client_state_like(server.algorithm)))
        self._rows: dict[str, Mapping[str, np.ndarray]] = {}
        self._durable: dict[str, int] = {}
        self.bytes_down = self.bytes_up = 0

    def knows(self, client: Any) -> bool:
        """Whether the rows that a client needs are known; always true for a model without tables."""
        return not self.server.algorithm.model.tables or str(client) in self._rows

    def ask(self, client: Any) -> bytes:
        """The message that asks a client which rows of tables it needs."""
        return self._sent(encode(ask_message(self.server.address(client))))

    def broadcast(self, client: Any) -> bytes:
        """The message with the present round's parameters for a client.

        Args:
            client: Name of the client; it gets the rows of tables that it requested, or whole tables where it
                requested none.
        """
        given = self.server.broadcast(self._rows.get(str(client)))
        counted = self.server.last_counted(client)
        notes = {"counted": counted, "durable": self._durable.get(str(client), -1)} if self._stateful else {}
        return self._sent(encode(broadcast_message(self.server.address(client), given, notes)))

    def receive(self, data: bytes) -> Refusal | None:
        """Handles a message from a client: a request, an update, or a refusal.

        Args:
            data: The bytes of the message.

        Returns:
            None for a message that was used; else the reason why it was not, which is counted and changes
            nothing else.
        """
        self.bytes_up += len(data)
        try:
            message = decode(data, self._max_bytes)
            if message.run != self.server.run:
                raise RefusedError(Refusal.WRONG_RUN, f"this is the run {self.server.run!r}")
            if message.kind == "refusal":
                # The client's examples may have changed, so that it is asked for its rows again.
                self._rows.pop(message.client, None)
                return self.server.refuse(refusal_from(message))
            if message.client not in self._names:
                raise RefusedError(Refusal.NOT_ASKED, "there is no such client")
            if message.kind == "request":
                rows = request_from(message)
                self.server.check_rows(rows)
                self._rows[message.client] = rows
                return None
            update = update_from(message, self.server.state.global_params, self.server.statistics)
        except RefusedError as error:
            return self.server.refuse(error.reason)
        name = self._names[message.client]
        return self.server.add(name, update, round=message.round, attempt=message.attempt)

    def step(self) -> tuple[Outcome, int, int]:
        """Ends the round; returns its outcome and the numbers of bytes sent to and received from clients."""
        sizes = self.bytes_down, self.bytes_up
        self.bytes_down = self.bytes_up = 0
        return self.server.step(), *sizes

    def checkpointed(self) -> None:
        """Notes that the server's state is on the disk, so that clients may drop older states of theirs."""
        # The server never returns to a state before its last checkpoint. Broadcasts carry this round to the
        # stores on the nodes, which keep a state until then and no longer.
        if self._stateful:
            self._durable = {name: self.server.last_counted(x) for name, x in self._names.items()}

    def _sent(self, data: bytes) -> bytes:
        self.bytes_down += len(data)
        return data
