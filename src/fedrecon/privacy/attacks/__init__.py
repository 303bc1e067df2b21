"""Attacks on what clients send and what is released: instruments to test a protection with."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
