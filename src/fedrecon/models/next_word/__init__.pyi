from ._completion import Completion, complete
from ._lstm import lstm
from ._model import next_word_lstm
from ._own_words import with_own_words
from ._transformer import next_word_transformer

__all__ = [
    "Completion",
    "complete",
    "lstm",
    "next_word_lstm",
    "next_word_transformer",
    "with_own_words",
]
