"""Models of Keras 3 on JAX: parameters and state by the variables of a built model."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedrecon.core._mean import Mean
from fedrecon.core._model import Model, Table
from fedrecon.core._partition import partition
from fedrecon.core._random import fold_in
from fedrecon.core._types import Batch, Metrics, Number, Params, PRNGKey
from fedrecon.models._batch_norm import with_some_valid, with_usable_variances
from fedrecon.models._extra import needed

_SEED = "seed_generator_state"  # the last part of the path of a random stream's state


def from_keras(
    model: Any,
    *,
    loss: Callable[[Callable[..., Any], Batch], Mean],
    local: Callable[[str], bool],
    metrics: Callable[[Callable[..., Any], Batch], Metrics] | None = None,
    predict: Callable[[Callable[..., Any], Batch], Any] | None = None,
    penalty: Callable[[Params], Number] | None = None,
    tables: tuple[Table, ...] = (),
    frozen: tuple[str, ...] = (),
) -> Model:
    """Makes a `Model` of a model of Keras 3, whose backend must be JAX, with batch normalisation and dropout.

    Training starts from the values that the model has, whatever the seed of a run. Its weights are
    parameters, and those of layers that are not trainable are frozen; all other variables are state, such as
    the moving statistics of batch normalisation, but for those of random streams, which follow from this
    library's keys. State that is not local is averaged over the clients like global parameters; local state
    stays on its client, as in FedBN.

    The functions get `call`, which is the model's own with the variables of a client: `call(batch["x"],
    training=True, mask=batch["example_mask"])`. Layers that look at a whole batch must leave out its padding:
    `keras.layers.BatchNormalization` does with that mask. A model that padding changes is refused before
    training.

    Args:
        model: The `keras.Model` or layer, which must be built; training does not change it.
        loss: Measures the loss of a batch, `(call, batch) -> Mean`, with one entry per example. What `call`
            changes in the state is the next state.
        local: Says which leaves are local: `is_local("head")`, or another function from a leaf's path to a
            bool.
        metrics: Measures metrics, `(call, batch) -> dict of Mean`, each with one entry per example; None, the
            default, for no metrics. There `call` draws nothing and changes no state.
        predict: Predicts, `(call, features) -> predictions`, under the same rules; None, the default, for a
            model that is only trained and evaluated.
        penalty: Measures a penalty, `variables -> scalar`, which is added to the sum of the loss over a
            solver's examples; None, the default, for none.
        tables: The embedding tables among the global leaves; none by default.
        frozen: Paths of leaves that get no gradient, or of what they lie below; none by default.

    Returns:
        The model. Paths are those of the variables below the model, such as `"head/kernel"` and
        `"norm/moving_mean"`. Layers should have names: Keras numbers others by how many the process has made.

    Raises:
        ModuleNotFoundError: Keras is not installed.
        TypeError: `model` is no layer of Keras.
        ValueError: Keras has another backend, `model` is not built, two of its variables have the same path,
            or it adds losses of its own, such as a kernel's regularisation, which belong to `penalty`; or
            `partition` refuses what it is given.
    """
    keras = needed("keras", "keras")
    backend = keras.config.backend()
    if backend != "jax":
        raise ValueError(
            f"the backend of Keras must be 'jax', got {backend!r}: set KERAS_BACKEND=jax before Keras is "
            "imported"
        )
    if not isinstance(model, keras.layers.Layer):
        raise TypeError(f"model must be a keras.Model or another layer of Keras, got {type(model).__name__}")
    if not model.built:
        raise ValueError("model must be built, so that it has variables: call it once, or its build")
    if model.losses:
        raise ValueError(
            f"model must add no losses of its own, got {len(model.losses)}: drop its regularizers, and give "
            "their sum as penalty"
        )
    parts = _parts(model)

    def usable(batch: Batch) -> Batch:
        return with_some_valid(batch) if parts.state else batch

    def passing(params: Params, key: PRNGKey | None) -> _Pass:
        return _Pass(model, parts, with_usable_variances(params, parts.state), key)

    def next_state(params: Params, batch: Batch, key: PRNGKey) -> Params:
        one = passing(params, key)
        loss(one, usable(batch))
        return one.variables

    return partition(
        lambda key: jax.tree.map(jnp.asarray, parts.start),
        lambda params, batch, key: loss(passing(params, key), usable(batch)),
        metrics and (lambda params, batch: metrics(passing(params, None), batch)),
        local=local,
        predict=predict and (lambda params, features: predict(passing(params, None), features)),
        penalty=penalty,
        tables=tables,
        frozen=(*frozen, *parts.frozen),
        state=parts.state,
        next_state=next_state if parts.state else None,
    )


class _Parts(NamedTuple):
    """The variables of a model.

    Attributes:
        start: Their values by their paths, nested as these are, without those of random streams.
        trainable: The paths of the trainable ones, in Keras' order.
        others: The paths of all others, in Keras' order; those of random streams among them.
        frozen: The paths of the weights of layers that are not trainable.
        state: The paths of those that a forward pass changes, without random streams.
    """

    start: Params
    trainable: tuple[str, ...]
    others: tuple[str, ...]
    frozen: tuple[str, ...]
    state: tuple[str, ...]


def _parts(model: Any) -> _Parts:

    def path_of(x: Any) -> str:
        # A Sequential has its own name before those of its layers, which Keras numbers by the process.
        path: str = x.path
        return path.removeprefix(f"{model.name}/")

    trainable = tuple(path_of(x) for x in model.trainable_variables)
    others = tuple(path_of(x) for x in model.non_trainable_variables)
    for path in (*trainable, *others):
        if (*trainable, *others).count(path) > 1:
            raise ValueError(
                f"the variables of model must have different paths, two have {path!r}: name layers"
            )
    # A layer keeps its weights apart from its state, whether or not it is trainable now.
    weights = {path_of(x) for layer in model._flatten_layers() for x in layer._trainable_variables}
    kept = [x for x in (*model.trainable_variables, *model.non_trainable_variables) if not _is_stream(x.path)]
    start: dict[str, Any] = {}
    for x in kept:
        *above, last = path_of(x).split("/")
        at = start
        for name in above:
            at = at.setdefault(name, {})
        at[last] = jnp.asarray(x.value)
    frozen = tuple(path for path in others if path in weights)
    state = tuple(path for path in others if path not in weights and not _is_stream(path))
    return _Parts(start, trainable, others, frozen, state)


def _is_stream(path: str) -> bool:
    return path.rpartition("/")[2] == _SEED


class _Pass:
    """A model's `call` with given variables, which remembers what it changes in them.

    Args:
        model: The model.
        parts: Its variables.
        variables: Their values.
        key: The key of its random streams; None where it may draw nothing and change no state.
    """

    def __init__(self, model: Any, parts: _Parts, variables: Params, key: PRNGKey | None):
        self.variables = variables
        self._model, self._parts, self._key, self._calls = model, parts, key, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        others = [
            self._stream(i) if _is_stream(p) else _at(self.variables, p)
            for i, p in enumerate(self._parts.others)
        ]
        self._calls += 1
        result, changed = self._model.stateless_call(
            [_at(self.variables, path) for path in self._parts.trainable], others, *args, **kwargs
        )
        if self._key is not None:
            for path, x in zip(self._parts.others, changed, strict=True):
                if path in self._parts.state:
                    self.variables = _with(self.variables, path.split("/"), x)
        return result

    def _stream(self, number: int) -> Any:
        """The state of a random stream at the start of a call: two numbers that follow from the key."""
        if self._key is None:
            return jnp.zeros(2, jnp.uint32)
        return jax.random.bits(fold_in(fold_in(self._key, self._calls), number), (2,), jnp.uint32)


def _at(variables: Params, path: str) -> Any:
    for name in path.split("/"):
        variables = variables[name]
    return variables


def _with(variables: Params, path: list[str], x: Any) -> Params:
    name, *below = path
    return {**variables, name: _with(variables[name], below, x) if below else x}
