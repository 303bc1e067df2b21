from ._cases import Case
from ._compare import Checks
from ._export import Subject, export
from ._graph.program import ExportError
from ._session import Session
from ._training import Training

__all__ = [
    "Case",
    "Checks",
    "ExportError",
    "Session",
    "Subject",
    "Training",
    "export",
]
