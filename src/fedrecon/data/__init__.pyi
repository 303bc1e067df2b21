from ._client_file.file import is_client_file
from ._client_file.writer import ClientWriter
from ._clients import Clients
from ._holdout import hold_out
from ._pooling import in_batches, numbered, raw_bytes
from ._sampling import AbstractSampling, Everyone, Passes, Poisson, Sampling, Uniform, Weighted
from ._shards.folder import index_shards, write_shards

__all__ = [
    "AbstractSampling",
    "ClientWriter",
    "Clients",
    "Everyone",
    "Passes",
    "Poisson",
    "Sampling",
    "Uniform",
    "Weighted",
    "hold_out",
    "in_batches",
    "index_shards",
    "is_client_file",
    "numbered",
    "raw_bytes",
    "write_shards",
]
