"""Run folders as training leaves them, made by hand, of which every number is known."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from fedrecon.core._mean import Mean
from fedrecon.evaluation._evaluation import Evaluation
from fedrecon.experiment.reporting import summary as report
from fedrecon.experiment.storage.metrics_log import RECON_EVAL, Records, Row, name_of, rows

COHORT = 10


def write_run(
    path: Path,
    name: str,
    level: float = 0.9,
    seed: int = 0,
    clients: int = 30,
    data: str = "d",
    split: str = "Halves()",
    finished: bool = True,
    protocols: tuple[str, ...] = (RECON_EVAL,),
    **settings: Any,
) -> Path:
    """A run whose clients have squared errors around level², falling by round towards it."""
    path.mkdir(parents=True)
    config = {"name": name, "task": "made", "seed": seed, "data": {"kind": data}, **settings}
    (path / "config.toml").write_text(tomli_w.dumps(config), encoding="utf-8")
    sets = [
        "train",
        *(name_of(split, protocol) for split in ("validation", "test") for protocol in protocols),
    ]
    digests = {name: f"{data}-{name}-{seed}" for name in sets}
    marks = {"seed": seed, "clients": digests, "evaluation": {"split": split, "every": 5}}
    (path / "fingerprint.json").write_text(json.dumps(marks))
    environment = {
        "started": "2026-01-02T03:04:05+00:00",
        "command": ["fedrecon", "run", "made.toml"],
        "seed": seed,
        "git": {"revision": "0123abc", "changed": False},
        "python": "3.12.1",
        "packages": {"fedrecon": "0.1.0"},
        "system": "Linux",
        "cpus": 2,
        "devices": ["cpu:0 cpu"],
    }
    (path / "environment.json").write_text(json.dumps(environment))
    records = Records(path / "metrics.csv")
    records.restart(0)
    for round in range(1, 11):
        total = {"clients": COHORT, "bytes_down": 2e4, "bytes_up": 1e4}
        total |= {"dense_bytes_down": 2e5, "dense_bytes_up": 2e5}
        records.append(Row(round, "train", "training", "total", k, float(v)) for k, v in total.items())
        if round % 5 == 0:
            over = {"examples": {"rmse": level + 1 / round, "accuracy": 0.5 - level / 10 - 1 / round}}
            records.append(rows(round, "validation", RECON_EVAL, over))
            records.append([Row(round, "train", "training", "total", "seconds", round / 2)])
    found: dict[str, Any] = {}
    for number, which in enumerate(("validation", "test")):
        for protocol in protocols:
            evaluation = evaluated(level + 0.1 * (protocol != RECON_EVAL), clients, 10 * seed + number)
            found.setdefault(which, {})[protocol] = evaluation.summary()
            stem = f"clients-{which}" if len(protocols) == 1 else f"clients-{which}-{protocol}"
            report.write_clients(path / f"{stem}.parquet", evaluation)
            if which == "test":
                records.append(rows(10, which, protocol, evaluation.summary()))
    records.commit()
    sent = {"down": 2e3, "up": 1e3, "dense_down": 2e4, "dense_up": 2e4}
    found |= {"rounds": 10, "selected_round": 10, "finished": finished, "seconds": {"total": 5.0 + seed}}
    found |= {"bytes_per_client_and_round": sent, "peak_memory_bytes": 10**8, "raw_data_bytes": None}
    found |= {"work_per_client_and_round": {"gradient_steps": 40.0, "solves": 0.0, "example_passes": 200.0}}
    (path / "result.json").write_text(report.dumps(found))
    return path


def evaluated(level: float, clients: int, seed: int) -> Evaluation:
    """Clients of which the same ones have the same noise at every level."""
    rng = np.random.default_rng(seed)
    weight = rng.integers(1, 9, clients).astype(float)
    errors = (level + 0.05 * rng.normal(size=clients)) ** 2
    hits = np.clip(0.5 - level / 10 + 0.1 * rng.normal(size=clients), 0, 1)
    weights: Any = weight
    means = {"mse": Mean(weights * errors, weights), "accuracy": Mean(weights * hits, weights)}
    return Evaluation(np.arange(clients) + 100, means)
