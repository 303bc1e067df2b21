"""Numbers to MLflow."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

from fedrecon._files import write_atomically

# Of the run, in the run folder.
IDENTITY = "mlflow.txt"

# As many as the server takes at once.
METRICS, PARAMS, LENGTH = 1000, 100, 500


class MlflowTracker:
    """Logs to a run of MLflow, the same one after a resume.

    Args:
        folder: The run's, where its id is kept.
        title: The name of a new run.
        settings: Its parameters.
        uri: Of the store; `""` for what the environment says.
        experiment: Made where it does not exist.
    """

    def __init__(self, folder: Path, title: str, settings: Mapping[str, Any], uri: str, experiment: str):
        self._client = MlflowClient(tracking_uri=uri or None)
        identity = folder / IDENTITY
        if identity.exists():
            self._run = identity.read_text(encoding="utf-8").strip()
            self._client.update_run(self._run, status="RUNNING")
        else:
            found = self._client.get_experiment_by_name(experiment)
            place = self._client.create_experiment(experiment) if found is None else found.experiment_id
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
