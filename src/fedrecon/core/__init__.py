"""What an algorithm is made of: models, partitions, examples and splits, means, random keys and views."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
