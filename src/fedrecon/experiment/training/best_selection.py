"""The choice of the best evaluation of a run, whose parameters meet the test clients."""

import math
from collections.abc import Mapping
from typing import Any

from fedrecon.algorithms._base import ServerState
from fedrecon.evaluation._evaluation import Evaluation
from fedrecon.evaluation._metric_names import direction_of
from fedrecon.evaluation._selection import Criterion
from fedrecon.experiment.storage.checkpoint import CheckpointError
from fedrecon.experiment.training.evaluation_rows import Best
from fedrecon.simulation._client_state_store import ClientStateStore


class BestSelection:
    """Remembers the best evaluation so far.

    Args:
        criterion: The metric that decides which evaluation is better; None if none is selected.
        client_states: The states of the training clients; None for a stateless algorithm.

    Attributes:
        criterion: The metric that decides which evaluation is better; None if none is selected. After a
            resume it is the one of the checkpoint's best evaluation.
        best: The best evaluation so far; None before the first one.
    """

    def __init__(self, criterion: Criterion | None, client_states: ClientStateStore | None):
        self.criterion = criterion
        self.best: Best | None = None
        self._client_states = client_states

    @property
    def mark(self) -> Mapping[str, Any] | None:
        """The mark of the client states after the best round; None if there is none."""
        return None if self.best is None else self.best.client_states_mark

    def consider(self, number: int, state: ServerState, evaluations: Mapping[str, Evaluation]) -> None:
        """Compares an evaluation with the best one so far.

        Args:
            number: The round of the evaluation.
            state: The server's state after that round.
            evaluations: The evaluations by the name of the set of clients, of which the first one decides.
        """
        if self.criterion is None:
            return
        metric, direction = self.criterion.metric, self.criterion.direction
        value = next(iter(evaluations.values())).over_examples()[metric]
        # A first value that is no number must not stay the best for ever, since none is better than it.
        if self.best is None or math.isnan(self.best.value) or direction.better(value, self.best.value):
            mark = None
            if self._client_states is not None:
                mark = self._client_states.mark(number)
                self._client_states.hold(mark)
            self.best = Best(number, metric, value, state.global_params, mark)

    def restore(self, info: Mapping[str, Any], global_params: Any) -> None:
        """Goes on from the best evaluation of a checkpoint, by the metric that decided it.

        Earlier versions preferred perplexity to accuracy, so today's choice may be another metric; but the
        values of two metrics cannot be compared.

        Args:
            info: The JSON values that `Best.to_info` returned when it was saved.
            global_params: The parameters of the best evaluation.

        Raises:
            CheckpointError: The direction in which the checkpoint's metric is better is not known.
        """
        self.best = Best.from_info(info, global_params)
        metric = self.best.metric
        if self.criterion is None or self.criterion.metric == metric:
            return
        direction = direction_of(metric)
        if direction is None:
            raise CheckpointError(f"its best evaluation is by {metric!r}, of which no direction is known")
        self.criterion = Criterion(metric, direction)
