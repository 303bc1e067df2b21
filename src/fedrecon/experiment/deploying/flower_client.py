"""Flower's side of a node: a process for every message, which hands it to the node's worker.

It imports Flower and the standard library alone: what the worker holds would take seconds to import.
"""

import json
import os
import socket
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedrecon.experiment.deploying.framing import receive, send

RECORD, MESSAGES, NAMES = "fedrecon", "messages", "names"
SOCKET = "fedrecon-socket"  # in the node's configuration: where its worker listens
_SECONDS = 600.0


def client_app() -> ClientApp:
    """The app that answers what `flower_server` sends."""
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        names = json.loads(_asked(context, [b""])[0])
        return _reply(message, {NAMES: names})

    @app.train()
    def train(message: Message, context: Context) -> Message:
        sent: Any = message.content[RECORD]
        return _reply(message, {MESSAGES: _asked(context, list(sent[MESSAGES]))})

    return app


def _reply(message: Message, values: dict[str, Any]) -> Message:
    return Message(content=RecordDict({RECORD: ConfigRecord(values)}), reply_to=message)


def _asked(context: Context, messages: list[bytes]) -> list[bytes]:
    """What the node's worker answers to some messages; an empty one asks for the clients' names.

    Raises:
        RuntimeError: There is no worker. The text says no more: it reaches the server.
    """
    path = str(context.node_config.get(SOCKET, os.environ.get("FEDRECON_SOCKET", "")))
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_SECONDS)
            connection.connect(path)
            answers = []
            for data in messages:  # one by one: two sides that both send would wait for each other
                send(connection, data)
                answers.append(receive(connection))
            return answers
    except OSError:
        raise RuntimeError("worker") from None
