from . import attacks
from ._accounting import Accounting, accounting, calibrate, poisson_rdp
from ._clipping import Clipping
from ._compression import Compression, compressed
from ._gaussian import gaussian_delta, gaussian_epsilon, gaussian_noise_multiplier
from ._guarantee import PrivacyState, UserLevelDP
from ._item_biases import ItemBiases, item_biases, item_parameters, private_item_sums
from ._item_sums import item_sums
from ._ledger import Ledger
from ._row_selection import RowSelection, with_min_contributors
from ._user_level import user_level_dp

__all__ = [
    "Accounting",
    "Clipping",
    "Compression",
    "ItemBiases",
    "Ledger",
    "PrivacyState",
    "RowSelection",
    "UserLevelDP",
    "accounting",
    "attacks",
    "calibrate",
    "compressed",
    "gaussian_delta",
    "gaussian_epsilon",
    "gaussian_noise_multiplier",
    "item_biases",
    "item_parameters",
    "item_sums",
    "poisson_rdp",
    "private_item_sums",
    "user_level_dp",
    "with_min_contributors",
]
