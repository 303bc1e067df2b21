from ._personalization import Personalization, TopK

__all__ = [
    "Personalization",
    "TopK",
]
