"""Settings of the training rounds and of the evaluations."""

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field

from fedrecon.evaluation._selection import FORMS, is_selection
from fedrecon.experiment.settings.sections import Section, setting
from fedrecon.experiment.settings.splits import AlternateBatchesSettings, SplitSettings

if TYPE_CHECKING:
    from fedrecon.data._devices.availability import Availability
    from fedrecon.data._devices.availability_models import AvailabilityModel


class AlwaysSettings(Section):
    """All clients are available all the time."""

    name: Literal["always"] = setting("always", "which clients are available: always or nightly")

    def build(self) -> "AvailabilityModel":
        """The model of availability."""
        from fedrecon.data._devices.availability_models import Always

        return Always()


class NightlySettings(Section):
    """Each client is available for some hours a day, around an hour of its own."""

    name: Literal["nightly"] = setting("nightly", "which clients are available: always or nightly")
    hours: float = setting(8.0, "hours a day for which a client is available", gt=0, le=24)
    peak: float = setting(
        3.0, "the hour around which the clients' hours lie; training begins at 0", ge=0, lt=24
    )
    spread: float = setting(3.0, "standard deviation in hours of the clients' middles from it", ge=0)

    def build(self) -> "AvailabilityModel":
        """The model of availability."""
        from fedrecon.data._devices.availability_models import Nightly

        return Nightly(self.hours, self.peak, self.spread)


class DeviceSettings(Section):
    """Rounds as real devices answer them; they count under `training.sampling = "availability"` alone."""

    over_selection: float = setting(1.0, "clients asked for each answer that is wanted", ge=1)
    deadline: Annotated[float, Field(gt=0)] | Literal["none"] = setting(
        "none", 'seconds after which a round ends; "none" waits for all answers'
    )
    min_answers: int = setting(1, "answers that a round needs to count any", ge=1)
    dropout: float = setting(0.0, "probability that an asked client never answers", ge=0, lt=1)
    latency: float = setting(10.0, "seconds that a client takes beside its examples", ge=0)
    seconds_per_example: float = setting(0.1, "seconds that a client takes for an example", ge=0)
    speed_spread: float = setting(0.5, "standard deviation of the logarithm of a client's slowness", ge=0)
    jitter: float = setting(0.1, "the same, drawn for each client and round", ge=0)
    round_seconds: float = setting(300.0, "seconds between the beginnings of two rounds", ge=0)
    max_staleness: int = setting(
        0, "rounds by which an answer may be late and still be counted; 0 drops late answers", ge=0
    )
    staleness_exponent: float = setting(
        0.5, "exponent a of the discount (1 + s)^-a of an answer that is s rounds late", ge=0
    )
    model: Annotated[AlwaysSettings | NightlySettings, Field(discriminator="name")] = setting(
        AlwaysSettings(), "which clients are available:"
    )

    def build(self, clients_per_round: int) -> "Availability":
        """The sampling of cohorts.

        Args:
            clients_per_round: The number of answers at which a round ends.

        Raises:
            ValueError: `min_answers` is above `clients_per_round`, or there is `max_staleness` without
                `round_seconds`.
        """
        from fedrecon.data._devices.availability import Availability

        settings = self.model_dump(exclude={"model", "deadline"})
        deadline = math.inf if self.deadline == "none" else self.deadline
        return Availability(clients_per_round, deadline=deadline, model=self.model.build(), **settings)


class TrainingSettings(Section):
    """The rounds of training: their number, their cohorts, and their checkpoints."""

    rounds: int = setting(500, "rounds", ge=1)
    clients_per_round: int = setting(100, "clients in a cohort; in expectation, under poisson sampling", ge=1)
    sampling: Literal[
        "uniform", "poisson", "weighted", "passes", "fixed_passes", "everyone", "up_to", "availability"
    ] = setting(
        "uniform",
        "uniform without replacement, poisson, weighted by examples, passes: each client once in each,"
        " fixed_passes: in the same order each time, everyone in every round, up_to: uniform, of all clients"
        " where there are fewer, or availability: as real devices answer, by the section devices",
    )
    checkpoint_every: int = setting(
        50, "rounds between checkpoints: what a resume computes again at most", ge=1
    )
    clients_per_block: Annotated[int, Field(ge=1)] | Literal["auto"] = setting(
        "auto", 'vectorised clients in training; "auto" is right for small models'
    )
    initial_global_params: str = setting(
        "", 'a run folder or an .npz file with an array per leaf to start from; "" for the model\'s own start'
    )


def _selection(select: str) -> str:
    if not is_selection(select):
        raise ValueError(f"must be {FORMS}, got {select!r}")
    return select


class EvaluationSettings(Section):
    """The evaluation of unseen clients (ReconEval), and the choice of the parameters for the test clients."""

    every: int = setting(50, "rounds between evaluations of the validation clients", ge=1)
    select: Annotated[str, AfterValidator(_selection)] = setting(
        "final",
        "test clients meet the parameters of the final round, or of the best validation, by what is read"
        ' first, by "best:METRIC", or by "best:METRIC:max" or ":min"',
    )
    split: SplitSettings = setting(AlternateBatchesSettings(), "support and query set in evaluation:")
