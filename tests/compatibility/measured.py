"""The numbers that two builds of the library must agree on, and how they are compared."""

import csv
import runpy
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

RELATIVE = 1e-5
# What is recorded of the machine and not of the training.
OF_THE_MACHINE = ("seconds",)


def fedrecon(*arguments: Any) -> int:
    """Runs `python -m fedrecon ARGUMENTS` within this process.

    The module's name is all that is used of the package, so that its inner parts may be renamed.

    Args:
        arguments: Of the command line; they are turned into text.

    Returns:
        The exit status.
    """
    with mock.patch.object(sys, "argv", ["fedrecon", *map(str, arguments)]):
        try:
            runpy.run_module("fedrecon", run_name="__main__")
        except SystemExit as ended:
            return int(ended.code or 0)
    return 0


def read_metrics(path: Path) -> dict[str, float]:
    """The numbers of a `metrics.csv` that do not measure the machine.

    Args:
        path: The file.

    Returns:
        Each value under its round, split, protocol, weighting and metric, joined by spaces.
    """
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        " ".join([row["round"], row["split"], row["protocol"], row["weighting"], row["metric"]]): float(
            row["value"]
        )
        for row in rows
        if row["metric"] not in OF_THE_MACHINE
    }


def assert_agree(here: Any, there: Any, name: str = "") -> None:
    """Checks that two nested structures have the same names and, within `RELATIVE`, the same numbers.

    A list of numbers is compared as one vector: each entry may differ by `RELATIVE` of the largest one,
    because the entries of a client's parameters cross zero. Text, None and booleans must be equal.

    Args:
        here: Mappings, sequences, numbers, text and None, as JSON has them.
        there: The same, of the other build.
        name: Where in the structures this is, for the message.

    Raises:
        AssertionError: They differ; the message names the place and both values.
    """
    if isinstance(there, Mapping):
        # Later versions may say more, such as how many clients were evaluated, and nothing less.
        assert isinstance(here, Mapping) and here.keys() >= there.keys(), (
            f"{name}: names are missing: {sorted(here)} here and {sorted(there)} there"
        )
        for key, value in there.items():
            assert_agree(here[key], value, f"{name}/{key}")
    elif isinstance(there, Sequence) and not isinstance(there, str):
        assert len(here) == len(there), f"{name}: {len(here)} entries here and {len(there)} there"
        if there and all(isinstance(x, float) for x in [*here, *there]):
            scale = float(np.nanmax(np.abs(there)))
            np.testing.assert_allclose(here, there, RELATIVE, RELATIVE * scale, err_msg=name)
        else:
            for i, (one, other) in enumerate(zip(here, there, strict=True)):
                assert_agree(one, other, f"{name}/{i}")
    elif isinstance(there, float):
        assert isinstance(here, float), f"{name}: {here!r} here and {there!r} there"
        np.testing.assert_allclose(here, there, RELATIVE, err_msg=name)
    else:
        assert type(here) is type(there) and here == there, f"{name}: {here!r} here and {there!r} there"
