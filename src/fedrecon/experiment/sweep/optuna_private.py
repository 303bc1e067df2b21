"""The private API of Optuna that a sweep needs: all of it is used here, as read in Optuna 5.0.0.

Optuna addresses trials in a storage by ids that have no public name, `FrozenTrial._trial_id`; the storage of
a study is `Study._storage`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial


def set_user_attribute(study: "Study", trial: "FrozenTrial", name: str, value: Any) -> None:
    """Sets a user attribute of a trial that another process has started.

    `Trial.set_user_attr` is for trials that this process has started.
    """
    study._storage.set_trial_user_attr(trial._trial_id, name, value)
