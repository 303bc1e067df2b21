"""The mini-batches of a client: the examples of each of its steps."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Shaped

from fedrecon.core._examples import Examples
from fedrecon.core._random import fold_in
from fedrecon.core._splits import random_order
from fedrecon.core._types import PRNGKey


class Steps(NamedTuple):
    """The steps of one solver on one client.

    Attributes:
        place: The positions of each step's examples among the client's, `[step, example]`.
        valid: Whether each of these examples is used, `[step, example]`: false where a batch is short and in
            steps that are not taken.
        in_order: Whether the steps are one pass over the examples in their order, so that batches are slices.
    """

    place: Int[Any, "step example"]
    valid: Bool[Array, "step example"]
    in_order: bool

    def batches(self, examples: Examples) -> Examples:
        """The batches of all steps, with leaves `[step, example, ...]`."""
        steps, batch = self.valid.shape
        if not self.in_order:
            return examples.take(self.place, self.valid)

        def cut(x: Shaped[Any, "example ..."]) -> Any:
            return x[: steps * batch].reshape(steps, batch, *x.shape[1:])

        return Examples(
            jax.tree.map(cut, examples.padded(steps * batch).data), self.valid, examples.positional
        )


def plan_steps(
    examples: Examples,
    batch_size: int | None,
    epochs: int,
    passes: int | Int[Array, ""],
    max_steps: int | None,
    shuffle: bool,
    key: PRNGKey | None,
) -> Steps:
    """Lays out the steps of several passes over a client's batches.

    Args:
        examples: The client's examples, valid ones first.
        batch_size: The number of examples in a batch; None for all examples.
        epochs: The largest number of passes, which is known before tracing.
        passes: The number of passes of this client, at most `epochs`: with adaptive epochs it follows from
            the round, and may be known only when the program runs.
        max_steps: The largest number of steps; None for no limit.
        shuffle: Whether each pass is in a random order of its own.
        key: The random key of these orders; None without `shuffle`.
    """
    # Step t takes batch t modulo the number of the client's own batches, without those of the padding:
    # neither its passes nor `max_steps` depend on the length of other clients.
    batch = min(batch_size or examples.size, examples.size)
    slots = -(-examples.size // batch)
    most = slots * epochs if max_steps is None else min(slots * epochs, max_steps)
    count = examples.count()
    # All numbers have the type of `count`, so that the program is the same with and without 64-bit types.
    size = jnp.asarray(batch, count.dtype)
    own = jax.lax.div(count + size - 1, size)  # the client's number of batches
    step, column = jnp.arange(most, dtype=count.dtype), jnp.arange(batch, dtype=count.dtype)
    active = step < own * passes
    if epochs == 1:
        within, epoch = step, jnp.zeros_like(step)
    else:
        within, epoch = jax.lax.rem(step, jnp.maximum(own, 1)), jax.lax.div(step, jnp.maximum(own, 1))
    place: Any = within[:, None] * batch + column
    valid = (place < count) & active[:, None]
    if shuffle:
        assert key is not None, "a random order needs a key"
        keys = jax.vmap(lambda e: fold_in(key, e))(jnp.arange(epochs))
        orders = jax.vmap(random_order, (0, None))(keys, examples.mask)
        place = orders[jnp.minimum(epoch, epochs - 1)[:, None], jnp.minimum(place, examples.size - 1)]
    elif epochs == 1:
        place = np.arange(most * batch).reshape(most, batch)
    return Steps(place, valid, in_order=epochs == 1 and not shuffle)
