"""The data and the model that a task builds for an experiment."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fedrecon.algorithms._base import Algorithm
from fedrecon.core._model import Model
from fedrecon.data._clients import Clients
from fedrecon.data._holdout import HELD_OUT
from fedrecon.evaluation._evaluate import Scoring, model_metrics
from fedrecon.experiment.storage.metrics_log import SEEN
from fedrecon.simulation._trained_state import mapped


@dataclass(frozen=True, eq=False)
class Task:
    """A model and the clients it is trained and evaluated on.

    Clients that number their fields by other vocabularies than the training clients are renumbered as these.

    Attributes:
        model: The model that is trained.
        train: The training clients.
        validation: Unseen clients that are evaluated while training; None for none.
        test: Unseen clients that are evaluated at the end; None for none.
        notes: Facts that a reader of the result should know, by their names; none by default.
        held_out: The training clients with marked examples that are not trained on, under `"validation"` and
            `"test"`; by default none.
        scoring: The function that measures clients, see `evaluation.Scoring`; by default the model's metrics.
        scored: Fields that decide what clients are measured on, without those that an algorithm adds; by
            default all fields that they have when the task is made.
        num_clients: The number of clients whose examples `train` holds; by default the number of clients in
            `train`, which is another one only where examples are pooled.
        public_sources: For fields whose vocabulary comes from a public list, the name of that list; a private
            run takes no other vocabulary. By default none.
        baselines: Measures what predictors that cost nothing would reach, under names such as
            `"training_mean/mse"`, see `evaluation.Scoring`; None, the default, for none.
        settings_from_data: Settings of the model whose values the training clients decided, by their names.
            Checkpoints hold them, so that clients can be served without the training data. By default none.
        serving: Makes of the algorithm one that serves clients in another way and trains as it does; None,
            the default, for the algorithm itself.
    """

    model: Model
    train: Clients
    validation: Clients | None
    test: Clients | None
    notes: Mapping[str, str] = field(default_factory=dict)
    held_out: Mapping[str, Clients] = field(default_factory=dict)
    scoring: Scoring = model_metrics
    scored: tuple[str, ...] = ()
    num_clients: int = 0
    public_sources: Mapping[str, str] = field(default_factory=dict)
    baselines: Scoring | None = None
    settings_from_data: Mapping[str, float | str] = field(default_factory=dict)
    serving: Callable[[Algorithm], Algorithm] | None = None

    def __post_init__(self) -> None:
        self._number_alike()
        if not self.scored:
            fields = (name for clients in self.sets().values() for name in clients.fields)
            object.__setattr__(self, "scored", tuple(dict.fromkeys(fields)))
        if not self.num_clients:
            object.__setattr__(self, "num_clients", len(self.train))

    def _number_alike(self) -> None:
        """Renumbers the other clients as the training clients, whatever their own vocabularies are."""
        for name in ("validation", "test"):
            clients = getattr(self, name)
            if clients is not None:
                object.__setattr__(self, name, mapped(clients, self.train.vocabularies, repr(name)))
        held_out = {
            name: mapped(clients, self.train.vocabularies, repr(name))
            for name, clients in self.held_out.items()
        }
        object.__setattr__(self, "held_out", held_out)

    def served(self, algorithm: Algorithm) -> Algorithm:
        """The algorithm as it serves this task's clients."""
        return algorithm if self.serving is None else self.serving(algorithm)

    def sets(self) -> dict[str, Clients]:
        """The sets of clients that there are, by their names."""
        sets = {"train": self.train, "validation": self.validation, "test": self.test}
        sets |= {SEEN + name: clients for name, clients in self.held_out.items()}
        return {name: clients for name, clients in sets.items() if clients is not None}

    def measured_sets(self) -> dict[str, Clients]:
        """The sets with the scored fields alone: equal in runs of two algorithms that can be compared."""
        kept = {*self.scored, HELD_OUT}
        return {
            name: clients.select(*(field for field in clients.fields if field in kept))
            for name, clients in self.sets().items()
        }
