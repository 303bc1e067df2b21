"""How a sentence becomes words."""

import re
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from fedrecon.errors import did_you_mean

Tokenizer = Callable[[str], list[str]]

_PIECES = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]+")


def whitespace(sentence: str) -> list[str]:
    """Words as white space parts them, as in the paper: for text whose punctuation stands apart."""
    return sentence.split()


def pieces(sentence: str) -> list[str]:
    """Words in lower case, with punctuation marks as words of their own: for text as people write it."""
    return _PIECES.findall(sentence.lower())


TOKENIZERS: Mapping[str, Tokenizer] = {"whitespace": whitespace, "pieces": pieces}


def tokenizer_of(name: str) -> Tokenizer:
    """A tokenizer by its name, or one's own by where it is: `"package.module:function"`.

    Raises:
        ValueError: There is none of this name, or no such function.
    """
    if name in TOKENIZERS:
        return TOKENIZERS[name]
    module, colon, function = name.partition(":")
    if not colon:
        known = ", ".join(TOKENIZERS)
        raise ValueError(
            f"tokenizer must be one of {known} or a function as 'module:name', got {name!r}"
            f"{did_you_mean(name, TOKENIZERS)}"
        )
    try:
        found: Any = getattr(import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"tokenizer {name!r} cannot be imported: {error}") from error
    return found
