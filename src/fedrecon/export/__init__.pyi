from ._cases import Case
from ._export import Checks, Subject, export
from ._program import ExportError
from ._session import Session

__all__ = [
    "Case",
    "Checks",
    "ExportError",
    "Session",
    "Subject",
    "export",
]
