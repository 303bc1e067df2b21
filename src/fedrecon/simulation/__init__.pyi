from ._block_plan import Plan, Slot, plan_blocks
from ._client_state_store import ClientStateStore
from ._round import Round
from ._simulation import Simulation
from ._trained_state import TrainedState
from ._validate_model import check_model

__all__ = [
    "ClientStateStore",
    "Plan",
    "Round",
    "Simulation",
    "Slot",
    "TrainedState",
    "check_model",
    "plan_blocks",
]
