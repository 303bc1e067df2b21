from ._evaluate import Scoring, evaluate, model_metrics
from ._evaluation import Evaluation
from ._ranking import Ranking

__all__ = [
    "Evaluation",
    "Ranking",
    "Scoring",
    "evaluate",
    "model_metrics",
]
