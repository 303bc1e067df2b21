"""Optimisers in plain NumPy, after the formulas (and defaults) of Optax.

An `Optimizer` works on a flat dict of arrays and, like Optax, is elementwise: `start` makes a fresh state,
`step` maps gradients to what is *added* to the parameters. All arithmetic stays in the arrays' own type.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

Params = dict[str, np.ndarray]
Statistics = tuple[np.ndarray, ...]
LearningRate = float | Callable[[int], float]


class OptimizerState(NamedTuple):
    """Number of steps taken so far, and each leaf's running statistics."""

    taken: int
    statistics: dict[str, Statistics]


@dataclass(frozen=True)
class Optimizer:
    """A rule `update = -learning_rate * direction`.

    Attributes:
        learning_rate: A number, or a function of the number of steps taken before this one.
        fresh: leaf -> its statistics before the first step.
        direction: (gradient, statistics, 1-based step) -> (direction, new statistics).
    """

    learning_rate: LearningRate
    fresh: Callable[[np.ndarray], Statistics]
    direction: Callable[[np.ndarray, Statistics, int], tuple[np.ndarray, Statistics]]

    def start(self, params: Params) -> OptimizerState:
        """The state before the first step."""
        return OptimizerState(0, {name: self.fresh(leaf) for name, leaf in params.items()})

    def step(self, gradients: Params, state: OptimizerState) -> tuple[Params, OptimizerState]:
        """The update of every leaf of `gradients`, and the state after it."""
        rate = self.learning_rate(state.taken) if callable(self.learning_rate) else self.learning_rate
        updates, statistics = {}, {}
        for name, gradient in gradients.items():
            direction, statistics[name] = self.direction(gradient, state.statistics[name], state.taken + 1)
            updates[name] = -float(rate) * direction
        return updates, OptimizerState(state.taken + 1, statistics)


def sgd(learning_rate: LearningRate) -> Optimizer:
    """Plain gradient descent."""
    return Optimizer(learning_rate, lambda leaf: (), lambda g, s, t: (g, s))


def momentum(learning_rate: LearningRate, decay: float = 0.9, nesterov: bool = False) -> Optimizer:
    """m = g + decay * m; Nesterov's looks one step ahead: g + decay * m."""

    def direction(g, statistics, t):
        (m,) = statistics
        m = g + decay * m
        return (g + decay * m if nesterov else m), (m,)

    return Optimizer(learning_rate, lambda leaf: (np.zeros_like(leaf),), direction)


def adagrad(learning_rate: LearningRate, initial: float = 0.1, epsilon: float = 1e-7) -> Optimizer:
    """g / sqrt(initial + sum of g² + epsilon), 0 where that sum is 0."""

    def direction(g, statistics, t):
        (squares,) = statistics
        squares = squares + g * g
        return np.where(squares > 0, g / np.sqrt(squares + epsilon), 0), (squares,)

    return Optimizer(learning_rate, lambda leaf: (np.full_like(leaf, initial),), direction)


def adam(learning_rate: LearningRate, b1: float = 0.9, b2: float = 0.999, epsilon: float = 1e-8) -> Optimizer:
    """Bias-corrected mean of g over the root of the bias-corrected mean of g²."""

    def direction(g, statistics, t):
        mean, square = statistics
        mean = b1 * mean + (1 - b1) * g
        square = b2 * square + (1 - b2) * g * g
        return _normalized(mean, square, b1, b2, epsilon, t), (mean, square)

    return Optimizer(learning_rate, lambda leaf: (np.zeros_like(leaf), np.zeros_like(leaf)), direction)


def yogi(learning_rate: LearningRate, b1: float = 0.9, b2: float = 0.999, epsilon: float = 1e-3) -> Optimizer:
    """Adam with an additive second moment; both moments start at 1e-6, as in Optax."""

    def direction(g, statistics, t):
        mean, square = statistics
        mean = b1 * mean + (1 - b1) * g
        square = square - (1 - b2) * np.sign(square - g * g) * g * g
        return _normalized(mean, square, b1, b2, epsilon, t), (mean, square)

    def fresh(leaf):
        return np.full_like(leaf, 1e-6), np.full_like(leaf, 1e-6)

    return Optimizer(learning_rate, fresh, direction)


def _normalized(mean, square, b1: float, b2: float, epsilon: float, t: int) -> np.ndarray:
    """Corrected in the arrays' type, as in Optax: in float32, 1 - 0.999 is off by 1e-5 of itself."""
    scalar = mean.dtype.type
    mean, square = mean / (1 - scalar(b1) ** t), square / (1 - scalar(b2) ** t)
    return mean / (np.sqrt(square) + epsilon)
