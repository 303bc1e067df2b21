"""The states that clients keep on the nodes of this machine, as the run folder of a simulation has them."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from fedrecon.deployment._client import client_state_like
from fedrecon.deployment._messages import state_from
from fedrecon.deployment._store import Store
from fedrecon.deployment._wire import decode
from fedrecon.errors import DataError
from fedrecon.experiment.training.run_spec import RunSpec
from fedrecon.simulation._client_state_store import ClientStateStore

STATES = "states"


def gather_client_states(
    spec: RunSpec,
    run: str,
    done: int,
    counted: Int[np.ndarray, "client"],
    nodes: Mapping[str, Path],
    target: Path,
) -> dict[str, Any] | None:
    """Copies the clients' states, each that after the last round that counted the client.

    Args:
        spec: The specification of the run.
        run: The name of the run in messages.
        done: The number of rounds done.
        counted: For each client, in the order of their names as strings, the last round that counted it; -1
            for none.
        nodes: The folder of each client's node, by the client's name as a string.
        target: The folder of the states.

    Returns:
        The mark of the states for a checkpoint; None for a stateless algorithm.

    Raises:
        DataError: The state of a client is not on its node.
    """
    kept = ClientStateStore.of(spec.algorithm, spec.clients, target)
    if kept is None:
        return None
    places = {str(name): i for i, name in enumerate(spec.clients.ids.tolist())}
    like = client_state_like(spec.algorithm)
    by_round: dict[int, list[str]] = defaultdict(list)
    for name, round in zip(sorted(places), counted.tolist(), strict=True):
        if round >= 0:
            by_round[round].append(name)
    # What a node's store reads of its clients is their states alone.
    stores = {folder: Store(spec.clients, folder / STATES) for folder in set(nodes.values())}
    for round in sorted(by_round):
        states = []
        for name in by_round[round]:
            data = stores[nodes[name]].state(run, name, round)
            if data is None:
                raise DataError(
                    f"{nodes[name] / STATES}: must have the state of each client that was counted, that of "
                    f"round {round} of the client {places[name]} is missing"
                )
            states.append(state_from(decode(data), like))
        keys = spec.clients.keys[[places[name] for name in by_round[round]]]
        kept.put(round, keys, jax.tree.map(lambda *leaves: np.stack(leaves)[None], *states))
    for store in stores.values():
        store.close()
    return kept.commit(done)
