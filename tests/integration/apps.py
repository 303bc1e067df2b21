"""What tests of whole deployments share: generated ratings as a file, and an app for one of the recipes."""

from collections.abc import Sequence
from pathlib import Path

from fedrecon.datasets.ratings._synthetic import synthetic
from fedrecon.experiment.cli.main import main

USERS, ITEMS, COHORT = 60, 150, 20


def write_ratings(path: Path, users: int = USERS, items: int = ITEMS) -> Path:
    """Generated ratings in a file as MovieLens has them."""
    clients, _ = synthetic(users, items, seed=1)
    lines = ["userId,movieId,rating,timestamp"]
    for user in clients.ids.tolist():
        pairs = zip(clients[user]["item"], clients[user]["rating"], strict=True)
        lines += [f"{user},{item},{rating},{time}" for time, (item, rating) in enumerate(pairs)]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_app(folder: Path, experiment: Path, rounds: int, more: Sequence[str] = ()) -> Path:
    """An app for so many rounds of an experiment, evaluated after the last one."""
    settings = [f"training.rounds={rounds}", f"training.clients_per_round={COHORT}"]
    settings += [f"evaluation.every={rounds}", *more]
    changes = [word for text in settings for word in ("--set", text)]
    assert main(["deploy", "init", str(folder), "--experiment", str(experiment), *changes]) == 0
    return folder
