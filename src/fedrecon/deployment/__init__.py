"""Federated rounds over real processes: the client, the server, and what passes between them.

Nothing here knows how messages travel.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
