"""A server's side of its messages: bytes in, bytes out, both counted."""

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
    """Writes what a server sends to its clients, and reads what they send.

    Attributes:
        server: The server.
        bytes_down: Sent to clients in the present round.
        bytes_up: Received from clients in the present round, refused messages too.

    Args:
        server: The server.
        max_bytes: How long a message to it may be.
    """

    def __init__(self, server: Server, max_bytes: int = MAX_BYTES):
        self.server, self._max_bytes = server, max_bytes
        self._names = {str(name): name for name in server.clients}
        self._stateful = bool(jax.tree.leaves(client_state_like(server.algorithm)))
        self._rows: dict[str, Mapping[str, np.ndarray]] = {}
        self._durable: dict[str, int] = {}
        self.bytes_down = self.bytes_up = 0

    def knows(self, client: Any) -> bool:
        """Whether it is known which rows a client needs; always so where the model has no tables."""
        return not self.server.algorithm.model.tables or str(client) in self._rows

    def ask(self, client: Any) -> bytes:
        """The question which rows a client needs."""
        return self._sent(encode(ask_message(self.server.address(client))))

    def broadcast(self, client: Any) -> bytes:
        """What a client gets in the present round: of tables the rows that it asked for, else all.

        Args:
            client: Its name.
        """
        given = self.server.broadcast(self._rows.get(str(client)))
        counted = self.server.last_counted(client)
        notes = {"counted": counted, "durable": self._durable.get(str(client), -1)} if self._stateful else {}
        return self._sent(encode(broadcast_message(self.server.address(client), given, notes)))

    def receive(self, data: bytes) -> Refusal | None:
        """Takes a message of a client: a request, an update, or a refusal.

        Returns:
            None, or why the message was not used: that is counted, and nothing else has changed.
        """
        self.bytes_up += len(data)
        try:
            message = decode(data, self._max_bytes)
            if message.run != self.server.run:
                raise RefusedError(Refusal.WRONG_RUN, f"this is the run {self.server.run!r}")
            if message.kind == "refusal":
                self._rows.pop(message.client, None)  # its examples may be others now: it is asked again
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
        """Ends the round: its outcome, and the bytes that went down and up in it."""
        sizes = self.bytes_down, self.bytes_up
        self.bytes_down = self.bytes_up = 0
        return self.server.step(), *sizes

    def checkpointed(self) -> None:
        """The server's state is on a disk, and it never goes back behind it: clients may forget."""
        if self._stateful:
            self._durable = {name: self.server.last_counted(x) for name, x in self._names.items()}

    def _sent(self, data: bytes) -> bytes:
        self.bytes_down += len(data)
        return data
