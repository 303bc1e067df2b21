"""Models that ship with the library: matrix factorisation and next-word prediction."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
