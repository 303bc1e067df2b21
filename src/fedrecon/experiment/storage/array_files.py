"""Files of named arrays in NumPy's format `.npz`."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fedrecon._files import atomic_file


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays whole or not at all, as `numpy.load` reads them, whatever their names are.

    `numpy.savez` takes names as its own arguments, one of which is `file`.

    Args:
        path: The file.
        arrays: The arrays by their names.
    """
    with atomic_file(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
