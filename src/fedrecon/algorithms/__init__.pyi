from ._base import (
    Aggregator,
    Algorithm,
    Broadcast,
    ClientUpdateFn,
    ClientWeightFn,
    InitClientStateFn,
    InitFn,
    PersonalizeFn,
    ServerState,
    ServerUpdateFn,
    Update,
)
from ._building_blocks import (
    WeightedMean,
    by_examples,
    client_state_after,
    cost_of,
    server,
    solve_delta,
    solve_params,
    stateless,
    subkeys,
    uniform,
    update_of,
    with_usable_tables,
)
from ._centralized import centralized
from ._ditto import ditto
from ._fedalt import fedalt
from ._fedavg import fedavg
from ._fedper import fedper
from ._fedrecon import fedrecon
from ._fedrep import fedrep
from ._fedsim import fedsim
from ._finetuning import finetuning
from ._full_gradient import full_gradient
from ._lg_fedavg import lg_fedavg
from ._local_only import local_only
from ._maml import first_order_maml, maml
from ._pfedme import pfedme
from ._refitting import refit
from ._reptile import reptile
from ._robust import Krum, Median, NormBound, RobustRule, TrimmedMean, robust

__all__ = [
    "Aggregator",
    "Algorithm",
    "Broadcast",
    "ClientUpdateFn",
    "ClientWeightFn",
    "InitClientStateFn",
    "InitFn",
    "Krum",
    "Median",
    "NormBound",
    "PersonalizeFn",
    "RobustRule",
    "ServerState",
    "ServerUpdateFn",
    "TrimmedMean",
    "Update",
    "WeightedMean",
    "by_examples",
    "centralized",
    "client_state_after",
    "cost_of",
    "ditto",
    "fedalt",
    "fedavg",
    "fedper",
    "fedrecon",
    "fedrep",
    "fedsim",
    "finetuning",
    "first_order_maml",
    "full_gradient",
    "lg_fedavg",
    "local_only",
    "maml",
    "pfedme",
    "refit",
    "reptile",
    "robust",
    "server",
    "solve_delta",
    "solve_params",
    "stateless",
    "subkeys",
    "uniform",
    "update_of",
    "with_usable_tables",
]
