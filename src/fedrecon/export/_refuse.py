"""Refuses a file that differs from JAX, with the operation where it does."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from fedrecon.export._check import TOLERANCE, Difference, difference, pad_inputs, run, session_of
from fedrecon.export._graph.model import Input, Output, model_of
from fedrecon.export._graph.precision import Stored
from fedrecon.export._graph.program import Block, ExportError, evaluate_node


def refuse(
    program: Block,
    inputs: Sequence[Input],
    outputs: Sequence[Output],
    weights: Sequence[Stored],
    worst: Difference,
    optimised: bool = True,
) -> None:
    """Raises an error that names the first operation whose result differs.

    Args:
        program: The program that was written.
        inputs: The descriptions of the file's inputs.
        outputs: The descriptions of the file's outputs.
        weights: How each parameter is stored.
        worst: The arguments whose result differs most, and the difference.
        optimised: Whether the runtime had optimised the graph that differs; True by default.

    Raises:
        ExportError: Always; its message names the operation and the difference.
    """
    shown = [
        value
        for node in program.nodes
        for value in node.outputs
        if all(isinstance(d, int) for d in value.shape) and value not in program.outputs
    ]
    model = model_of(program, inputs, outputs, weights, shown)
    results = run(session_of(model.SerializeToString(), optimised=optimised), worst.given)
    arrays: dict[Any, Any] = dict(zip(program.inputs, pad_inputs(worst.given, inputs), strict=True))

    def read(value: Any) -> Any:
        if value.weight is not None:
            return jnp.asarray(weights[value.weight].array)
        return jnp.asarray(arrays.get(value, value.known))

    names = {value: f"value_{i}" for i, value in enumerate(shown)}
    unknown: set[Any] = set()  # values whose shape only the caller knows, and what follows from them
    for node in program.nodes:
        symbolic = not all(isinstance(d, int) for value in node.outputs for d in value.shape)
        if symbolic or any(value in unknown for value in node.reads()):
            unknown.update(node.outputs)
            continue
        arrays.update(zip(node.outputs, evaluate_node(node, read), strict=True))
        for value in node.outputs:
            if value in names:
                apart = difference(results[names[value]], np.asarray(arrays[value]))
                if apart > TOLERANCE:
                    shapes = ", ".join(str(x.shape) for x in node.inputs)
                    raise ExportError(
                        f"the exported file differs from JAX by {worst.value:.2g}, more than {TOLERANCE:g}, "
                        f"and was not kept; the first operation that differs is {node.op!r} of shapes "
                        f"{shapes} (by {apart:.2g})"
                    )
    raise ExportError(
        f"the exported file differs from JAX by {worst.value:.2g}, more than {TOLERANCE:g}, and was not "
        "kept; no single operation differs by more: rounding is amplified on the way"
    )
