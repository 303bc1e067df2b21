"""Models of Flax Linen: parameters and state by the collections of a module's variables."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from fedrecon.core._mean import Mean
from fedrecon.core._model import Model, Table
from fedrecon.core._partition import partition
from fedrecon.core._random import fold_in
from fedrecon.core._state import state_leaves
from fedrecon.core._types import Batch, Metrics, Number, Params, PRNGKey
from fedrecon.models._batch_norm import with_some_valid, with_usable_variances

_PARAMETERS, _PASSING = "params", "intermediates"


def from_linen(
    module: Any,
    init: Callable[[dict[str, PRNGKey]], Mapping[str, Any]],
    *,
    loss: Callable[[Callable[..., Any], Batch], Mean],
    local: Callable[[str], bool],
    metrics: Callable[[Callable[..., Any], Batch], Metrics] | None = None,
    predict: Callable[[Callable[..., Any], Batch], Any] | None = None,
    penalty: Callable[[Params], Number] | None = None,
    tables: tuple[Table, ...] = (),
    frozen: tuple[str, ...] = (),
    streams: tuple[str, ...] = ("dropout",),
) -> Model:
    """Makes a `Model` of a module of Flax Linen, with batch normalisation and dropout.

    The collection `"params"` are parameters, every other collection is state, such as `"batch_stats"`, but
    for `"intermediates"`, which is dropped. State that is not local is averaged over the clients like global
    parameters; local state stays on its client, as in FedBN.

    The functions get `apply`, which is `module.apply` with the variables of a client: `apply(batch["x"],
    train=True)`. Layers that look at a whole batch must leave out its padding: `linen.BatchNorm` takes
    `mask=batch["example_mask"][:, None]`. A module that padding changes is refused before training.

    Args:
        module: The `linen.Module`.
        init: Draws the variables, `rngs -> variables`, with a key for `"params"` and one for each of
            `streams`: `lambda rngs: module.init(rngs, jnp.ones((1, 4)), train=False)`.
        loss: Measures the loss of a batch, `(apply, batch) -> Mean`, with one entry per example. What `apply`
            changes in the state is the next state.
        local: Says which leaves are local: `is_local("params/head")`, or another function from a leaf's path
            to a bool.
        metrics: Measures metrics, `(apply, batch) -> dict of Mean`, each with one entry per example; None,
            the default, for no metrics. There `apply` draws nothing and changes no state.
        predict: Predicts, `(apply, features) -> predictions`, under the same rules; None, the default, for a
            model that is only trained and evaluated.
        penalty: Measures a penalty, `variables -> scalar`, which is added to the sum of the loss over a
            solver's examples; None, the default, for none.
        tables: The embedding tables among the global leaves; none by default.
        frozen: Paths of leaves that get no gradient, or of what they lie below; none by default.
        streams: The names of the random streams that a forward pass draws from, whose keys differ by client,
            round and step; `("dropout",)` by default.

    Returns:
        The model. Paths are those of the variables, such as `"params/head/kernel"` and
        `"batch_stats/norm/mean"`.

    Raises:
        ValueError: `init` returns no collection `"params"`; or `partition` refuses what it is given, such as
            state that is no floating-point number.
    """

    def keys(key: PRNGKey, names: tuple[str, ...]) -> dict[str, PRNGKey]:
        return {name: fold_in(key, number) for number, name in enumerate(names)}

    def start(key: PRNGKey) -> Params:
        variables = init(keys(key, (_PARAMETERS, *streams)))
        return {name: x for name, x in variables.items() if name != _PASSING}

    shapes = jax.eval_shape(start, jax.random.key(0))
    if _PARAMETERS not in shapes:
        raise ValueError(f"init must return the collection {_PARAMETERS!r}, got {sorted(shapes)}")
    collections = tuple(name for name in shapes if name != _PARAMETERS)
    state = tuple(state_leaves(shapes, collections))

    def usable(batch: Batch) -> Batch:
        return with_some_valid(batch) if state else batch

    def passing(params: Params, key: PRNGKey | None) -> _Pass:
        variables = with_usable_variances(params, state)
        if key is None:
            return _Pass(module, variables, {}, ())
        return _Pass(module, variables, keys(key, streams), collections)

    def next_state(params: Params, batch: Batch, key: PRNGKey) -> Params:
        one = passing(params, key)
        loss(one, usable(batch))
        return one.variables

    return partition(
        start,
        lambda params, batch, key: loss(passing(params, key), usable(batch)),
        metrics and (lambda params, batch: metrics(passing(params, None), batch)),
        local=local,
        predict=predict and (lambda params, features: predict(passing(params, None), features)),
        penalty=penalty,
        tables=tables,
        frozen=frozen,
        state=state,
        next_state=next_state if state else None,
    )


class _Pass:
    """A module's `apply` with given variables, which remembers what it changes in them.

    Args:
        module: The module.
        variables: Its variables.
        rngs: The keys of its random streams.
        collections: The names of the collections that it may change.
    """

    def __init__(
        self, module: Any, variables: Params, rngs: dict[str, PRNGKey], collections: tuple[str, ...]
    ):
        self.variables = variables
        self._module, self._rngs, self._collections = module, rngs, collections

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self._collections:
            return self._module.apply(self.variables, *args, rngs=self._rngs, **kwargs)
        result, changed = self._module.apply(
            self.variables, *args, rngs=self._rngs, mutable=list(self._collections), **kwargs
        )
        self.variables = {**self.variables, **changed}
        return result
