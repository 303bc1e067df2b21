"""What a training run gives back."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrecon.algorithms._base import Algorithm
from fedrecon.evaluation._evaluate import Evaluation
from fedrecon.evaluation._metric_names import shown_first
from fedrecon.experiment.storage.metrics_log import Records, place
from fedrecon.simulation._client_state_store import ClientStateStore


@dataclass(frozen=True, eq=False)
class Result:
    """What a training run gave.

    Attributes:
        algorithm: What was trained.
        state: The server's, after the last round.
        global_params: Those that met the test clients: of `selected_round`.
        evaluations: By the name of their clients: the validation clients after the last round, and `"test"`;
            `"seen validation"` and `"seen test"` for held-out examples of training clients.
        records: Every number by round.
        rounds: Rounds done; fewer than `asked` after Ctrl-C.
        asked: Rounds asked for.
        selected_round: The round of `global_params`.
        selected_by: What decided it: `"final"`, or as in `"best:rmse:min"` the metric of the best evaluation
            and which way it is better.
        interrupted: Whether Ctrl-C ended it.
        seconds: `"total"`, `"compilation"` and `"to_first_round"` (None if no round was run).
        peak_memory: Bytes that this process held at most.
        device_memory: Bytes that a device held at most; None where it does not say.
        compilations: Programs that the rounds compiled.
        resumed_from: The round of the checkpoint it went on from; None if it started afresh.
        recomputed: Recorded rounds that were computed again after that checkpoint.
        out: The run folder, if any.
        notes: What else a reader should know, by what it is.
        raw_data: Bytes of the examples that left the clients before the first round; None where none did.
        client_states: The states of the training clients after `selected_round`, for `evaluate`; None for a
            stateless algorithm.
    """

    algorithm: Algorithm
    state: Any
    global_params: Any
    evaluations: Mapping[str, Evaluation]
    records: Records
    rounds: int
    asked: int
    selected_round: int
    interrupted: bool
    seconds: Mapping[str, float | None]
    peak_memory: int | None
    device_memory: int | None
    compilations: int
    resumed_from: int | None
    recomputed: int
    out: Path | None
    notes: Mapping[str, str]
    raw_data: int | None = None
    selected_by: str = "final"
    client_states: ClientStateStore | None = None

    @property
    def metrics(self) -> dict[str, Any]:
        """The final metrics: `{split: {protocol: {"examples": {metric: value}, "clients": …}}}`.

        The protocol is `"recon_eval"` or `"standard_eval"`.
        """
        return by_protocol({name: x.summary() for name, x in self.evaluations.items()})

    def __repr__(self) -> str:
        parts = [f"{self.rounds} of {self.asked} rounds"]
        for name, evaluation in self.evaluations.items():
            found = evaluation.summary()["examples"]
            parts.append(f"{name} " + " ".join(f"{m}={found[m]:.4f}" for m in shown_first(found)[:2]))
        return f"Result({', '.join(parts)})"


def by_protocol(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by the name of their clients as `{split: {protocol: value}}`."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        split, protocol = place(name)
        found.setdefault(split, {})[protocol] = value
    return found
