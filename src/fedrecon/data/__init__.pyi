from ._arrow import is_client_file
from ._clients import Clients
from ._holdout import hold_out
from ._pooling import in_batches, numbered, raw_bytes
from ._sampling import AbstractSampling, Everyone, Passes, Poisson, Sampling, Uniform, Weighted
from ._shards.folder import index_shards, write_shards
from ._writer import ClientWriter

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
