"""The functions that a model and an objective are made of, each by what it takes, returns and promises.

All of them are pure and are traced by JAX. They see one client: blocks of clients, padding and devices
are the library's. Arguments are passed by position, so that a function may name them as it likes.
"""

from typing import Any, Protocol, runtime_checkable

from fedrecon.core._mean import Mean
from fedrecon.core._types import Batch, Metrics, Number, Params, PRNGKey


@runtime_checkable
class InitGlobalFn(Protocol):
    """Draws the global parameters at the start of training."""

    def __call__(self, key: PRNGKey, /) -> Params:
        """Any pytree of floating-point arrays. Its structure and shapes must not depend on the key."""


@runtime_checkable
class InitLocalFn(Protocol):
    """Draws one client's local parameters as they are before anything is fitted."""

    def __call__(self, global_params: Params, key: PRNGKey, /) -> Params:
        """Any pytree of floating-point arrays, `()` for none.

        Args:
            global_params: The global parameters that reached the client. Of a table they hold only the rows
                that the client asked for, so that tables must not be read here.
            key: The client's random key.
        """


@runtime_checkable
class LossFn(Protocol):
    """Measures the loss of a batch, example by example."""

    def __call__(self, global_params: Params, local_params: Params, batch: Batch, key: PRNGKey, /) -> Mean:
        """A `Mean` with one entry per example: total and weight, both `[example]`.

        An example of several parts, such as a sentence of tokens, has their sum as its total and their number
        as its weight. An entry must not depend on the other examples of the batch, some of which are padding;
        on padding, whose fields hold zeros or another example's values, it must be finite.

        Args:
            global_params: All of them; of a table, only rows that the batch names may be there.
            local_params: The client's local parameters.
            batch: The fields of the batch's examples, each `[example, ...]`.
            key: Random key for draws such as dropout.
        """


@runtime_checkable
class MetricsFn(Protocol):
    """Measures what is reported of a batch, example by example."""

    def __call__(self, global_params: Params, local_params: Params, batch: Batch, /) -> Metrics:
        """Metrics by name, each a `Mean` with one entry per example; names such as `"loss"` are taken.

        Args: see `LossFn`.
        """


@runtime_checkable
class LossAndMetricsFn(Protocol):
    """Measures loss and metrics of a batch at once."""

    def __call__(
        self, global_params: Params, local_params: Params, batch: Batch, key: PRNGKey, /
    ) -> tuple[Mean, Metrics]:
        """The loss, the same as `LossFn` gives, and what metrics are reported in training."""


@runtime_checkable
class PredictFn(Protocol):
    """Predicts for one client: what serving and export run."""

    def __call__(self, global_params: Params, local_params: Params, features: Batch, /) -> Any:
        """Predictions: an array, or a pytree of arrays, `[example, ...]`.

        Args:
            global_params: All global parameters, with whole tables.
            local_params: The local parameters that `Algorithm.personalize` returned.
            features: Fields of examples; those that say what is to be predicted may be missing.
        """


@runtime_checkable
class PenaltyFn(Protocol):
    """Measures a client's penalty on parameters, such as the weight of an L2 term."""

    def __call__(self, global_params: Params, local_params: Params, /) -> Number:
        """A scalar, added to the *sum* of the loss over all examples that a solver fits.

        It must not read a leaf that is declared as a table: what belongs to a table's rows goes into the loss
        of the examples that touch them.
        """


@runtime_checkable
class ObjectiveLossFn(Protocol):
    """Measures the loss of a batch as a function of the parameters that are fitted."""

    def __call__(self, params: Params, frozen: Params, batch: Batch, key: PRNGKey, /) -> Mean:
        """A `Mean` with one entry per example, see `LossFn`.

        Args:
            params: The parameters that are fitted.
            frozen: The parameters that stay as they are.
            batch: The fields of the batch's examples, each `[example, ...]`.
            key: Random key for draws such as dropout.
        """


@runtime_checkable
class ObjectiveMetricsFn(Protocol):
    """Measures what is reported of a batch while parameters are fitted."""

    def __call__(self, params: Params, frozen: Params, batch: Batch, /) -> Metrics:
        """Metrics by name, each a `Mean` with one entry per example."""


@runtime_checkable
class ObjectiveLossAndMetricsFn(Protocol):
    """Measures the loss and the metrics of an objective at once."""

    def __call__(self, params: Params, frozen: Params, batch: Batch, key: PRNGKey, /) -> tuple[Mean, Metrics]:
        """What `ObjectiveLossFn` and `ObjectiveMetricsFn` return."""


@runtime_checkable
class ObjectivePenaltyFn(Protocol):
    """Measures the penalty as a function of the parameters that are fitted."""

    def __call__(self, params: Params, frozen: Params, /) -> Number:
        """A scalar, added to the sum of the loss over all examples that are fitted."""
