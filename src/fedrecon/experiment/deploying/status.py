"""How far a deployment is, in words."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedrecon.deployment._rounds import LOG
from fedrecon.errors import RunError
from fedrecon.experiment.deploying.local import SERVER, work_folder
from fedrecon.experiment.deploying.plan import DeploymentPlan


def described(line: Mapping[str, Any]) -> str:
    """A line of `rounds.jsonl` in words."""
    state = "done" if line["released"] else "to be begun again"
    refused = "".join(f", {count} refused: {reason}" for reason, count in line["refused"].items())
    late = f", {line['late']} late" if line["late"] else ""
    return (
        f"round {line['round'] + 1} {state}: {line['answered']} of {line['asked']} clients answered{late}"
        f"{refused}; {line['bytes_down']:,} bytes down, {line['bytes_up']:,} up; {line['seconds']:.1f} s"
    )


def status_of(run: Path) -> str:
    """How far the deployment of a run folder is.

    Raises:
        RunError: There is none.
    """
    folder = work_folder(run.absolute()) / SERVER
    if not folder.is_dir():
        raise RunError(f"{run}: no deployment on this machine was begun for this run folder")
    plan, path = DeploymentPlan.read(folder), folder / LOG
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = sum(line["released"] for line in lines)
    refused = sum((Counter(line["refused"]) for line in lines), Counter[str]())
    said = [f"{done} of {plan.rounds} rounds done, {len(lines) - done} begun again"]
    said += [f"{count} refused: {reason}" for reason, count in sorted(refused.items())]
    return "\n".join([*said, *(described(line) for line in lines[-1:])])
