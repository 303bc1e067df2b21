"""The reasons for which a server does not count an update, or a node does not answer."""

from enum import Enum


class Refusal(Enum):
    """A reason of refusal; its value is the name under which refusals are counted."""

    WRONG_RUN = "wrong_run"
    WRONG_ROUND = "wrong_round"
    WRONG_VERSION = "wrong_version"
    WRONG_LEAF = "wrong_leaf"
    WRONG_SHAPE = "wrong_shape"
    WRONG_DTYPE = "wrong_dtype"
    ROW_RANGE = "row_range"
    NOT_FINITE = "not_finite"
    WEIGHT = "weight"
    DUPLICATE = "duplicate"
    NOT_ASKED = "not_asked"
    NOT_NOW = "not_now"
    FAILED = "failed"
    TOO_LARGE = "too_large"
    CHECKSUM = "checksum"


class RefusedError(ValueError):
    """An update or a message that cannot be used.

    Attributes:
        reason: The reason, under which the refusal is counted.
    """

    def __init__(self, reason: Refusal, message: str):
        super().__init__(message)
        self.reason = reason
