"""Optax optimisers that print their hyperparameters and refuse impossible ones."""

import difflib
import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedrecon.core._types import Number, Params
from fedrecon.errors import plain


class NamedOptimizer(optax.GradientTransformationExtraArgs):
    """An Optax optimiser that remembers its name and arguments; `optimizer` makes it.

    Attributes:
        name: The name by which `optimizer` was called.
        hyperparameters: The arguments with which `optimizer` was called, by their names.
    """

    name: str
    hyperparameters: dict[str, Any]

    @property
    def plain(self) -> bool:
        """Whether a step is the gradient times a constant, so that `rows.locality` need not try it."""
        return (
            self.name == "sgd"
            and set(self.hyperparameters) <= {"learning_rate"}
            and not callable(self.hyperparameters.get("learning_rate"))
        )

    def __repr__(self) -> str:
        inside = ", ".join(f"{k}={_show(v)}" for k, v in self.hyperparameters.items())
        return f"{self.name}({inside})"


class Schedule:
    """An Optax schedule that prints its name and arguments; `schedule` makes it."""

    def __init__(self, name: str, arguments: dict[str, Any], function: Callable[[Any], Any]):
        self.name, self.arguments, self.function = name, arguments, function

    def __call__(self, count: Number) -> Any:
        return self.function(count)

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{k}={v!r}' for k, v in self.arguments.items())})"


def optimizer(name: str, **hyperparameters: Any) -> NamedOptimizer:
    """The Optax optimiser of a name.

    Any Optax transformation can be used where this library takes an optimiser; one made here prints its
    hyperparameters, so that a run's record shows them.

    Args:
        name: A function of `optax` that returns an optimiser: `"sgd"`, `"adam"`, `"yogi"`, `"adagrad"`, …; or
            `"yogi_zero"`, the library's variant of Yogi.
        **hyperparameters: The arguments of that function. `learning_rate` is a positive number or a schedule,
            which counts rounds for the server's optimiser and steps for a client's.

    Raises:
        ValueError: There is no such optimiser, it has no such argument, the learning rate is not positive, or
            a decay rate of moving means is not in [0, 1).

    Example:
        >>> optimizer("sgd", learning_rate=0.5)
        sgd(learning_rate=0.5)
    """
    make = OWN.get(name) or _named(name, "optimizer")
    rate = hyperparameters.get("learning_rate")
    if isinstance(rate, (int, float)) and not (rate > 0 and math.isfinite(rate)):
        raise ValueError(f"learning_rate of {name} must be positive and finite, got {plain(rate)}")
    if isinstance(rate, str):
        raise ValueError(f"learning_rate of {name} must be a number or a schedule, got {plain(rate)}")
    for decay in _DECAYS & hyperparameters.keys():
        value = hyperparameters[decay]
        if isinstance(value, str) or (isinstance(value, Real) and not 0 <= float(value) < 1):
            raise ValueError(f"{decay} of {name} must be a number in [0, 1), got {plain(value)}")
    eps = hyperparameters.get("eps", 0)
    if isinstance(eps, str) or (isinstance(eps, Real) and not float(eps) >= 0):
        raise ValueError(f"eps of {name} must be a number of at least 0, got {plain(eps)}")
    try:
        init, update = make(**hyperparameters)
    except TypeError as error:
        raise ValueError(f"optimizer {name!r}: {error}") from error
    named = NamedOptimizer(
        init, optax.with_extra_args_support(optax.GradientTransformation(init, update)).update
    )
    named.name, named.hyperparameters = name, dict(hyperparameters)
    return named


class YogiState(NamedTuple):
    """The state of `yogi_zero`.

    Attributes:
        count: The number of steps taken, int32.
        m: The moving mean of the gradient.
        v: The moving mean of the squared gradient.
    """

    count: Any
    m: Any
    v: Any


def yogi_zero(
    learning_rate: float | Callable[[Any], Any], b1: float = 0.9, b2: float = 0.99, eps: float = 1e-3
) -> optax.GradientTransformation:
    """Yogi from zero accumulators, the bias corrected in the step's length and not before epsilon.

    m ← β₁ m + (1 - β₁) g and v ← v - (1 - β₂) sign(v - g²) g², both from 0; step t = 1, 2, … is
    -rate · √(1 - β₂ᵗ) / (1 - β₁ᵗ) · m / (√v + ε). Optax's `yogi` divides by the corrected √v plus ε, which
    makes the first steps up to 1/√(1 - β₂) = 10 times as long where gradients are small.

    Args:
        learning_rate: The learning rate, above 0, or a schedule of the number of steps taken.
        b1: The decay rate β₁ of the first moment m; 0.9 by default.
        b2: The decay rate β₂ of the second moment v; 0.99 by default, as the authors of Federated
            Reconstruction use.
        eps: The constant ε in the denominator; 1e-3 by default, the value of Yogi's paper.

    References:
        Zaheer et al., Adaptive Methods for Nonconvex Optimization, 2018; Reddi et al., Adaptive Federated
        Optimization, ICLR 2021, for its use on a server.
    """

    def init(params: Params) -> YogiState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return YogiState(jnp.zeros((), jnp.int32), zeros, zeros)

    def update(grads: Params, state: YogiState, params: Params = None) -> tuple[Any, YogiState]:
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate
        count = state.count + 1
        m = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.m, grads)
        v = jax.tree.map(lambda v, g: v - (1 - b2) * jnp.sign(v - g * g) * g * g, state.v, grads)
        length = rate * jnp.sqrt(1 - b2**count) / (1 - b1**count)
        return jax.tree.map(lambda m, v: -length * m / (jnp.sqrt(v) + eps), m, v), YogiState(count, m, v)

    return optax.GradientTransformation(init, update)


# Arguments of optimisers that are decay rates of moving means or of momentum, in [0, 1).
_DECAYS = {"b1", "b2", "decay", "momentum"}
OWN: Mapping[str, Callable[..., optax.GradientTransformation]] = {"yogi_zero": yogi_zero}


def schedule(name: str, **arguments: Any) -> Schedule:
    """The Optax schedule of a name.

    Args:
        name: A function of `optax` that returns a schedule, for instance `"cosine_decay_schedule"`.
        **arguments: The arguments of that function.

    Raises:
        ValueError: Optax has no such schedule or it has no such argument.
    """
    make = _named(name, "schedule")
    try:
        return Schedule(name, arguments, make(**arguments))
    except TypeError as error:
        raise ValueError(f"schedule {name!r}: {error}") from error


def describe(transformation: optax.GradientTransformation) -> str:
    """The text by which records show an optimiser."""
    if isinstance(transformation, NamedOptimizer):
        return repr(transformation)
    return f"optax:{transformation.init.__qualname__.split('.')[0]}"


def _named(name: str, kind: str) -> Callable[..., Any]:
    make = getattr(optax, name, None)
    if name.startswith("_") or not callable(make) or isinstance(make, type):
        near = difflib.get_close_matches(name, [n for n in dir(optax) if n[0].islower()], 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{kind} {name!r} is not one of optax's{hint}")
    return make


def _show(value: object) -> str:
    return value.__qualname__ if hasattr(value, "__qualname__") else repr(value)
