"""Requests, broadcasts, updates and states as messages, and back."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, PyTree

from fedrecon.algorithms._base import Broadcast, Update
from fedrecon.core._mean import Mean
from fedrecon.core._model import leaves_of
from fedrecon.deployment._refusals import Refusal, RefusedError
from fedrecon.deployment._wire import Message

_MAX_METRICS = 256


class Address(NamedTuple):
    """The first fields of a message.

    Attributes:
        run: Name of the run.
        round: Number of rounds done before the message's round.
        attempt: Number of earlier attempts at the round.
        client: The client's name; `""` for a message that is for no single client, the default.
    """

    run: str
    round: int
    attempt: int
    client: str = ""


def ask_message(address: Address) -> Message:
    """The server's message that asks a client which rows of tables it needs."""
    return Message("ask", *address, {})


def refusal_message(address: Address, reason: Refusal) -> Message:
    """A node's answer when it can give no other; it holds the name of a reason and nothing else."""
    return Message("refusal", *address, {}, {"reason": reason.value})


def refusal_from(message: Message) -> Refusal:
    """The reason in a refusal; `FAILED` for one that this version does not know."""
    _of_kind("refusal", message)
    reason = message.notes.get("reason")
    known = {r.value: r for r in Refusal}
    return known.get(reason, Refusal.FAILED) if isinstance(reason, str) else Refusal.FAILED


def request_message(address: Address, rows: Mapping[str, Int[np.ndarray, "row"]]) -> Message:
    """A client's request for parameters, which names the rows of tables that it needs."""
    return Message("request", *address, {f"rows/{leaf}": ids for leaf, ids in rows.items()})


def request_from(message: Message) -> dict[str, np.ndarray]:
    """The rows of tables in a request, by the leaf's path; the inverse of `request_message`."""
    _of_kind("request", message)
    if any(not name.startswith("rows/") for name in message.arrays):
        raise RefusedError(Refusal.WRONG_LEAF, f"a request has rows alone, got {sorted(message.arrays)}")
    return _below("rows", message.arrays)


def broadcast_message(address: Address, broadcast: Broadcast, notes: Mapping[str, Any] = {}) -> Message:
    """The message that carries a round's parameters to a client.

    Args:
        address: Run, round, attempt and client of the message.
        broadcast: The broadcast that reaches the client.
        notes: For a stateful algorithm the rounds that the client's store needs: `counted` and `durable`, see
            `Store.put_state`; none by default.
    """
    arrays = _leaves_by_path("global_params", broadcast.global_params) | _leaves_by_path(
        "extra", broadcast.extra
    )
    return Message("broadcast", *address, arrays, notes)


def broadcast_from(message: Message, global_params: PyTree[Any], extra: PyTree[Any] = ()) -> Broadcast:
    """The broadcast in a message; the inverse of `broadcast_message`.

    Args:
        message: The decoded message.
        global_params: A pytree of the structure of the model's global parameters.
        extra: A pytree of the structure of the broadcast's `extra`; `()` by default.

    Raises:
        RefusedError: The message is of another kind, or has other leaves than these pytrees.
    """
    _of_kind("broadcast", message)
    params = _tree(global_params, "global_params", message.arrays)
    return Broadcast(params, jnp.int32(message.round), _tree(extra, "extra", message.arrays))


def update_message(address: Address, update: Update) -> Message:
    """The message that carries a client's update to the server."""
    names = list(update.metrics)
    means = [update.metrics[name] for name in names]
    arrays = {
        **_leaves_by_path("delta", update.delta.total),
        **{f"rows/{leaf}": ids for leaf, ids in update.rows.items()},
        "weight": np.asarray(update.delta.weight, np.float32),
        "metrics": np.array([[m.total, m.weight] for m in means], np.float32).reshape(-1, 2),
        **_leaves_by_path("statistics", update.statistics),
    }
    return Message("update", *address, arrays, {"metrics": names})


def update_from(message: Message, global_params: PyTree[Any], statistics: PyTree[Any] = ()) -> Update:
    """The update in a message; the inverse of `update_message`.

    Args:
        message: The decoded message.
        global_params: A pytree of the structure of the model's global parameters.
        statistics: A pytree of the structure of the updates' `statistics`; `()` by default.

    Raises:
        RefusedError: The message is of another kind, has other leaves than these pytrees, or has a weight or
            metrics of another shape or type.
    """
    _of_kind("update", message)
    known = {"weight", "metrics"} | {
        name for name in message.arrays if name.startswith(("delta/", "rows/", "statistics/"))
    }
    if unknown := sorted(message.arrays.keys() - known):
        raise RefusedError(Refusal.WRONG_LEAF, f"an update has no array {unknown[0][:80]!r}")
    for name in ("weight", "metrics"):
        if name not in message.arrays:
            raise RefusedError(Refusal.WRONG_LEAF, f"an update must have the array {name!r}")
    weight: Any = message.arrays["weight"]
    means = message.arrays["metrics"]
    names: Any = message.notes.get("metrics")
    if weight.dtype != np.float32 or means.dtype != np.float32:
        raise RefusedError(Refusal.WRONG_DTYPE, "an update's weight and metrics must be of float32")
    named = isinstance(names, list) and all(isinstance(x, str) for x in names)
    if not named or len(set(names)) != len(names) or len(names) > _MAX_METRICS:
        raise RefusedError(Refusal.WRONG_LEAF, "an update's metrics must have names, no two alike")
    if weight.shape or means.shape != (len(names), 2):
        raise RefusedError(
            Refusal.WRONG_SHAPE,
            f"an update's weight and metrics must be of shapes () and ({len(names)}, 2), got {weight.shape} "
            f"and {means.shape}",
        )
    delta = Mean(_tree(global_params, "delta", message.arrays), weight[()])
    metrics = {name: Mean(total, count) for name, (total, count) in zip(names, means, strict=True)}
    rows = _below("rows", message.arrays)
    return Update(delta, rows, metrics, _tree(statistics, "statistics", message.arrays))


def state_message(address: Address, state: PyTree[Any], notes: Mapping[str, Any]) -> Message:
    """The message in which a server's or a client's state is kept on a disk."""
    return Message("state", *address, _leaves_by_path("state", state), notes)


def state_from(message: Message, like: PyTree[Any]) -> Any:
    """The state in a message; the inverse of `state_message`.

    Args:
        message: The message that was read from the disk.
        like: A pytree of the structure, shapes and types of the state.

    Raises:
        RefusedError: The message is of another kind, or its state has another structure, shape or type.
    """
    _of_kind("state", message)
    tree = _tree(like, "state", message.arrays)
    for (name, x), wanted in zip(leaves_of(tree).items(), jax.tree.leaves(like), strict=True):
        plain = jax.eval_shape(_plain, wanted)
        if x.shape != plain.shape or x.dtype != plain.dtype:
            raise RefusedError(
                Refusal.WRONG_SHAPE, f"the state's leaf {name!r} must be {plain}, got {x.dtype}{x.shape}"
            )

    def with_type_of(x: Any, wanted: Any) -> Any:
        if not jnp.issubdtype(wanted.dtype, jax.dtypes.prng_key):
            return jnp.asarray(x)
        return jax.random.wrap_key_data(jnp.asarray(x), impl=jax.random.key_impl(wanted))

    return jax.tree.map(with_type_of, tree, like)


def _of_kind(kind: str, message: Message) -> None:
    if message.kind != kind:
        raise RefusedError(
            Refusal.WRONG_LEAF, f"a message must be of the kind {kind!r}, got {message.kind!r}"
        )


def _plain(leaf: Any) -> Any:
    """A leaf as an array of numbers; a random key as its key data."""
    is_key = jnp.issubdtype(getattr(leaf, "dtype", np.float32), jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


def _leaves_by_path(part: str, tree: PyTree[Any]) -> dict[str, np.ndarray]:
    """The leaves of a pytree by their paths below `part`."""
    leaves = leaves_of(tree)
    if len(leaves) < len(jax.tree.leaves(tree)):
        raise ValueError(f"two leaves of {part} have the same path of {sorted(leaves)}; rename one of them")
    return {f"{part}/{name}": np.asarray(_plain(x)) for name, x in leaves.items()}


def _below(part: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix(f"{part}/"): x for name, x in arrays.items() if name.startswith(f"{part}/")}


def _tree(like: PyTree[Any], part: str, arrays: Mapping[str, np.ndarray]) -> Any:
    """The arrays below `part` in the structure of the pytree `like`."""
    given, paths = _below(part, arrays), list(leaves_of(like))
    if given.keys() != set(paths):
        raise RefusedError(
            Refusal.WRONG_LEAF,
            f"{part} must have the leaves {sorted(paths)}, got {sorted(name[:80] for name in given)[:50]}",
        )
    return jax.tree.unflatten(jax.tree.structure(like), [given[path] for path in paths])
