"""Types of what is read from outside: arrays of any kind, and paths. They are known without JAX."""

from collections.abc import Iterator, Sequence
from os import PathLike
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np


@runtime_checkable
class SupportsArray(Protocol):
    """What NumPy asks for its values, such as arrays of JAX and columns of Arrow, pandas and Polars."""

    def __array__(self) -> np.ndarray:
        """The values as an array of NumPy."""

    def __len__(self) -> int:
        """The number of values."""

    def __iter__(self) -> Iterator[Any]:
        """The values one after the other."""


ArrayLike: TypeAlias = Sequence[Any] | np.ndarray | SupportsArray
"""What NumPy can make an array of: a sequence of numbers or of texts, an array, or a column of a table."""

FilePath: TypeAlias = str | PathLike[str]
"""The path of a file or folder."""
