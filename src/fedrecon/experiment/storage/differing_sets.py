"""Says in words how the data of a run folder differ from other data."""

from collections.abc import Mapping, Sequence

from fedrecon._safe_text import counted


def describe_differing_sets(
    names: Sequence[str], there: Mapping[str, Mapping[str, int]], here: Mapping[str, Mapping[str, int]]
) -> str:
    """A sentence on sets of clients that differ: how many clients and examples are there and here.

    Args:
        names: The names of the sets that differ, at least one.
        there: The numbers of `"clients"` and `"examples"` in the run folder, by the name of their set; a
            private run does not tell how many examples its training clients have.
        here: The numbers of `"clients"` and `"examples"` in the data at hand, by the name of their set.
    """
    sentences = []
    for name in names:
        what = f"the {'training' if name == 'train' else name} clients"
        if name not in there or name not in here:
            sentences.append(f"{what} or their examples are others")
        elif all(there[name][key] == here[name][key] for key in there[name].keys() & here[name].keys()):
            sentences.append(f"{what} or their examples are others, though as many: {size_of(there[name])}")
        else:
            sentences.append(f"{what} are {size_of(there[name])} there and {size_of(here[name])} here")
    return "; ".join(sentences)


def size_of(count: Mapping[str, int]) -> str:
    """The size of a set of clients: `"3 clients with 40 examples"`, or `"3 clients"`.

    Args:
        count: The numbers of `"clients"` and, where they are told, of `"examples"`.
    """
    clients = counted(count["clients"], "client")
    return f"{clients} with {counted(count['examples'], 'example')}" if "examples" in count else clients
