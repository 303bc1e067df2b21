"""What a task hands to an experiment."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedrecon.core._model import Model
from fedrecon.data._clients import Clients
from fedrecon.data._holdout import HELD_OUT
from fedrecon.evaluation._evaluate import Scoring, model_metrics
from fedrecon.experiment.storage.metrics_log import SEEN


@dataclass(frozen=True, eq=False)
class Task:
    """A model and the clients it is trained and evaluated on.

    Attributes:
        model: Of the training.
        train: Clients to train on.
        validation: Unseen clients, evaluated while training; None for none.
        test: Unseen clients, evaluated at the end; None for none.
        notes: What else the reader of the result should know, by what it is.
        held_out: The clients to train on with marked examples that are not trained on: `"validation"` and
            `"test"`, where there are such.
        scoring: What is measured of clients, see `evaluation.Scoring`.
        scored: Fields that say what clients are measured on, whatever the approach adds to them; by default
            all that they have at first.
        num_clients: Whose examples `train` holds; as many as it has clients, unless they are pooled.
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

    def __post_init__(self) -> None:
        if not self.scored:
            fields = (name for clients in self.sets().values() for name in clients.fields)
            object.__setattr__(self, "scored", tuple(dict.fromkeys(fields)))
        if not self.num_clients:
            object.__setattr__(self, "num_clients", len(self.train))

    def sets(self) -> dict[str, Clients]:
        """The clients by the name of their set, where there are such."""
        found = {"train": self.train, "validation": self.validation, "test": self.test}
        found |= {SEEN + name: clients for name, clients in self.held_out.items()}
        return {name: clients for name, clients in found.items() if clients is not None}

    def measured(self) -> dict[str, Clients]:
        """The sets with nothing but what clients are measured on: equal where approaches can be compared."""
        kept = {*self.scored, HELD_OUT}
        return {
            name: clients.select(*(field for field in clients.fields if field in kept))
            for name, clients in self.sets().items()
        }
