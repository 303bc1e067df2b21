"""The sum of clients' gradient steps as one gradient: that of the sum of the clients' losses.

Where each client takes a single step of plain gradient descent, its delta is its gradient times a number, and

    sum_c w_c grad F_c(g) = grad (sum_c w_c F_c)(g),

whose right side holds one array of the parameters' size instead of one for every client side by side. For a
loss over a whole catalogue of items V, such as |V u_c|² of a user's vector u_c, it is V (sum_c w_c u_c u_cᵀ):
two products of matrices in place of an outer product for every client.

This is how a simulation may sum what clients send, and nothing else: what a client sends is its delta,
whoever computes it, and what the sum is made of here (user vectors among it) is what a client would never
send. A solver therefore notes how a delta was made for whoever sums deltas in the same trace; a deployed
client, whose delta is written down, notes nothing. As in `gathered_rows`, arrays are recognised by identity:
a delta that was changed on its way, by clipping for instance, is not recognised and is summed as it is.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Array, Bool, Float

from fedrecon.core._types import Params


class GradientStep(NamedTuple):
    """How the delta of one client was made.

    Attributes:
        params: The parameters at which the gradient is taken.
        value: The client's loss, `(params, inputs) -> scalar`. It depends on the client by `inputs` alone.
        inputs: The arrays of the client that the loss depends on.
        update: The optimiser's map from a gradient to a change of the parameters; it must be linear.
        scale: The factor by which the client multiplies its gradient, a scalar: 0 where it took no step.
        entries: The sum of all entries of the gradient, a scalar, which is finite where they all are.
        kept: Whether the client is part of the cohort's mean, a scalar; None, the default, before that is
            decided.
        weight: The client's weight in that mean, by which `kept` is decided; None, the default, before that.
    """

    params: Params
    value: Callable[[Params, list[Array]], Float[Array, ""]]
    inputs: list[Array]
    update: Callable[[Params], Params]
    scale: Float[Array, ""]
    entries: Float[Array, ""]
    kept: Bool[Array, ""] | None = None
    weight: Float[Array, ""] | None = None

    def starts_at(self, params: Params) -> bool:
        """Whether the gradient is taken at these very arrays, which then are the same for all clients."""
        given, taken_at = jax.tree.leaves(params), jax.tree.leaves(self.params)
        return len(given) == len(taken_at) and all(a is b for a, b in zip(given, taken_at, strict=True))


# By the identity of a delta's leaf. The leaf is kept beside its step, so that no other takes its identity.
_Registry = dict[int, tuple[Any, GradientStep]]
_registry: contextvars.ContextVar[_Registry | None] = contextvars.ContextVar("_registry", default=None)


@contextlib.contextmanager
def collecting() -> Iterator[_Registry]:
    """Notes how deltas are made within, for as long as that lasts.

    Yields:
        The notes, which are empty where nobody noted anything.
    """
    notes: _Registry = {}
    before = _registry.set(notes)
    try:
        yield notes
    finally:
        _registry.reset(before)


def is_collecting() -> bool:
    """Whether somebody wants to know how deltas are made."""
    return _registry.get() is not None


def note(delta: Params, step: GradientStep) -> None:
    """Notes that a delta was made by a step."""
    registry = _registry.get()
    if registry is not None:
        registry.update({id(leaf): (leaf, step) for leaf in jax.tree.leaves(delta)})


def step_of(delta: Params) -> GradientStep | None:
    """The step that a delta, all of it, was made by; None where that is not known."""
    registry, leaves = _registry.get() or {}, jax.tree.leaves(delta)
    steps = [registry[id(leaf)][1] if id(leaf) in registry else None for leaf in leaves]
    first = steps[0] if steps else None
    return first if first is not None and all(step is first for step in steps) else None


def step(
    value: Callable[..., Float[Array, ""]],
    params: Params,
    inputs: tuple[Any, ...],
    update: Callable[[Params], Params],
    scale: Float[Array, ""],
) -> GradientStep | None:
    """A step along the gradient of `value(params, *inputs)`, as it is noted.

    Args:
        value: The client's loss.
        params: The parameters at which the gradient is taken.
        inputs: Pytrees. NumPy arrays among their leaves are the same for all clients; what else depends on
            the client must be among them.
        update: The optimiser's map from a gradient to a change of the parameters, linear in the gradient.
        scale: The factor by which the change is multiplied, a scalar.

    Returns:
        The step; None where it could not be told apart from its client: where `value` closes over arrays of
        the trace; where the parameters are in a precision in which sums over clients would be rounded; and
        where `value` has backward passes of its own, which have no derivative in a direction.
    """
    if any(x.dtype not in (jnp.float32, jnp.float64) for x in jax.tree.leaves(params)):
        return None
    leaves, structure = jax.tree.flatten(inputs)
    same = [isinstance(x, np.ndarray) for x in leaves]

    def of_arrays(params: Params, arrays: list[Array]) -> Float[Array, ""]:
        rest = iter(arrays)
        filled = [x if s else next(rest) for x, s in zip(leaves, same, strict=True)]
        return value(params, *jax.tree.unflatten(structure, filled))

    arrays = [jnp.asarray(x) for x, s in zip(leaves, same, strict=True) if not s]
    graph = jax.make_jaxpr(of_arrays)(params, arrays)
    if any(isinstance(x, jax.core.Tracer) for x in graph.consts) or _has_custom_vjp(graph.jaxpr):
        return None
    ones = jax.tree.map(jnp.ones_like, params)
    entries = jax.jvp(lambda p: of_arrays(p, arrays), (params,), (ones,))[1]
    return GradientStep(params, of_arrays, arrays, update, scale, entries)


def summed(
    step: GradientStep,
    inputs: list[Array],
    weights: Float[Array, "client"],
    kept: Bool[Array, "client"],
) -> tuple[Params, Bool[Array, ""]]:
    """The weighted sum of the deltas of clients side by side.

    Args:
        step: The step of these clients, as their common trace noted it; it starts at the same parameters for
            all of them.
        inputs: `step.inputs` of every client, each with a leading axis of clients.
        weights: Each client's weight times its `step.scale`; 0 where `kept` is false.
        kept: Whether each client counts in the sum.

    Returns:
        The sum, zeros where it is not finite, and whether it is finite.
    """
    counts = kept & (weights != 0)

    def gradient(inputs: list[Array]) -> Params:
        def total(params: Params) -> Float[Array, ""]:
            values = jax.vmap(step.value, (None, 0))(params, inputs)
            return jnp.sum(values * weights.astype(values.dtype))

        return step.update(jax.grad(total)(step.params))

    def without_the_others(_: Params) -> Params:
        # 0 times a derivative that is not finite is not 0: clients that do not count are computed with the
        # numbers of one that does.
        stand_in = jnp.argmax(counts)
        return gradient([jnp.where(_expand(counts, x), x, x[stand_in]) for x in inputs])

    # The first way shares its arithmetic with the clients' metrics, and is all that is computed in practice.
    sums = gradient(inputs)
    sums = jax.lax.cond(_is_finite(sums), lambda sums: sums, without_the_others, sums)
    finite = _is_finite(sums) | ~jnp.any(counts)
    return jax.tree.map(lambda x: jnp.where(finite & jnp.any(counts), x, 0), sums), finite


def _has_custom_vjp(graph: core.Jaxpr) -> bool:
    """Whether a function with a backward pass of its own, `jax.custom_vjp`, is called anywhere."""
    return any(
        eqn.primitive.name.startswith("custom_vjp_call")
        or any(map(_has_custom_vjp, core.jaxprs_in_params(eqn.params)))
        for eqn in graph.eqns
    )


def _is_finite(tree: Params) -> Bool[Array, ""]:
    return jnp.all(jnp.isfinite(jnp.stack([jnp.sum(x) for x in jax.tree.leaves(tree)])))


def _expand(chosen: Bool[Array, "client"], like: Array) -> Bool[Array, "..."]:
    return chosen.reshape(-1, *[1] * (like.ndim - 1))
