"""Whether a model's `next_state` is what a solver may put in the place of the state."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedrecon.core._examples import EXAMPLE_MASK
from fedrecon.core._model import Model, leaves_of, origin_of
from fedrecon.core._state import is_below
from fedrecon.core._types import Batch, Params, PRNGKey
from fedrecon.simulation._compilation import quickly

_SAME = 1e-3  # as for losses: sums of other lengths are rounded otherwise


def check_state(
    model: Model, global_params: Params, local: Params, padded: Batch, name: str, key: PRNGKey
) -> None:
    """Holds a batch's next state to keep shapes, to be finite, and to be the same with and without padding.

    Args:
        model: The model, or a view of it.
        global_params: The global parameters from which training starts.
        local: The local parameters.
        padded: A batch whose last row is padding.
        name: The name of the client in the messages.
        key: The random key of the forward pass.

    Raises:
        ValueError: A promise of `NextStateFn` is broken; the message names the leaf and the client. Or the
            model is a view that leaves out the state of the model that it is a view of.
    """
    if origin_of(model).state and not model.state:
        raise ValueError(
            f"the model has the state {origin_of(model).state}, but the view of it that is trained has none; "
            "pass `state` and `next_state` on"
        )
    if model.next_state is None:
        return
    following = model.next_state
    count = int(padded[EXAMPLE_MASK].sum())

    def state_of(params: Any) -> dict[str, Any]:
        return {leaf: x for leaf, x in leaves_of(params).items() if is_below(model.state, leaf)}

    old = state_of((global_params, local))
    _check_shapes(old, state_of(jax.eval_shape(following, global_params, local, padded, key)))
    run = quickly(lambda params, batch: state_of(following(params, local, batch, key)))
    # As in `check_padding`: a row of zeros hardly shows beside large numbers, a copy of a row does.
    copied = {f: np.concatenate([x[:count], x[:1]]) for f, x in padded.items()}
    copied[EXAMPLE_MASK] = padded[EXAMPLE_MASK]
    alone = run(global_params, {f: x[:count] for f, x in padded.items()})
    for leaf, x in alone.items():
        bare = np.asarray(x, float)
        if not np.all(np.isfinite(bare)):
            raise ValueError(
                f"next_state must return finite numbers, got {bare.flat[0]} for {leaf!r} at {name}"
            )
        for batch in (padded, copied):
            filled = np.asarray(run(global_params, batch)[leaf], float)
            if not np.all(np.abs(filled - bare) <= _SAME * max(1.0, np.abs(bare).max(initial=0))):
                raise ValueError(
                    f"next_state must not depend on rows of padding in its batch, but {leaf!r} differs with "
                    f"and without one at {name}: leave out the rows where batch[{EXAMPLE_MASK!r}] is false, "
                    "as nnx.BatchNorm and linen.BatchNorm do with their argument mask"
                )


def _check_shapes(old: dict[str, Any], new: dict[str, Any]) -> None:
    if missing := sorted(old.keys() ^ new.keys()):
        raise ValueError(
            f"next_state must return parameters of the structure that it was given; they differ in {missing}"
        )
    for leaf, x in old.items():
        if jnp.shape(x) != new[leaf].shape or jnp.result_type(x) != new[leaf].dtype:
            raise ValueError(
                f"next_state must keep shapes and types, {leaf!r} is {jnp.shape(x)} of {jnp.result_type(x)}; "
                f"got {new[leaf].shape} of {new[leaf].dtype}"
            )
