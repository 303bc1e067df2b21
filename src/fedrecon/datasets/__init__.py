"""Readers that turn files of ratings or of text, in their real formats, into clients."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
