from ._client import Client
from ._refusals import Refusal
from ._server import Outcome, Server

__all__ = [
    "Client",
    "Outcome",
    "Refusal",
    "Server",
]
