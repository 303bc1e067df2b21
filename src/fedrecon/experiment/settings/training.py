"""Settings of the training rounds and of the evaluations."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from fedrecon.evaluation._selection import FORMS, is_selection
from fedrecon.experiment.settings.sections import Section, setting
from fedrecon.experiment.settings.splits import AlternateBatchesSettings, SplitSettings


class TrainingSettings(Section):
    """The rounds of training: their number, their cohorts, and their checkpoints."""

    rounds: int = setting(500, "rounds", ge=1)
    clients_per_round: int = setting(100, "clients in a cohort; in expectation, under poisson sampling", ge=1)
    sampling: Literal["uniform", "poisson", "weighted", "passes", "everyone", "up_to"] = setting(
        "uniform",
        "uniform without replacement, poisson, weighted by examples, passes: each client once in each,"
        " everyone in every round, or up_to: uniform, of all clients where there are fewer",
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
