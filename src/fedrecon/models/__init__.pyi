from . import next_word
from ._implicit_matrix_factorization import implicit_factorization
from ._matrix_factorization import matrix_factorization

__all__ = [
    "implicit_factorization",
    "matrix_factorization",
    "next_word",
]
