"""Texts about the progress of a deployment."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedrecon.deployment._rounds import LOG, STATE, read_log, rounds_done
from fedrecon.errors import RunError
from fedrecon.experiment.deploying.flower_processes import GO_ON
from fedrecon.experiment.deploying.local import SERVER, work_folder
from fedrecon.experiment.deploying.node import CONFIG as NODE_CONFIG
from fedrecon.experiment.deploying.plan import ENDED, FILE, PROCESS, DeploymentPlan
from fedrecon.experiment.deploying.processes import lives


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
    """A text about the progress of a deployment.

    Args:
        run: The run folder of a deployment on this machine, or the folder of a server.

    Raises:
        DataError: The server's state is damaged.
        RunError: The folder has no deployment.
    """
    folder = run.absolute() if (run / FILE).exists() else work_folder(run.absolute()) / SERVER
    if (folder / NODE_CONFIG).exists():
        raise RunError(f"{run}: is the folder of a node, which does not know the rounds: ask the server's")
    if not folder.is_dir():
        raise RunError(f"{run}: no deployment on this machine was begun for this run folder")
    plan = DeploymentPlan.read(folder)
    # A private run ends with its budget.
    rounds = plan.affordable_rounds() if plan.config().privacy.on else plan.rounds
    lines, done = read_log(folder / LOG), rounds_done(folder / STATE)
    again = sum(not line["released"] for line in lines)
    refused = sum((Counter(line["refused"]) for line in lines), Counter[str]())
    texts = [f"{done} of {rounds} rounds done, {again} begun again", *_at_work(folder, done < rounds)]
    texts += [f"{count} refused: {reason}" for reason, count in sorted(refused.items())]
    return "\n".join([*texts, *(describe_round(line) for line in lines[-1:])])


def _at_work(folder: Path, unfinished: bool) -> list[str]:
    """Whether the server of an unfinished deployment runs, or why it has ended."""
    process, ended = folder / PROCESS, folder / ENDED
    if not unfinished or not process.exists():
        return []
    reason = ended.read_text().strip() if ended.exists() else ""
    if reason:
        return [f"the server has ended: {reason}"]
    runs = not ended.exists() and lives(int(process.read_text()))
    return ["the server runs" if runs else f"the server has ended; {GO_ON}"]
