"""Runs an exported graph in ONNX Runtime at its default settings and compares it with JAX."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrecon.export._graph.model import Input, Output

# The largest difference allowed from JAX, relative to the largest number of the result or to 1, whichever is
# more.
TOLERANCE = 5e-6
# Items whose scores differ by less than this may come in another order.
TIE = 1e-5
# The bound is this many times the change by the last bit of the inputs: a computation rounds more than once.
_JOLTS = 8
# That change is the largest of several draws: one can happen to move an ill-conditioned system little.
_DRAWS = 8
# Arguments are padded to this many rows, or to this many numbers where rows are short.
_FEWEST, _NUMBERS = 64, 512

Given = Mapping[str, np.ndarray]


class Reference:
    """The exported function in JAX, called with the arguments that the file takes.

    Args:
        fn: The exported function, `(*weights, *inputs) -> outputs`.
        weights: The leaves of the parameters, which come first among the function's arguments.
        inputs: The file's inputs, in the order of the function's other arguments.
        outputs: The file's outputs, in the order of the function's results.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        weights: Sequence[Any],
        inputs: Sequence[Input],
        outputs: Sequence[Output],
    ):
        self._weights = [jnp.asarray(w) for w in weights]
        self._inputs, self._outputs = inputs, outputs
        self._fn = jax.jit(fn)

    def with_weights(self, weights: Sequence[Any]) -> "Reference":
        """The function with other parameters of the same shapes, without a new compilation."""
        other = copy.copy(self)
        other._weights = [jnp.asarray(w) for w in weights]
        return other

    def __call__(self, given: Given) -> dict[str, np.ndarray]:
        """The outputs of the function in JAX by their names."""
        return self._outputs_of(given, self._weights)

    def bound(self, given: Given) -> float:
        """How far another correct computation may be from this one, in the sense of `compare`.

        A nearly singular system, for instance, amplifies rounding errors, in JAX as in ONNX Runtime. Where a
        change by the last bit of the parameters and inputs moves the result by more than the tolerance, the
        bound is a multiple of that movement.
        """
        rng = np.random.default_rng(0)

        def perturb(x: Any) -> Any:
            array = np.asarray(x)
            if array.dtype.kind != "f":
                return x
            turn = rng.choice(np.array([-1, 1], array.dtype), array.shape) * np.finfo(array.dtype).eps / 2
            return (array * (1 + turn)).astype(array.dtype)

        here = self(given)
        apart = []
        for _ in range(_DRAWS):
            weights = [jnp.asarray(perturb(w)) for w in self._weights]
            moved = self._outputs_of({name: perturb(x) for name, x in given.items()}, weights)
            apart += [difference(moved[name], x) for name, x in here.items() if x.dtype.kind == "f"]
        return max(TOLERANCE, _JOLTS * max((x for x in apart if np.isfinite(x)), default=0.0))

    def _outputs_of(self, given: Given, weights: Sequence[Any]) -> dict[str, np.ndarray]:
        arrays = pad_inputs(given, self._inputs, round_up=True)
        results = self._fn(*weights, *arrays)
        outputs = {output.name: np.asarray(x) for output, x in zip(self._outputs, results, strict=True)}
        for output in self._outputs:
            if output.shape and isinstance(output.shape[0], str):
                length = next(len(given[x.name]) for x in self._inputs if x.shape[:1] == output.shape[:1])
                outputs[output.name] = outputs[output.name][:length]
        return outputs


def pad_inputs(given: Given, inputs: Sequence[Input], round_up: bool = False) -> list[np.ndarray]:
    """The arguments of the function in JAX, made from the arguments of the file.

    Args:
        given: The file's arguments by their names.
        inputs: The file's inputs, in the order of the function's arguments.
        round_up: Whether lengths that the caller chooses are padded to powers of two, at least 64 rows or 512
            numbers, since JAX compiles the function anew for each length; False by default.
    """
    arrays: list[np.ndarray] = []
    for one in inputs:
        if one.name in given:
            x = np.asarray(given[one.name], one.dtype)
        else:  # the file does not have the input, since no operation reads it
            x = np.zeros([d if isinstance(d, int) else 0 for d in one.shape], one.dtype)
        room = one.room
        if not one.shape or isinstance(one.shape[0], int):
            arrays.append(x)
            continue
        if room is None:
            least = max(_FEWEST, _NUMBERS // max(math.prod(x.shape[1:]), 1))
            room = len(x) if not round_up else 1 << (max(len(x), least) - 1).bit_length()
        free = np.full((room - len(x), *x.shape[1:]), one.fill, one.dtype)
        arrays.append(np.concatenate([x, free]))
        if one.given:
            arrays.append(np.asarray(len(x) > 0))
    return arrays


def session_of(model: bytes | str, threads: int = 1, optimised: bool = True) -> Any:
    """ONNX Runtime with a model, at its default optimisation level.

    Args:
        model: The serialised model, or the path of its file.
        threads: Number of threads that share one operation; 1 by default.
        optimised: Whether the runtime optimises the graph, which is its default; True by default.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def difference(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference, relative to the largest number of `wanted` or to 1, whichever is more."""
    if found.shape != wanted.shape:
        return float("inf")
    if wanted.dtype.kind != "f":
        return float(np.max(found != wanted, initial=False))
    finite = np.isfinite(wanted)
    same = np.array_equal(found[~finite], wanted[~finite], equal_nan=True)
    if not same or not np.all(np.isfinite(found[finite])):
        return float("inf")
    scale = max(1.0, float(np.max(np.abs(wanted[finite]), initial=0)))
    return float(np.max(np.abs(found[finite].astype(np.float64) - wanted[finite]), initial=0)) / scale


def same_list(found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray], tie: float = TIE) -> bool:
    """Whether two lists of items are the same, up to the order of scores that are closer than `tie`."""
    mine, theirs = found["top_item"], wanted["top_item"]
    scores = wanted["prediction"].astype(np.float64)
    for a, b in zip(mine.tolist(), theirs.tolist(), strict=True):
        if a != b and not abs(scores[a] - scores[b]) < tie:
            return False
    return True


def compare(found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> float:
    """The largest difference between two results, in the sense of `difference`; infinite for other lists."""
    worst = 0.0
    for name, x in wanted.items():
        if name == "top_item":
            apart = np.max(np.abs(found["prediction"] - wanted["prediction"]), initial=0.0)
            # Scores that differ by less than twice the largest difference may change places, and that
            # difference itself is judged by the score's own bound.
            tie = max(TIE, 2 * float(apart))
            worst = worst if same_list(found, wanted, tie) else float("inf")
        else:
            worst = max(worst, difference(found[name], x))
    return worst


def random_inputs(
    inputs: Sequence[Input], ranges: Mapping[str, tuple[float | int, float | int]], count: int, seed: int
) -> list[dict[str, np.ndarray]]:
    """Arguments of many kinds: empty and full support sets, the ends of all ranges, numbers that repeat.

    Args:
        inputs: The descriptions of the exported file's inputs, in the order of the function's arguments.
        ranges: The lowest and the highest number of each field.
        count: The number of sets of arguments to draw.
        seed: The seed of the draws.
    """
    rng = np.random.default_rng(seed)
    most = next(one.room for one in inputs if one.name == "mask")
    assert most is not None
    made = []
    for i in range(count):
        # The first four have fixed sizes: no example, one, and twice the largest number.
        size = (0, 1, most, most)[i] if i < 4 else int(rng.integers(0, most + 1))
        lengths = {"n": size, "e": int(rng.integers(0, most + 1)), "q": int(rng.integers(1, 5)), "m": 0}
        given: dict[str, np.ndarray] = {}
        for one in inputs:
            shape = [lengths[d] if isinstance(d, str) else d for d in one.shape]
            if one.name == "mask":
                given[one.name] = np.ones(shape, bool)
            elif one.name == "start":
                length = 0 if i % 2 else one.room or 0
                given[one.name] = rng.standard_normal(length).astype(one.dtype) * np.float32(0.1)
            else:
                low, high = ranges.get(one.name.removeprefix("query_"), (0, one.high or 1))
                given[one.name] = _drawn(rng, one.dtype, shape, low, high, i)
        made.append(given)
    return made


def _drawn(
    rng: Any, dtype: Any, shape: Sequence[int], low: float | int, high: float | int, number: int
) -> np.ndarray:
    kind = np.dtype(dtype).kind
    if number % 5 == 2:  # every fifth argument has the ends of the range only
        return rng.choice(np.array([low, high]), shape).astype(dtype)
    if kind == "f":
        return rng.uniform(low, high, shape).astype(dtype)
    if kind == "b":
        return rng.random(shape) < 0.5
    return rng.integers(int(low), int(high), shape, endpoint=True).astype(dtype)


class Difference(NamedTuple):
    """The worst result of a check.

    Attributes:
        value: The largest difference from JAX as `compare` measures it; 0 where every result is within its
            bound.
        given: The file's arguments that led to that difference.
    """

    value: float
    given: Given

    def or_worse(self, value: float, given: Given, reference: Reference) -> "Difference":
        """The worse of this result and another one, which counts only if it exceeds its bound.

        Args:
            value: The difference of the other result, as `compare` measures it.
            given: The file's arguments that led to it.
            reference: The function in JAX, which tells the bound.
        """
        if value <= max(self.value, TOLERANCE) or value <= reference.bound(given):
            return self
        return Difference(value, given)


def run(session: Any, given: Given) -> dict[str, np.ndarray]:
    """All outputs of a session by their names; inputs that the graph does not have are left out."""
    names = [output.name for output in session.get_outputs()]
    wanted = {one.name for one in session.get_inputs()}
    return dict(zip(names, session.run(names, {k: v for k, v in given.items() if k in wanted}), strict=True))
