"""Models of Equinox: the arrays of a module are parameters, those of its `State` are state."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from fedrecon.core._mean import Mean
from fedrecon.core._model import Model, Table
from fedrecon.core._partition import partition
from fedrecon.core._types import Batch, Metrics, Number, Params, PRNGKey
from fedrecon.models._extra import needed

_MODULE, _STATE = "module", "state"


def from_equinox(
    make: Callable[[PRNGKey], tuple[Any, Any]],
    *,
    loss: Callable[[Any, Any, Batch, PRNGKey], tuple[Mean, Any]],
    local: Callable[[str], bool],
    metrics: Callable[[Any, Any, Batch], Metrics] | None = None,
    predict: Callable[[Any, Any, Batch], Any] | None = None,
    penalty: Callable[[Any], Number] | None = None,
    tables: tuple[Table, ...] = (),
    frozen: tuple[str, ...] = (),
) -> Model:
    """Makes a `Model` of an Equinox module and its `State`, such as that of spectral normalisation.

    State that is not local is averaged over the clients like global parameters; local state stays on its
    client. `equinox.nn.BatchNorm` cannot be trained so: it leaves no padding out of its statistics, and
    holds a flag that is no floating-point number. Layers of one's own that read `batch["example_mask"]` can.

    Args:
        make: Draws a module and its state, `key -> (module, State)`: `equinox.nn.make_with_state(Net)`.
        loss: Measures the loss of a batch, `(module, state, batch, key) -> (Mean, State)`, with one entry per
            example, and returns the next state.
        local: Says which leaves are local: `is_local("module/head")`, or another function from a leaf's path
            to a bool.
        metrics: Measures metrics, `(module, state, batch) -> dict of Mean`, each with one entry per example,
            of the module after `equinox.nn.inference_mode`; None, the default, for no metrics.
        predict: Predicts with that module, `(module, state, features) -> predictions`; None, the default, for
            a model that is only trained and evaluated.
        penalty: Measures a penalty, `module -> scalar`, which is added to the sum of the loss over a solver's
            examples; None, the default, for none.
        tables: The embedding tables among the global leaves; none by default.
        frozen: Paths of leaves that get no gradient, or of what they lie below; none by default.

    Returns:
        The model. Paths are those of the module's fields below `"module"`, such as `"module/head/weight"`;
        the arrays of the state are numbered, `"state/0"`.

    Raises:
        ModuleNotFoundError: Equinox is not installed.
        TypeError: `make` does not return a pair of a module and a `State`.
        ValueError: `partition` refuses what it is given, such as state that is no floating-point number.
    """
    eqx = needed("equinox", "equinox")
    made = make(jax.random.key(0))
    if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[1], eqx.nn.State)):
        raise TypeError(
            "make must return a module and its State, as equinox.nn.make_with_state(Net) does, got "
            f"{type(made).__name__}"
        )
    rest = eqx.filter(made[0], eqx.is_inexact_array, inverse=True)
    structure = jax.tree.structure(made[1])
    has_state = bool(jax.tree.leaves(made[1]))

    def init(key: PRNGKey) -> Params:
        module, state = make(key)
        return {_MODULE: eqx.filter(module, eqx.is_inexact_array), _STATE: jax.tree.leaves(state)}

    def parts(params: Params) -> tuple[Any, Any]:
        state = jax.tree.unflatten(structure, params[_STATE])
        return eqx.combine(params[_MODULE], rest), state

    def tested(function: Callable[..., Any], params: Params, batch: Batch) -> Any:
        module, state = parts(params)
        return function(eqx.nn.inference_mode(module), state, batch)

    def next_state(params: Params, batch: Batch, key: PRNGKey) -> Params:
        _, state = loss(*parts(params), batch, key)
        return {**params, _STATE: jax.tree.leaves(state)}

    return partition(
        init,
        lambda params, batch, key: loss(*parts(params), batch, key)[0],
        metrics and functools.partial(tested, metrics),
        local=local,
        predict=predict and functools.partial(tested, predict),
        penalty=penalty and (lambda params: penalty(parts(params)[0])),
        tables=tables,
        frozen=frozen,
        state=(_STATE,) if has_state else (),
        next_state=next_state if has_state else None,
    )
