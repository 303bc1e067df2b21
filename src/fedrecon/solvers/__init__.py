"""Solvers of a client's local problem: gradient descent, Newton's method, and their optimisers."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
