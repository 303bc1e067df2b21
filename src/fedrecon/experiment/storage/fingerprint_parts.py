"""The parts of a run as JSON values, for `fingerprint.json`.

Every part is described by JSON values without names of Python code that this library may change, since a
renamed class would otherwise make every earlier run folder one of another run:

- a number, string, boolean or None is itself, a tuple is a list, and a list is `{"list": [...]}`;
- an object of a class with a tag (see `fedrecon.core._tags`) is `{"kind": TAG, FIELD: ..., ...}`; so are an
  algorithm with its hyperparameters, an optimiser and a schedule;
- a function is `{"function": TAG or NAME}`;
- all else is `{"repr": TEXT}`.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import MISSING, fields
from types import FunctionType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedrecon.algorithms._base import Algorithm
from fedrecon.core._tags import Tag, tag_of
from fedrecon.solvers._optimizers import NamedOptimizer, Schedule

Description = None | bool | int | float | str | list[Any] | dict[str, Any]


def describe(value: Any) -> Description:
    """A part of a run as JSON values, equal in two runs if the parts are.

    Args:
        value: An algorithm, a sampling, a split, a scoring, or any part of one of these.
    """
    tag = tag_of(type(value))
    if tag is not None:
        return _kind(tag.kind, _fields(value, tag))
    if value is None or type(value) in (bool, int, str) or (type(value) is float and math.isfinite(value)):
        return value
    if type(value) is tuple:
        return [describe(x) for x in value]
    if type(value) is list:
        return {"list": [describe(x) for x in value]}
    if isinstance(value, Algorithm):
        return _kind(f"algorithm/{value.name}", value.hyperparameters)
    if isinstance(value, NamedOptimizer):
        return _kind(f"optimizer/{value.name}", value.hyperparameters)
    if isinstance(value, optax.GradientTransformation):
        # A transformation of Optax does not tell the arguments with which it was made.
        return _kind("optimizer/unnamed", {"init": value.init.__qualname__.split(".")[0]})
    if isinstance(value, Schedule):
        return _kind(f"schedule/{value.name}", value.arguments)
    return _other(value)


def _kind(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    # The hyperparameter of a user's algorithm may be called "kind", which must not replace the tag.
    return {"kind": kind, **{"kind_" if n == "kind" else n: describe(x) for n, x in values.items()}}


def _fields(value: Any, tag: Tag) -> dict[str, Any]:
    """The fields of a dataclass by their names in files; fields that were added later only if not default."""
    held = {field: getattr(value, field.name) for field in fields(value) if field.init}
    return {
        tag.names.get(field.name, field.name): x
        for field, x in held.items()
        if field.name not in tag.later or field.default is MISSING or x != field.default
    }


def _other(value: object) -> Description:
    tag = tag_of(value) if isinstance(value, FunctionType) else None
    if tag is not None:
        return {"function": tag.kind}
    name = getattr(value, "__name__", None)
    if name:
        return {"function": getattr(value, "__qualname__", name)}
    if isinstance(value, np.ndarray | jax.Array) and _numeric(value.dtype):
        # The repr of a large array leaves most entries out, so that a digest of all is added.
        content = np.ascontiguousarray(value).tobytes()
        return {"repr": repr(value), "digest": hashlib.blake2b(content, digest_size=8).hexdigest()}
    printed_by: Any = type(value).__repr__
    if printed_by is object.__repr__:
        # The default repr holds the object's address, which differs from process to process.
        held = {name: repr(x) for name, x in getattr(value, "__dict__", {}).items()}
        return {"repr": f"{type(value).__module__}.{type(value).__qualname__}", "attributes": held}
    return {"repr": repr(value)}


def _numeric(dtype: np.dtype) -> bool:
    return bool(jnp.issubdtype(dtype, np.number) or jnp.issubdtype(dtype, np.bool_))
