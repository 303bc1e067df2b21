from ._evaluate import Evaluation, Scoring, evaluate, model_metrics
from ._ranking import Ranking

__all__ = [
    "Evaluation",
    "Ranking",
    "Scoring",
    "evaluate",
    "model_metrics",
]
