"""Says in words how the data of a run folder differ from other data."""

from collections.abc import Mapping, Sequence

from fedrecon._safe_text import counted


def describe_differing_sets(
    names: Sequence[str], there: Mapping[str, Mapping[str, int]], here: Mapping[str, Mapping[str, int]]
) -> str:
    """A sentence on sets of clients that differ: how many clients and examples are there and here.

    Args:
        names: The names of the sets that differ, at least one.
        there: The numbers of `"clients"` and `"examples"` in the run folder, by the name of their set.
        here: The numbers of `"clients"` and `"examples"` in the data at hand, by the name of their set.
    """
    sentences = []
    for name in names:
        what = f"the {'training' if name == 'train' else name} clients"
        if name not in there or name not in here:
            sentences.append(f"{what} or their examples are others")
        elif there[name] == here[name]:
            sentences.append(f"{what} or their examples are others, though as many: {_size(here[name])}")
        else:
            sentences.append(f"{what} are {_size(there[name])} there and {_size(here[name])} here")
    return "; ".join(sentences)


def _size(count: Mapping[str, int]) -> str:
    return f"{counted(count['clients'], 'client')} with {counted(count['examples'], 'example')}"
