"""Ratings: files of every MovieLens format, tables of one's own, and generated ratings."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
