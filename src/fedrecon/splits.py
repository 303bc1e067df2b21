"""Splits of a client's examples into a support and a query set."""

from fedrecon.core._splits import (
    AlternateBatches,
    AlternateExamples,
    ByTime,
    Fraction,
    HalfBatches,
    HeldOut,
    NoSplit,
    RandomFraction,
    Split,
)

__all__ = [
    "AlternateBatches",
    "AlternateExamples",
    "ByTime",
    "Fraction",
    "HalfBatches",
    "HeldOut",
    "NoSplit",
    "RandomFraction",
    "Split",
]
