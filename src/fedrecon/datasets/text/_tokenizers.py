"""How a sentence becomes words."""

import functools
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from fedrecon.errors import DataError, did_you_mean

Tokenizer = Callable[[str], list[str]]

# Words of ASCII text, which has no marks; `re` finds them in two thirds of the time that `regex` takes.
_ASCII_PIECES = re.compile(r"\w+(?:'\w+)*|[^\w\s]+")


def whitespace(sentence: str) -> list[str]:
    """Words as white space parts them, as in the paper: for text whose punctuation stands apart."""
    return sentence.split()


def pieces(sentence: str) -> list[str]:
    """Words in lower case, with punctuation marks as words of their own: for text as people write it.

    A word is letters, digits and underscores, with apostrophes inside, and with all that Unicode does not
    part from the letter before it (rule WB4 of UAX #29): vowel signs, accents, joiners, soft hyphens.
    Scripts without spaces between words are not parted.
    """
    lower = sentence.lower()
    return (_ASCII_PIECES if lower.isascii() else _unicode_pieces()).findall(lower)


@functools.cache
def _unicode_pieces() -> Any:
    import regex

    letter = r"\p{L}\p{N}_"  # what `re` takes for a letter of a word
    joined = r"\p{Word_Break=Extend}\p{Word_Break=Format}\p{Word_Break=ZWJ}"
    word = rf"[{letter}][{letter}{joined}]*"
    # \x1c to \x1f are white space to `re` and to `str.split`, and not to `regex`.
    return regex.compile(rf"{word}(?:['’]{word})*|[^{letter}\s\x1c-\x1f]+", regex.V1)


TOKENIZERS: Mapping[str, Tokenizer] = {"whitespace": whitespace, "pieces": pieces}


def tokenizer_of(name: str) -> Tokenizer:
    """A tokenizer by its name, or one's own by where it is: `"package.module:function"`.

    The module may lie in the working directory. What one's own makes of a sentence is checked.

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
        with _from_here():
            loaded: Any = getattr(import_module(module), function)
    except Exception as error:  # whatever the module does when it is imported
        raise ValueError(f"tokenizer {name!r} cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(loaded):
        raise ValueError(f"tokenizer {name!r} must be a function, it is of type {type(loaded).__name__}")
    return _check_tokens(loaded, name)


@contextmanager
def _from_here() -> Iterator[None]:
    """Finds modules in the working directory, too, where the path of a console script does not lead."""
    before = list(sys.path)
    sys.path.append(str(Path.cwd()))  # last, so that nothing there hides a module of Python's own
    try:
        yield
    finally:
        sys.path[:] = before


def _check_tokens(tokenize: Callable[[str], Any], name: str) -> Tokenizer:
    def words(sentence: str) -> list[str]:
        try:
            tokens = tokenize(sentence)
        except Exception as error:
            raise DataError(
                f"tokenizer {name!r} fails on {sentence!r}: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(tokens, list) or not all(isinstance(word, str) for word in tokens):
            raise DataError(f"tokenizer {name!r} must make a list of strings of {sentence!r}, got {tokens!r}")
        return tokens

    return words
