"""Whether runs measured the same thing: the same clients, split and scored in the same way."""

from collections.abc import Iterator, Sequence
from typing import Any

from fedrecon.experiment.analysis.runs import Method, Run
from fedrecon.experiment.storage.fingerprint import as_text
from fedrecon.experiment.storage.metrics_log import RECON_EVAL, name_of


def comparable(a: Run, b: Run, split: str, protocol: str) -> bool:
    """Whether two runs evaluated the same clients of a split alike: support and query sets, and measures."""
    return not _reasons(a, b, split, protocol)


def warnings(methods: Sequence[Method]) -> list[str]:
    """What keeps methods from being compared as they stand, each against the first, in sentences."""
    return list(dict.fromkeys(_warnings(methods)))


def _warnings(methods: Sequence[Method]) -> Iterator[str]:
    first = methods[0]
    for method in methods:
        for run in method.runs:
            if not run.result.get("finished", True):
                yield f"{run.path} is not finished: its numbers are of round {run.result['rounds']}."
            for split, protocol, found in run.evaluations():
                lost = [metric for metric, value in found["examples"].items() if value is None]
                if lost:
                    yield (
                        f"{run.path} has no number for {_listed(lost)} of the {name_of(split, protocol)} "
                        "clients: it diverged at some of them, or none has what it measures; neither such "
                        "clients nor this seed are paired in it."
                    )
    for method in methods[1:]:
        names = f"{first.label} and {method.label}"
        if first.runs[0].config.get("task") != method.runs[0].config.get("task"):
            yield f"{names} are of different tasks: their numbers have nothing to do with each other."
            continue
        shared = [seed for seed in first.seeds if seed in method.seeds]
        if not shared:
            yield f"{names} share no seed: nothing is paired."
            yield from _of_data(names, first.runs[0], method.runs[0])
        elif set(first.seeds) != set(method.seeds):
            yield f"{names} share the seeds {_listed(shared)} only: these are paired."
        for seed in shared:
            a, b = first.of_seed(seed), method.of_seed(seed)
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
                # Pooled examples, of which only the settings tell where they come from.
                yield from _of_data(names, a, b)
            else:
                yield f"{names} were trained on different clients or examples."


def _reasons(a: Run, b: Run, split: str, protocol: str) -> list[str]:
    """Why two runs are not comparable on the clients of a split."""
    reasons = []
    name = name_of(split, protocol)
    if not _same(a, b, name):
        reasons.append("other clients or examples")
    one, two = (_evaluated_by(run, "scoring") for run in (a, b))
    if one != two and None not in (one, two):
        reasons.append(f"other measures ({one} against {two})")
    one, two = (_evaluated_by(run, "split") for run in (a, b))
    if protocol == RECON_EVAL and one != two:
        reasons.append(f"other support and query sets ({one} against {two})")
    return reasons


def _evaluated_by(run: Run, part: str) -> str | None:
    """A part of how a run is evaluated; None for an older run that does not tell."""
    return as_text(run.fingerprint.get("evaluation", {}).get(part))


def _same(a: Run, b: Run, name: str) -> bool:
    """Whether two runs measured the same examples of a set."""
    if a.examples.get(name) == b.examples.get(name) is not None:
        return True
    # Older runs have digests with what the algorithm added alone: if these are the same, so is the rest.
    old = not (a.tells_examples and b.tells_examples)
    full = [run.fingerprint.get("clients", {}).get(name) for run in (a, b)]
    return old and full[0] == full[1] is not None


def _of_data(names: str, a: Run, b: Run) -> Iterator[str]:
    """Settings of the data that differ, where no seed is shared whose digests would tell."""
    one, two = (
        {name: value for name, value in run.config.items() if name.startswith("data.")} for run in (a, b)
    )
    for name in dict.fromkeys([*one, *two]):
        if name != "data.path" and one.get(name) != two.get(name):
            yield f"{names} are of other data: {name} is {one.get(name)!r} and {two.get(name)!r}."


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))
