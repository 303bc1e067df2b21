"""Reads parameters from `.npz` files, which may be somebody else's."""

import lzma
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedrecon.errors import RunError

# The most bytes that describe an array in such a file.
_HEADER = 1 << 16
_DAMAGE = (OSError, ValueError, EOFError, KeyError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)


def read_npz(path: Path, wanted: Mapping[str, Any], what: str) -> tuple[dict[str, np.ndarray], list[str]]:
    """The wanted arrays of an `.npz` file, as far as they are there.

    The others are not read, and neither is one that is much larger than wanted: a small file may unpack to
    more than the memory.

    Args:
        path: The file.
        wanted: Shape and type of each array by its name, such as `jax.ShapeDtypeStruct`.
        what: The name of the setting in messages.

    Returns:
        The arrays by their names, and the names of all arrays in the file.

    Raises:
        RunError: The file cannot be read, or an array is much larger than wanted.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {entry.filename.removesuffix(".npy"): entry.file_size for entry in archive.infolist()}
        for name in wanted.keys() & sizes.keys():
            # Twice as much may be an array of another type, which is told by its type.
            most = 2 * int(np.prod(wanted[name].shape)) * np.dtype(wanted[name].dtype).itemsize + _HEADER
            if sizes[name] > most:
                raise RunError(
                    f"{path}: {name} must be of shape {wanted[name].shape}, got {sizes[name]:,} bytes"
                )
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in wanted if name in sizes}
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("NumPy gives the bytes of what is no array")
        return arrays, sorted(sizes)
    except RunError:
        raise
    except _DAMAGE as error:
        reason = getattr(error, "strerror", None) or "it is no .npz file, or damaged"
        raise RunError(f"{path}: {what} cannot be read: {reason}") from None
