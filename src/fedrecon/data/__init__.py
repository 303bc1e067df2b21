"""The clients' data: client files, tables and arrays, sampling of cohorts, random splits, hold-out."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
