"""Fingerprints of format 1, of run folders that were written before there was a format number.

They hold the parts of a run as Python printed them at that time. The same texts are made here from
descriptions of format 2 (see `fingerprint_parts`), through tables that must not follow when a class, a
function or a field is renamed. New classes need no entry: no file of format 1 knows them. Format 1 is also
the one-line form in which parts of a run are shown, in messages and in the `config.toml` of a run made in
Python.
"""

from collections.abc import Mapping, Sequence
from typing import Any

# Of tagged classes: the name, and the fields in their order.
_CLASSES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "aggregator/weighted_mean": ("WeightedMean", ()),
    "sampling/passes": ("Passes", ("clients_per_round",)),
    "sampling/poisson": ("Poisson", ("clients_per_round",)),
    "sampling/uniform": ("Uniform", ("clients_per_round",)),
    "sampling/weighted": ("Weighted", ("clients_per_round",)),
    "scoring/ranking": ("Ranking", ("num_items", "metrics", "negatives", "item")),
    "solver/implicit": ("Implicit", ("stage",)),
    "solver/newton": ("Newton", ("iterations", "damping")),
    "split/alternate_batches": ("AlternateBatches", ("batch_size",)),
    "split/alternate_examples": ("AlternateExamples", ()),
    "split/by_time": ("ByTime", ("support", "field")),
    "split/fraction": ("Fraction", ("support", "query")),
    "split/half_batches": ("HalfBatches", ("batch_size",)),
    "split/held_out": ("HeldOut", ("field",)),
    "split/none": ("NoSplit", ()),
    "split/random_fraction": ("RandomFraction", ("support",)),
}
_FUNCTIONS: Mapping[str, str] = {
    "client_weight/examples": "by_examples",
    "client_weight/uniform": "uniform",
    "scoring/model_metrics": "model_metrics",
}
# A gradient descent showed its optimiser without a name, then its batch size, then what was no default.
_GRADIENT_DESCENT: Mapping[str, Any] = {
    "epochs": 1,
    "max_steps": None,
    "shuffle": False,
    "reduction": "mean",
    "growing_epochs": False,
    "schedule": None,
    "one_by_one": False,
}


def to_format_1(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """A fingerprint of format 2 as one of format 1."""
    result = {name: value for name, value in fingerprint.items() if name != "format"}
    for name in ("algorithm", "sampling"):
        if name in result:
            result[name] = text(result[name])
    if "evaluation" in result:
        parts = ("split", "scoring")
        result["evaluation"] = {n: text(x) if n in parts else x for n, x in result["evaluation"].items()}
    return result


def text(described: Any, full_names: bool = False) -> str:
    """A part of a run as Python printed it.

    Args:
        described: What `fingerprint_parts.describe` returned, before or after it was written as JSON.
        full_names: Whether functions are shown with the functions around them.
    """
    if isinstance(described, list):  # of what was a tuple
        return f"({_joined(described)}{',' if len(described) == 1 else ''})"
    if not isinstance(described, dict):
        return repr(described)
    if "kind" in described:
        return _object(described["kind"], {k: x for k, x in described.items() if k != "kind"})
    if "list" in described:
        return f"[{_joined(described['list'])}]"
    if "function" in described:
        name = described["function"]
        return _FUNCTIONS.get(name) or (name if full_names else name.rpartition(".")[2])
    held = described.get("attributes")
    shown = "" if held is None else f"({', '.join(f'{name}={x}' for name, x in held.items())})"
    return f"{described['repr']}{shown}"


def _object(kind: str, values: dict[str, Any]) -> str:
    group, _, name = kind.partition("/")
    if kind == "solver/gradient_descent":
        first = [text(values.pop("optimizer")), f"batch_size={text(values.pop('batch_size'))}"]
        kept = {k: x for k, x in values.items() if k not in _GRADIENT_DESCENT or x != _GRADIENT_DESCENT[k]}
        return f"Solver({', '.join([*first, *_arguments(kept, tuple(_GRADIENT_DESCENT))])})"
    if kind == "schedule/relative":
        return f"{text(values['rates'])} / {text(values['rate'])}"
    if kind == "optimizer/unnamed":
        return f"optax:{values['init']}"
    if group in ("algorithm", "optimizer", "schedule"):
        values = {"kind" if k == "kind_" else k: x for k, x in values.items()}
        return f"{name}({', '.join(_arguments(values, (), full_names=group == 'optimizer'))})"
    name, order = _CLASSES.get(kind, (kind, ()))
    return f"{name}({', '.join(_arguments(values, order))})"


def _arguments(values: Mapping[str, Any], order: Sequence[str], full_names: bool = False) -> list[str]:
    names = sorted(values, key=lambda name: order.index(name) if name in order else len(order))
    return [f"{name}={text(values[name], full_names)}" for name in names]


def _joined(values: Sequence[Any]) -> str:
    return ", ".join(map(text, values))
