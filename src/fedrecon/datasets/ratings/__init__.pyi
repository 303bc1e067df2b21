from ._catalogue import Catalogue
from ._convert import convert
from ._dataset import arrange, load
from ._interactions import each_once, interactions, leave_one_out, with_negatives, with_recency
from ._movielens import Archive, download
from ._population import population
from ._prepare import prepare
from ._reader_options import Columns, Reading
from ._synthetic import Planted, ridge_rmse, synthetic

__all__ = [
    "Archive",
    "Catalogue",
    "Columns",
    "Planted",
    "Reading",
    "arrange",
    "convert",
    "download",
    "each_once",
    "interactions",
    "leave_one_out",
    "load",
    "population",
    "prepare",
    "ridge_rmse",
    "synthetic",
    "with_negatives",
    "with_recency",
]
