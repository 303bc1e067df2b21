from . import next_word
from ._implicit_matrix_factorization import implicit_factorization
from ._matrix_factorization import matrix_factorization
from ._rating_sums import RatingStatistics, rating_statistics, rating_sums

__all__ = [
    "RatingStatistics",
    "implicit_factorization",
    "matrix_factorization",
    "next_word",
    "rating_statistics",
    "rating_sums",
]
