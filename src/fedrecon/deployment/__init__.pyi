from ._client import Client
from ._endpoint import Endpoint
from ._messages import Address
from ._node import Node
from ._refusals import Refusal, RefusedError
from ._rounds import RoundRecord, Transport, run_rounds
from ._server import Outcome, Server
from ._store import Store, read_clients
from ._wire import Message, decode, encode

__all__ = [
    "Address",
    "Client",
    "Endpoint",
    "Message",
    "Node",
    "Outcome",
    "Refusal",
    "RefusedError",
    "RoundRecord",
    "Server",
    "Store",
    "Transport",
    "decode",
    "encode",
    "read_clients",
    "run_rounds",
]
