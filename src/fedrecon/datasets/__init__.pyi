from . import ratings, text

__all__ = [
    "ratings",
    "text",
]
