"""Reconstruction and prediction on a device: one file for an inference runtime, checked against JAX."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
