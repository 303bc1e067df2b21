"""What a tracker can do."""

from collections.abc import Mapping
from typing import Protocol


class Tracker(Protocol):
    """Where numbers go."""

    def last(self) -> Mapping[str, int]:
        """The last step that earlier processes logged of each name."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Logs numbers of a round. Rounds come in order, but the test's may be an earlier one."""

    def flush(self) -> None:
        """Hands over what was logged."""

    def close(self, finished: bool) -> None:
        """Ends; `finished` says whether the run did too."""
