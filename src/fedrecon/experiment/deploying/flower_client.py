"""Flower's client app, which hands each message to the node's worker.

Flower starts a process for every message. It imports Flower and the standard library only, since JAX and the
data, which the worker holds, would take seconds to load.
"""

import json
import os
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedrecon.experiment.deploying.framing import ask

RECORD, MESSAGES, NAMES = "fedrecon", "messages", "names"
# The key of the path of the worker's socket in the node's configuration.
SOCKET = "fedrecon-socket"
_SECONDS = 600.0
# Seconds within which a worker that has ended must be back: it imports JAX and reads the data first.
_PATIENCE = 120.0


def client_app() -> ClientApp:
    """The app that answers the messages of `flower_server`."""
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        names = json.loads(_ask_worker(context, [b""])[0])
        return _reply(message, {NAMES: names})

    @app.train()
    def train(message: Message, context: Context) -> Message:
        sent: Any = message.content[RECORD]
        return _reply(message, {MESSAGES: _ask_worker(context, list(sent[MESSAGES]))})

    return app


def _reply(message: Message, values: dict[str, Any]) -> Message:
    return Message(content=RecordDict({RECORD: ConfigRecord(values)}), reply_to=message)


def _ask_worker(context: Context, messages: list[bytes]) -> list[bytes]:
    """The answers of the node's worker to some messages; an empty message asks for the clients' names.

    Raises:
        RuntimeError: There is no worker. The text says no more, since it reaches the server.
    """
    path = str(context.node_config.get(SOCKET, os.environ.get("FEDRECON_SOCKET", "")))
    try:
        return ask(path, messages, timeout=_SECONDS, patience=_PATIENCE)
    except OSError:
        raise RuntimeError("worker") from None
