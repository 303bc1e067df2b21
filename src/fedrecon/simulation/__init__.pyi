from ._block_plan import Plan, Slot, plan_blocks
from ._client_state_store import ClientStateStore
from ._describe import Description, LeafDescription, RowBytes, describe
from ._round import Round
from ._simulation import Simulation
from ._trained_state import TrainedState
from ._validation.model import check_model

__all__ = [
    "ClientStateStore",
    "Description",
    "LeafDescription",
    "Plan",
    "Round",
    "RowBytes",
    "Simulation",
    "Slot",
    "TrainedState",
    "check_model",
    "describe",
    "plan_blocks",
]
