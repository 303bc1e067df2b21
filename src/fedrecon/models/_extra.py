"""Imports the libraries of neural networks, which extras bring, when a function needs one."""

import importlib
from typing import Any


def needed(module: str, extra: str) -> Any:
    """A module of a library that an extra brings.

    Args:
        module: The module's name, such as `"flax.nnx"`.
        extra: The extra of this library that installs it.

    Raises:
        ModuleNotFoundError: The library is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        library = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != library:
            raise
        raise ModuleNotFoundError(
            f"{library} is not installed: pip install 'fedrecon[{extra}]'", name=library
        ) from error
