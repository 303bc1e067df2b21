"""Whether runs measured the same thing: the same clients, split and scored in the same way."""

from collections.abc import Iterator, Sequence
from typing import Any

from fedrecon.data._shards.digests import PREFIX
from fedrecon.experiment.analysis.runs import Method, Run
from fedrecon.experiment.storage.fingerprint import as_text
from fedrecon.experiment.storage.metrics_log import RECON_EVAL, name_of

# Digests do not tell whether a run of a file and one of a folder of shards had the same clients.
_TWO_KINDS = "clients of a folder of shards and others, whose digests cannot be compared"


def comparable(a: Run, b: Run, split: str, protocol: str) -> bool:
    """Whether two runs can be compared on a split: same clients, support and query sets, and scoring.

    Args:
        a: The first run.
        b: The second run.
        split: The split of the clients, for instance `"test"`.
        protocol: The protocol of the evaluation, `"recon_eval"` or `"standard_eval"`.
    """
    return not _reasons(a, b, split, protocol)


def warnings(methods: Sequence[Method]) -> list[str]:
    """Sentences on all that keeps methods from being compared as they stand, each method with the first.

    Args:
        methods: The methods, at least one.
    """
    sentences = [sentence for method in methods for sentence in _warnings_of_one(method)]
    for method in methods[1:]:
        sentences += _warnings_of_two(methods[0], method)
    # Several seeds give the same sentence.
    return list(dict.fromkeys(sentences))


def _warnings_of_one(method: Method) -> Iterator[str]:
    """Warnings about the runs of a method: unfinished ones, and metrics that are no number."""
    for run in method.runs:
        if not run.result.get("finished", True):
            yield f"{run.path} is not finished: its numbers are of round {run.result['rounds']}."
        for split, protocol, metrics in run.evaluations():
            lost = [metric for metric, value in metrics["examples"].items() if value is None]
            if lost:
                yield (
                    f"{run.path} has no number for {_join(lost)} of the {name_of(split, protocol)} "
                    "clients: it diverged at some of them, or none has what it measures; neither such "
                    "clients nor this seed are paired in it."
                )


def _warnings_of_two(first: Method, method: Method) -> Iterator[str]:
    """Warnings about the comparison of two methods: tasks, seeds, data, and evaluations that differ."""
    names = f"{first.label} and {method.label}"
    if first.runs[0].config.get("task") != method.runs[0].config.get("task"):
        yield f"{names} are of different tasks: their numbers have nothing to do with each other."
        return
    shared = [seed for seed in first.seeds if seed in method.seeds]
    if not shared:
        yield f"{names} share no seed: nothing is paired."
        yield from _of_data(names, first.runs[0], method.runs[0])
    elif set(first.seeds) != set(method.seeds):
        yield f"{names} share the seeds {_join(shared)} only: these are paired."
    for seed in shared:
        a, b = first.run_of(seed), method.run_of(seed)
        both = [{(s, p) for s, p, _ in run.evaluations()} for run in (a, b)]
        for split, protocol in sorted(both[0] & both[1]):
            reasons = _reasons(a, b, split, protocol)
            if reasons:
                what = f"{name_of(split, protocol)} clients"
                yield f"{names}, {what}: {' and '.join(reasons)}; they are not paired."
        for split, protocol in sorted(both[0] ^ both[1]):
            only = first if (split, protocol) in both[0] else method
            yield f"{name_of(split, protocol)} clients were evaluated by {only.label} and not by both."
        if _same(a, b, "train"):
            continue
        if None in [run.examples.get("train") for run in (a, b)]:
            # Pooled training examples have no digest: only the settings tell where they come from.
            yield from _of_data(names, a, b)
        elif _of_two_kinds(a, b, "train"):
            yield f"{names} were trained on {_TWO_KINDS}."
        else:
            yield f"{names} were trained on different clients or examples."


def _reasons(a: Run, b: Run, split: str, protocol: str) -> list[str]:
    """The reasons why two runs are not comparable on the clients of a split; none if they are."""
    reasons = []
    name = name_of(split, protocol)
    if not _same(a, b, name):
        reasons.append(_TWO_KINDS if _of_two_kinds(a, b, name) else "other clients or examples")
    one, two = (_evaluated_by(run, "scoring") for run in (a, b))
    if one != two and None not in (one, two):
        reasons.append(f"other measures ({one} against {two})")
    one, two = (_evaluated_by(run, "split") for run in (a, b))
    if protocol == RECON_EVAL and one != two:
        reasons.append(f"other support and query sets ({one} against {two})")
    return reasons


def _evaluated_by(run: Run, part: str) -> str | None:
    """A run's `"scoring"` or `"split"` in evaluation, as text; None for an older run that lacks it."""
    return as_text(run.fingerprint.get("evaluation", {}).get(part))


def _same(a: Run, b: Run, name: str) -> bool:
    """Whether two runs measured the same examples of a set."""
    if a.examples.get(name) == b.examples.get(name) is not None:
        return True
    # An older run has only the digest of a fingerprint, which covers the fields that its algorithm added as
    # well. Equal digests of this kind say that the examples are equal, different ones say nothing.
    old = not (a.tells_examples and b.tells_examples)
    full = [run.fingerprint.get("clients", {}).get(name) for run in (a, b)]
    return old and full[0] == full[1] is not None


def _of_two_kinds(a: Run, b: Run, name: str) -> bool:
    """Whether one run has the digest of clients in a folder of shards, and the other one that of others."""
    digests = [run.examples.get(name) for run in (a, b)]
    return None not in digests and len({str(digest).startswith(PREFIX) for digest in digests}) == 2


def _of_data(names: str, a: Run, b: Run) -> Iterator[str]:
    """Warnings about settings of the data that differ, for runs without digests that can be compared."""
    one, two = (
        {name: value for name, value in run.config.items() if name.startswith("data.")} for run in (a, b)
    )
    for name in dict.fromkeys([*one, *two]):
        if name != "data.path" and one.get(name) != two.get(name):
            yield f"{names} are of other data: {name} is {one.get(name)!r} and {two.get(name)!r}."


def _join(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))
