"""Texts about the progress of a deployment."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedrecon.deployment._rounds import LOG
from fedrecon.errors import RunError
from fedrecon.experiment.deploying.local import SERVER, work_folder
from fedrecon.experiment.deploying.plan import DeploymentPlan


def describe_round(line: Mapping[str, Any]) -> str:
    """A sentence about a round.

    Args:
        line: The values of a line of `rounds.jsonl`.
    """
    state = "done" if line["released"] else "to be begun again"
    refused = "".join(f", {count} refused: {reason}" for reason, count in line["refused"].items())
    late = f", {line['late']} late" if line["late"] else ""
    # Lines of earlier versions do not tell of late answers that were counted.
    late += f", {line['stale']} of earlier rounds counted" if line.get("stale") else ""
    return (
        f"round {line['round'] + 1} {state}: {line['answered']} of {line['asked']} clients answered{late}"
        f"{refused}; {line['bytes_down']:,} bytes down, {line['bytes_up']:,} up; {line['seconds']:.1f} s"
    )


def status_of(run: Path) -> str:
    """A text about the progress of the deployment of a run folder.

    Raises:
        RunError: The run folder has no deployment.
    """
    folder = work_folder(run.absolute()) / SERVER
    if not folder.is_dir():
        raise RunError(f"{run}: no deployment on this machine was begun for this run folder")
    plan, path = DeploymentPlan.read(folder), folder / LOG
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = sum(line["released"] for line in lines)
    refused = sum((Counter(line["refused"]) for line in lines), Counter[str]())
    texts = [f"{done} of {plan.rounds} rounds done, {len(lines) - done} begun again"]
    texts += [f"{count} refused: {reason}" for reason, count in sorted(refused.items())]
    return "\n".join([*texts, *(describe_round(line) for line in lines[-1:])])
