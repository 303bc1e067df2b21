from ._canary import canary_scores
from ._deltas import ItemDelta, RecoveredUser, recover_user, separable_users, touched_items, user_vector
from ._epsilon import epsilon_lower_bound, gaussian_epsilon_lower_bound
from ._findings import Findings, best_matches, findings, membership_auc, pure_share
from ._hostile import with_hostile_clients

__all__ = [
    "Findings",
    "ItemDelta",
    "RecoveredUser",
    "best_matches",
    "canary_scores",
    "epsilon_lower_bound",
    "findings",
    "gaussian_epsilon_lower_bound",
    "membership_auc",
    "pure_share",
    "recover_user",
    "separable_users",
    "touched_items",
    "user_vector",
    "with_hostile_clients",
]
