"""Federated algorithms: each is a function that composes a model and solvers into an `Algorithm`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
