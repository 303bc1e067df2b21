"""Models of Flax NNX: parameters, statistics and random streams by the types of a module's variables."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedrecon.core._mean import Mean
from fedrecon.core._model import Model, Table
from fedrecon.core._partition import is_local, partition
from fedrecon.core._random import fold_in
from fedrecon.core._types import Batch, Metrics, Number, Params, PRNGKey
from fedrecon.models._batch_norm import with_some_valid, with_usable_variances
from fedrecon.models._extra import needed


def from_nnx(
    module: object,
    *,
    loss: Callable[[Any, Batch], Mean],
    local: Any,
    metrics: Callable[[Any, Batch], Metrics] | None = None,
    predict: Callable[[Any, Batch], Any] | None = None,
    penalty: Callable[[Any], Number] | None = None,
    tables: tuple[Table, ...] = (),
    frozen: tuple[str, ...] = (),
) -> Model:
    """Makes a `Model` of a module of Flax NNX, with batch normalisation and dropout.

    The module's variables are divided by their types: `nnx.Param` are parameters, `nnx.BatchStat` is state,
    such as the running statistics of batch normalisation, and `nnx.RngState` follows from this library's
    keys, which differ by client, round and step. Statistics that are not local are averaged over the clients
    like global parameters; local ones stay on their client, as in FedBN.

    Layers that look at a whole batch must leave out its padding: `nnx.BatchNorm` takes
    `mask=batch["example_mask"][:, None]`. A module that padding changes is refused before training.

    Args:
        module: An `nnx.Module`, whose values are where training starts, or a function from an `nnx.Rngs` to
            one, such as its class, which is called with the key of the start.
        loss: Measures the loss of a batch in training mode, `(module, batch) -> Mean`, with one entry per
            example; the module's `train()` was called. What it changes in the statistics is the next state.
        local: Says which leaves are local: `is_local("head")`, another function from a leaf's path to a bool,
            a type of variables such as `nnx.BatchStat`, or a tuple of these.
        metrics: Measures metrics in evaluation mode, `(module, batch) -> dict of Mean`, each with one entry
            per example; None, the default, for no metrics.
        predict: Predicts in evaluation mode, `(module, features) -> predictions`; None, the default, for a
            model that is only trained and evaluated.
        penalty: Measures a penalty, `module -> scalar`, which is added to the sum of the loss over a solver's
            examples; None, the default, for none.
        tables: The embedding tables among the global leaves; none by default.
        frozen: Paths of leaves that get no gradient, or of what they lie below; none by default.

    Returns:
        The model. Paths are those of the module's attributes, such as `"norm/mean"` or `"layers/0/kernel"`.

    Raises:
        ModuleNotFoundError: Flax is not installed.
        TypeError: `module` is neither a module nor a function that returns one, or `local` is none of what it
            may be.
        ValueError: The module has a variable of another type; or `partition` refuses what it is given.

    References:
        Li et al., FedBN: Federated Learning on Non-IID Features via Local Batch Normalization, ICLR 2021.
    """
    nnx = needed("flax.nnx", "flax")
    make = _maker(nnx, module)
    parts = _parts(nnx, make(nnx.Rngs(0)))

    def usable(batch: Batch) -> Batch:
        return with_some_valid(batch) if parts.state else batch

    def init(key: PRNGKey) -> Params:
        params: Params = nnx.to_pure_dict(nnx.state(make(nnx.Rngs(key)), parts.kept))
        return params

    def module_of(params: Params, key: PRNGKey | None) -> Any:
        """The module with some parameters: in training mode with a key, else in evaluation mode."""
        structure = parts.evaluation if key is None else parts.training
        return nnx.merge(structure, with_usable_variances(params, parts.state), _streams(parts.streams, key))

    def whole_loss(params: Params, batch: Batch, key: PRNGKey) -> Mean:
        return loss(module_of(params, key), usable(batch))

    def next_state(params: Params, batch: Batch, key: PRNGKey) -> Params:
        changed = module_of(params, key)
        loss(changed, usable(batch))
        new: Params = nnx.to_pure_dict(nnx.state(changed, parts.kept))
        return new

    return partition(
        init,
        whole_loss,
        metrics and (lambda params, batch: metrics(module_of(params, None), batch)),
        local=_local(nnx, local, parts.types),
        predict=predict and (lambda params, features: predict(module_of(params, None), features)),
        penalty=penalty and (lambda params: penalty(module_of(params, None))),
        tables=tables,
        frozen=frozen,
        state=parts.state,
        next_state=next_state if parts.state else None,
    )


class _Parts(NamedTuple):
    """What stays fixed of a module.

    Attributes:
        training: Its structure in training mode.
        evaluation: Its structure in evaluation mode.
        kept: The types of the variables that are kept between passes.
        streams: The state of its random streams.
        types: The type of each kept variable by its path.
        state: The paths of the variables that a forward pass changes.
    """

    training: Any
    evaluation: Any
    kept: tuple[type, ...]
    streams: Any
    types: dict[str, type]
    state: tuple[str, ...]


def _maker(nnx: Any, module: Any) -> Callable[[Any], Any]:
    if isinstance(module, nnx.Module):
        return lambda rngs: nnx.clone(module)
    if not callable(module):
        raise TypeError(f"module must be an nnx.Module or a function from an nnx.Rngs to one, got {module!r}")
    make: Callable[[Any], Any] = module
    return make


def _parts(nnx: Any, module: Any) -> _Parts:
    if not isinstance(module, nnx.Module):
        raise TypeError(f"module must return an nnx.Module, got {type(module).__name__}")
    kept = (nnx.Param, nnx.BatchStat)
    structures = []
    for switch in (module.train, module.eval):
        switch()
        structures.append(nnx.split(module)[0])
    _, variables, streams, others = nnx.split(module, kept, nnx.RngState, ...)
    flat = {"/".join(map(str, path)): type(x) for path, x in nnx.to_flat_state(variables)}
    for path, x in nnx.to_flat_state(others):
        raise ValueError(
            f"the variables of a module must be of the types nnx.Param, nnx.BatchStat and nnx.RngState, got "
            f"{type(x).__name__} at {'/'.join(map(str, path))!r}"
        )
    state = tuple(path for path, kind in flat.items() if issubclass(kind, nnx.BatchStat))
    return _Parts(structures[0], structures[1], kept, streams, flat, state)


def _streams(streams: Any, key: PRNGKey | None) -> Any:
    """The random streams of a pass: their keys follow from the pass's key, and nothing was drawn of them."""
    leaves, structure = jax.tree.flatten(streams)
    if key is not None and not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)

    def fresh(number: int, x: Any) -> Any:
        if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jnp.zeros_like(x)
        if key is None:
            return x
        mine = fold_in(key, number)
        return jax.random.split(mine, x.shape) if x.shape else mine

    return jax.tree.unflatten(structure, [fresh(i, x) for i, x in enumerate(leaves)])


def _local(nnx: Any, local: Any, types: dict[str, type]) -> Callable[[str], bool]:
    """The predicate on paths that `from_nnx` was given in one of its forms."""
    chosen: list[str] = []
    functions: list[Callable[[str], bool]] = []
    for one in local if isinstance(local, tuple) else (local,):
        if isinstance(one, type) and issubclass(one, nnx.Variable):
            chosen += [path for path, kind in types.items() if issubclass(kind, one)]
        elif isinstance(one, is_local):
            chosen += one.paths
        elif callable(one):
            functions.append(one)
        else:
            raise TypeError(
                "local must be is_local(...), a function of a leaf's path, a type of nnx.Variable, or a "
                f"tuple of these, got {one!r}"
            )
    named = is_local(*chosen)
    if not functions:
        return named
    return lambda path: named(path) or any(function(path) for function in functions)
