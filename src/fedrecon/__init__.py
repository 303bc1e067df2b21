"""Federated Reconstruction: partially local federated learning in JAX.

Every public name is imported on first use, so that `import fedrecon` alone loads nothing heavy. The
stub `__init__.pyi` lists them, as in every public package.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
