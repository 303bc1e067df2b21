"""Federated rounds over real processes: the client, the server, and the messages between them.

The package is independent of the transport: it makes and reads messages as bytes, and others carry them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
