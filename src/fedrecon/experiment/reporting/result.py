"""The result of a training run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedrecon.algorithms._base import Algorithm
from fedrecon.evaluation._evaluation import Evaluation, evaluated_of
from fedrecon.evaluation._metric_names import shown_first
from fedrecon.experiment.storage.metrics_log import Records, place
from fedrecon.privacy._ledger import Ledger, rounded_up
from fedrecon.simulation._client_state_store import ClientStateStore

# Names in `result.json` beside those of the evaluated sets, which therefore cannot be called so.
RESULT_KEYS = frozenset(
    (
        "rounds",
        "selected_round",
        "selected_by",
        "finished",
        "diverged",
        "seconds",
        "peak_memory_bytes",
        "device_memory_bytes",
        "compilations",
        "bytes_per_client_and_round",
        "raw_data_bytes",
        "work_per_client_and_round",
        "resumed_from",
        "recomputed_rounds",
        "seeds",
        "files",
        "digest",
        "privacy",
        "deployment",
    )
)


@dataclass(frozen=True, eq=False)
class Result:
    """The result of a training run.

    Attributes:
        algorithm: The algorithm that was trained.
        state: The server's state after the last round.
        global_params: The parameters that were evaluated on the test clients: those after `selected_round`.
        evaluations: Evaluations by the name of their set: the validation clients after the last round, and
            `"test"`; `"seen validation"` and `"seen test"` for held-out examples of training clients.
        baselines: The evaluations of predictors that cost nothing on the same sets, by the name of the set
            and of the baseline; by default none.
        records: Every recorded number by round.
        rounds: Rounds that were done; fewer than `asked` after Ctrl-C.
        asked: Rounds that were asked for.
        selected_round: The round whose parameters are `global_params`.
        selected_by: The rule that decided `selected_round`: `"final"` (the default), or as in
            `"best:rmse:min"` the metric of the best evaluation and which way it is better.
        interrupted: Whether Ctrl-C ended the run.
        seconds: Seconds of the run: `"total"`, `"compilation"` and `"to_first_round"` (None if no round was
            run).
        peak_memory: The most memory that this process held, bytes; None where the system does not tell.
        device_memory: The most memory that a device held, bytes; None where no device tells.
        compilations: The number of programs that the rounds compiled.
        resumed_from: The round of the checkpoint that the run went on from; None if it started afresh.
        recomputed: The number of recorded rounds that were computed again after that checkpoint.
        out: The run folder; None if the run kept nothing.
        notes: Other facts that a reader of the result should know, by their names.
        raw_data: Bytes of the examples that left the clients before the first round; None, the default, where
            none did.
        client_states: The states of the training clients after `selected_round`, for `evaluate`; None, the
            default, for a stateless algorithm.
        privacy: The ledger of what was released; None, the default, for an algorithm that is not private.
        warnings: Sentences about what was asked for that a reader should know, such as clients that were both
            trained and tested on; by default none.
        divergence: The way in which the run came to nothing, as the end of a sentence; None, the default, if
            it did not, or was interrupted.
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
    privacy: Ledger | None = None
    warnings: tuple[str, ...] = ()
    divergence: str | None = None
    baselines: Mapping[str, Mapping[str, Evaluation]] = field(default_factory=dict)

    @property
    def diverged(self) -> bool:
        """Whether the run came to nothing: its parameters are of no use."""
        return self.divergence is not None

    @property
    def metrics(self) -> dict[str, Any]:
        """The final metrics: `{split: {protocol: {"examples": {metric: value}, "clients": …}}}`.

        The protocol is `"recon_eval"` or `"standard_eval"`. See `Evaluation.summary` for what it has.
        """
        return by_protocol({name: x.summary() for name, x in self.evaluations.items()})

    def __repr__(self) -> str:
        parts = [f"{self.rounds} of {self.asked} rounds"]
        parts += [word for word in ("interrupted", "diverged") if getattr(self, word)]
        for name, evaluation in self.evaluations.items():
            metrics = evaluation.summary()["examples"]
            few = evaluation.evaluated_clients < evaluation.asked_clients
            of = f" ({evaluated_of(evaluation.evaluated_clients, evaluation.asked_clients)})" if few else ""
            shown = (f"{m}={metrics[m]:.4f}" for m in shown_first(metrics)[:2])
            parts.append(" ".join([name, *shown]) + of)
        if self.privacy is not None:
            parts.append(f"epsilon={rounded_up(self.privacy.epsilon)}")
        return f"Result({', '.join(parts)})"


class Interrupted(KeyboardInterrupt):
    """Ctrl-C ended a training run; all of it is saved.

    As a `KeyboardInterrupt` it ends a loop of several runs, too. With `out` the same call goes on.

    Attributes:
        result: The result of the rounds that are done; `result.evaluations` may be empty.
    """

    def __init__(self, result: Result):
        super().__init__(f"interrupted after round {result.rounds} of {result.asked}")
        self.result = result


def by_protocol(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by the name of their set of clients as `{split: {protocol: value}}`."""
    nested: dict[str, Any] = {}
    for name, value in values.items():
        split, protocol = place(name)
        nested.setdefault(split, {})[protocol] = value
    return nested
