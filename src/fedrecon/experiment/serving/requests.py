"""Says in words how two requests for personalised clients differ."""

from collections.abc import Mapping
from typing import Any

from fedrecon.experiment.settings.sections import flat

# The options of the command by the values of the request that they decide. They are compared first, since a
# user can tell them apart.
_OPTIONS = {"wanted.top": "--top", "wanted.field": "--field", "wanted.seen": "--seen", "reading": "--set"}
_DIGESTS = {
    "run": "it is of another run",
    "data": "it is of other clients or examples",
    "vocabularies": "it is of data or a run with other ids",
}


def describe_difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """The first difference of two requests, as a sentence; `""` where they are the same.

    Args:
        there: The request of the file or the parts that are there.
        here: The request of this call.
    """
    saved, asked = flat(there), flat(here)
    names = [*_OPTIONS, *saved, *asked]
    name = next((name for name in names if saved.get(name) != asked.get(name)), None)
    if name is None:
        return ""
    old, new = saved.get(name), asked.get(name)
    if name in _OPTIONS:
        return f"it was made {_with(_OPTIONS[name], old)} and not {_with(_OPTIONS[name], new)}"
    if name == "round":
        return f"it is of the parameters after round {old} and not after round {new}"
    if name == "clients_per_part":
        return f"its parts have {old} clients and not {new}"
    return _DIGESTS.get(name.partition(".")[0], f"{name} is {old!r} there and {new!r} here")


def _with(option: str, value: Any) -> str:
    """An option as it was given: `"with --top 3"`, `"with --seen"`, `"without --top"`."""
    if value is None or value is False:
        return f"without {option}"
    if value is True:
        return f"with {option}"
    values = value if isinstance(value, list) else [value]
    return "with " + " ".join(f"{option} {one}" for one in values)
