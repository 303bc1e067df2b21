"""The private API of JAX that runs of several processes need: all of it is used here, as read in JAX 0.10.2.

JAX has no public name for the state of its distributed runtime, nor for the client of the key-value store
through which the processes exchange messages outside computations. Both are attributes of
`jax._src.distributed.global_state`; the store has the methods `key_value_set`, `key_value_try_get` and
`key_value_dir_get`.
"""

from typing import Any


def number_and_count() -> tuple[int, int]:
    """The number of this process, from 0, and the number of processes, once the runtime is initialised."""
    state = _state()
    return int(state.process_id), int(state.num_processes)


def key_value_client() -> Any:
    """The client of the key-value store, once the runtime is initialised."""
    return _state().client


def _state() -> Any:
    from jax._src import distributed

    return distributed.global_state
