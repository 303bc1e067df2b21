"""Logs the numbers of a run to MLflow."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

from fedrecon._files import write_atomically

# The file in the run folder that holds MLflow's id of the run.
IDENTITY = "mlflow.txt"

# What an MLflow server takes at most: metrics and parameters in a request, characters of a parameter.
METRICS, PARAMS, LENGTH = 1000, 100, 500


class MlflowTracker:
    """Logs to a run of MLflow, the same one after a resume.

    Args:
        folder: The run folder, which keeps MLflow's id of the run.
        title: The name of the run in MLflow.
        settings: The run's settings by their dotted names, logged as parameters.
        uri: The address of the MLflow server or store; `""` for the one that MLflow's environment variables
            name.
        experiment: The name of the experiment in MLflow; it is made where it does not exist.
    """

    def __init__(self, folder: Path, title: str, settings: Mapping[str, Any], uri: str, experiment: str):
        self._client = MlflowClient(tracking_uri=uri or None)
        identity = folder / IDENTITY
        if identity.exists():
            self._run = identity.read_text(encoding="utf-8").strip()
            self._client.update_run(self._run, status="RUNNING")
        else:
            present = self._client.get_experiment_by_name(experiment)
            place = self._client.create_experiment(experiment) if present is None else present.experiment_id
            self._run = self._client.create_run(place, run_name=title).info.run_id
            write_atomically(identity, f"{self._run}\n")
            params = [Param(name, str(value)[:LENGTH]) for name, value in settings.items()]
            for start in range(0, len(params), PARAMS):
                self._client.log_batch(self._run, params=params[start : start + PARAMS])
        self._waiting: list[Metric] = []

    def last(self) -> Mapping[str, int]:
        names = self._client.get_run(self._run).data.metrics
        return {n: max(m.step for m in self._client.get_metric_history(self._run, n)) for n in names}

    def log(self, step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        self._waiting += [Metric(name, value, now, step) for name, value in values.items()]

    def flush(self) -> None:
        while self._waiting:
            self._client.log_batch(self._run, metrics=self._waiting[:METRICS])
            del self._waiting[:METRICS]

    def close(self, finished: bool) -> None:
        self._client.set_terminated(self._run, "FINISHED" if finished else "KILLED")
