from ._dataset import arrange
from ._prepare import prepare
from ._synthetic import Grammar, synthetic
from ._tokenizers import pieces, tokenizer_of, whitespace
from ._vocabulary import Vocabulary

__all__ = [
    "Grammar",
    "Vocabulary",
    "arrange",
    "pieces",
    "prepare",
    "synthetic",
    "tokenizer_of",
    "whitespace",
]
