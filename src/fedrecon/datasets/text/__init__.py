"""Text by writer: JSON Lines, Parquet, SQLite and folders, tokenizers, vocabularies, generated text."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
