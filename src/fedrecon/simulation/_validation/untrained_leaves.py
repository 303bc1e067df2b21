"""Leaves of a model that nothing trains, since no gradient reaches them."""

import warnings
from typing import Any

import jax
from jax.interpreters.partial_eval import dce_jaxpr

from fedrecon.core._model import Model, leaves_of, origin_of
from fedrecon.core._state import is_below
from fedrecon.core._types import Batch, Params, PRNGKey


def check_untrained(model: Model, batch: Batch, key: PRNGKey) -> None:
    """Warns of leaves without a gradient, whatever the numbers, that are declared neither frozen nor state.

    Such are statistics of layers that a forward pass would have to change, and parts that the loss does not
    read. A leaf from which the local parameters start is none of them: algorithms that differentiate a
    reconstruction train it.

    Args:
        model: The model, or a view of it.
        batch: The fields of some examples, or their shapes.
        key: Random key of the loss.

    Warns:
        RuntimeWarning: Naming the leaves.

    Raises:
        ValueError: The loss has a gradient for a leaf that is declared frozen.
    """
    model = origin_of(model)
    of_loss, of_start = _with_gradient(model, batch, key)
    for name, has_gradient in of_loss.items():
        if has_gradient and is_below(model.frozen, name):
            raise ValueError(
                f"{_words(name)} is declared frozen, but the loss has a gradient for it: stop it with "
                "jax.lax.stop_gradient"
            )
    untrained = [name for name, has_gradient in of_loss.items() if not (has_gradient or of_start[name])]
    constant = (*model.frozen, *model.state)
    if names := [_words(name) for name in untrained if not is_below(constant, name)]:
        more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
        warnings.warn(
            f"{', '.join(names[:3])}{more}: the loss has no gradient there, so that training leaves it as it "
            "starts. If that is meant, declare it with `frozen`; if it is state that a forward pass should "
            "change, such as the statistics of a layer, it stays at its start, too: declare it with `state`",
            RuntimeWarning,
            stacklevel=4,
        )


def _with_gradient(model: Model, batch: Batch, key: PRNGKey) -> tuple[dict[str, bool], dict[str, bool]]:
    """For each leaf, by its path in `(global_params, local_params)`, whether a gradient reaches it.

    Returns:
        Whether that of the loss or the penalty does, and whether that of the local parameters' start does.
    """

    def outcome(params: tuple[Params, Params], batch: Batch) -> Any:
        both = model.loss_and_metrics
        loss = model.loss(*params, batch, key) if both is None else both(*params, batch, key)[0]
        return loss.total, model.penalty(*params), model.init_local(params[0], key)

    def tangents(batch: Batch, params: Any, directions: Any) -> Any:
        return jax.jvp(lambda p: outcome(p, batch), (params,), (directions,))[1]

    global_params = jax.eval_shape(model.init_global, key)
    params = global_params, jax.eval_shape(model.init_local, global_params, key)
    # The batch is traced, too, as in rounds: a model whose types are checked refuses NumPy arrays.
    graph = jax.make_jaxpr(tangents)(batch, params, params).jaxpr
    names = list(leaves_of(params))

    def reached(outputs: list[bool]) -> dict[str, bool]:
        read = dce_jaxpr(graph, outputs)[1]
        return dict(zip(names, read[len(read) - len(names) :], strict=True))

    is_loss = [i < 2 for i in range(len(graph.outvars))]  # the loss and the penalty, then the start's leaves
    return reached(is_loss), reached([not x for x in is_loss])


def _words(name: str) -> str:
    part, _, path = name.partition("/")
    return f"the {'local' if part == '1' else 'global'} parameter {path!r}"
