from ._arrow import is_client_file
from ._clients import Clients
from ._holdout import hold_out
from ._pooling import in_batches, numbered, raw_bytes
from ._sampling import AbstractSampling, Everyone, Passes, Poisson, Sampling, Uniform, Weighted
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
    "is_client_file",
    "numbered",
    "raw_bytes",
]
