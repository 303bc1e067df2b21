"""Protocols of the functions of a model and of an objective: their arguments, results and promises.

All of them are pure and are traced by JAX. They see one client: the library takes care of blocks of clients,
padding and devices. Arguments are passed by position, so that a function may give them any names.
"""

from typing import Any, Protocol, runtime_checkable

from fedrecon.core._mean import Mean
from fedrecon.core._types import Batch, Metrics, Number, Params, PRNGKey


@runtime_checkable
class InitGlobalFn(Protocol):
    """Draws the global parameters at the start of training."""

    def __call__(self, key: PRNGKey, /) -> Params:
        """A pytree of floating-point arrays, whose structure and shapes must not depend on the key."""


@runtime_checkable
class InitLocalFn(Protocol):
    """Draws one client's local parameters, from which a fit starts."""

    def __call__(self, global_params: Params, key: PRNGKey, /) -> Params:
        """A pytree of floating-point arrays, `()` for none.

        Args:
            global_params: The global parameters that reached the client. Tables must not be read here: they
                may hold only the rows that the client requested.
            key: The client's random key, for the draws.
        """


@runtime_checkable
class LossFn(Protocol):
    """Measures the loss of a batch, example by example."""

    def __call__(self, global_params: Params, local_params: Params, batch: Batch, key: PRNGKey, /) -> Mean:
        """A `Mean` with one entry per example: total and weight, both `[example]`.

        For an example of several parts, such as a sentence of tokens, the total is the sum over the parts and
        the weight is their number. An entry must not depend on the other examples of the batch, some of which
        are padding; it must be finite on padding, whose fields hold zeros or the values of another example.

        Args:
            global_params: The global parameters; a table may have only the rows that the batch names.
            local_params: The client's local parameters.
            batch: The fields of the batch's examples, each `[example, ...]`.
            key: Random key for draws such as dropout.
        """


@runtime_checkable
class MetricsFn(Protocol):
    """Measures the metrics of a batch, example by example."""

    def __call__(self, global_params: Params, local_params: Params, batch: Batch, /) -> Metrics:
        """Metrics by name, each a `Mean` with one entry per example; names such as `"loss"` are reserved.

        Args:
            global_params: The global parameters; a table may have only the rows that the batch names.
            local_params: The client's local parameters.
            batch: The fields of the batch's examples, each `[example, ...]`.
        """


@runtime_checkable
class LossAndMetricsFn(Protocol):
    """Measures loss and metrics of a batch at once."""

    def __call__(
        self, global_params: Params, local_params: Params, batch: Batch, key: PRNGKey, /
    ) -> tuple[Mean, Metrics]:
        """The loss, which must equal that of `LossFn`, and the metrics that training reports.

        Args:
            global_params: The global parameters; a table may have only the rows that the batch names.
            local_params: The client's local parameters.
            batch: The fields of the batch's examples, each `[example, ...]`.
            key: Random key for draws such as dropout.
        """


@runtime_checkable
class NextStateFn(Protocol):
    """Computes a model's state after a forward pass, such as moving means of a batch's statistics."""

    def __call__(
        self, global_params: Params, local_params: Params, batch: Batch, key: PRNGKey, /
    ) -> tuple[Params, Params]:
        """The pair `(global_params, local_params)` with new values of the leaves in `Model.state`.

        Values of other leaves are not read. Rows of padding, where `batch["example_mask"]` is false, must not
        change the result, which may be anything for a batch without a valid row.

        Args:
            global_params: The global parameters; a table may have only the rows that the batch names.
            local_params: The client's local parameters.
            batch: The fields of the batch's examples, each `[example, ...]`.
            key: The random key that the loss of the same step was given.
        """


@runtime_checkable
class PredictFn(Protocol):
    """Predicts for one client, in serving and in exported files."""

    def __call__(self, global_params: Params, local_params: Params, features: Batch, /) -> Any:
        """Predictions: an array, or a pytree of arrays, `[example, ...]`.

        Args:
            global_params: All global parameters, with whole tables.
            local_params: The local parameters that `Algorithm.personalize` returned.
            features: Fields of examples, each `[example, ...]`; the fields to be predicted may be missing.
        """


@runtime_checkable
class OutputLayerFn(Protocol):
    """Computes what a linear output layer is given: `PredictFn` returns the product with its matrix."""

    def __call__(
        self, global_params: Params, local_params: Params, features: Batch, /
    ) -> tuple[Any, Any, Any]:
        """The layer's inputs `[example, ..., width]`, its matrix `[width, id]` and its bias `[id]`.

        Args:
            global_params: All global parameters, with whole tables.
            local_params: The client's local parameters.
            features: Fields of examples, each `[example, ...]`; the fields to be predicted may be missing.
        """


@runtime_checkable
class PenaltyFn(Protocol):
    """Measures a client's penalty on parameters, such as the weight of an L2 term."""

    def __call__(self, global_params: Params, local_params: Params, /) -> Number:
        """A scalar, added to the *sum* of the loss over all examples that a solver fits.

        It must not read a leaf that is declared as a table: a term on a table's rows belongs to the loss of
        the examples that touch them.

        Args:
            global_params: The global parameters of the client.
            local_params: The client's local parameters.
        """


@runtime_checkable
class ObjectiveLossFn(Protocol):
    """Measures the loss of a batch as a function of the parameters that are fitted."""

    def __call__(self, params: Params, frozen: Params, batch: Batch, key: PRNGKey, /) -> Mean:
        """A `Mean` with one entry per example, under the same rules as `LossFn`.

        Args:
            params: The parameters that are fitted.
            frozen: The parameters that stay unchanged.
            batch: The fields of the batch's examples, each `[example, ...]`.
            key: Random key for draws such as dropout.
        """


@runtime_checkable
class ObjectiveMetricsFn(Protocol):
    """Measures the metrics of a batch while parameters are fitted."""

    def __call__(self, params: Params, frozen: Params, batch: Batch, /) -> Metrics:
        """Metrics by name, each a `Mean` with one entry per example."""


@runtime_checkable
class ObjectiveLossAndMetricsFn(Protocol):
    """Measures the loss and the metrics of an objective at once."""

    def __call__(self, params: Params, frozen: Params, batch: Batch, key: PRNGKey, /) -> tuple[Mean, Metrics]:
        """The results of `ObjectiveLossFn` and of `ObjectiveMetricsFn`, as a pair."""


@runtime_checkable
class ObjectiveNextStateFn(Protocol):
    """Computes the state among the parameters that are fitted, after a forward pass."""

    def __call__(self, params: Params, frozen: Params, batch: Batch, key: PRNGKey, /) -> Params:
        """`params` with new values of the leaves in `Objective.state`, by the rules of `NextStateFn`."""


@runtime_checkable
class ObjectivePenaltyFn(Protocol):
    """Measures the penalty as a function of the parameters that are fitted."""

    def __call__(self, params: Params, frozen: Params, /) -> Number:
        """A scalar, added to the sum of the loss over all examples that are fitted."""
