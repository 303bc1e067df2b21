"""Next-word models: an LSTM and a Transformer, their metrics, and the completion of a prompt."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
