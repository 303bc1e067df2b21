"""The methods that every tracker has."""

from collections.abc import Mapping
from typing import Protocol


class Tracker(Protocol):
    """Receives the numbers of a run, by the round as their step."""

    def last(self) -> Mapping[str, int]:
        """The last step of each name that earlier processes of the run logged."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Logs the numbers of a round.

        Args:
            step: The round. Rounds come in order, but that of the test's numbers may be an earlier one.
            values: The numbers by their names.
        """

    def flush(self) -> None:
        """Sends or writes all that was logged so far."""

    def close(self, finished: bool) -> None:
        """Ends the logging.

        Args:
            finished: Whether the run got to its end.
        """
