"""User-level differential privacy: clipping, noise, a ledger of what is released, and attacks on it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
