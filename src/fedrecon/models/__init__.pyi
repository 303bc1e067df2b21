from . import next_word
from ._equinox import from_equinox
from ._implicit_matrix_factorization import implicit_factorization
from ._keras import from_keras
from ._linen import from_linen
from ._matrix_factorization import matrix_factorization
from ._nnx import from_nnx
from ._rating_sums import RatingStatistics, rating_statistics, rating_sums

__all__ = [
    "RatingStatistics",
    "from_equinox",
    "from_keras",
    "from_linen",
    "from_nnx",
    "implicit_factorization",
    "matrix_factorization",
    "next_word",
    "rating_statistics",
    "rating_sums",
]
