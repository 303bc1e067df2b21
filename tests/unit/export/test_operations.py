"""Every operation in ONNX Runtime at its default settings beside JAX."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon.core._random import fold_in, normal, uniform

pytest.importorskip("onnx", reason="needs the extra export")
pytest.importorskip("onnxruntime", reason="needs the extra export")

from fedrecon.export._check import difference, session_of
from fedrecon.export._graph.model import Input, Output, model_of
from fedrecon.export._graph.program import ExportError, program_of
from fedrecon.export._graph.simplify import count, reduce_program

RNG = np.random.default_rng(0)
A, B = (RNG.standard_normal((4, 4)).astype(np.float32) for _ in range(2))
V = RNG.standard_normal(4).astype(np.float32)
T = RNG.standard_normal((3, 4, 5)).astype(np.float32)
ZEROS = np.array([0.0, -0.0, 1.0, -1.0, 0.0], np.float32)
I = np.array([2, 0, 2, 3], np.int32)  # noqa: E741
OUTSIDE = np.array([-9, -1, 0, 3, 4, 90], np.int32)
KEY = np.array([7, 2**31 + 5], np.uint32)


def solved(a: Any, b: Any) -> Any:
    factor = jax.scipy.linalg.cho_factor(a @ a.T + 0.1 * jnp.eye(4), lower=True)
    return jax.scipy.linalg.cho_solve(factor, b)


def solved_by(matrix: Any, b: Any) -> Any:
    return jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(matrix + 0 * b[0]), True), b)


def from_key(key: Any) -> Any:
    return jax.random.wrap_key_data(key, impl="threefry2x32")


def seeded(seed: Any) -> Any:
    return jax.random.uniform(jax.random.key(seed), (2,))


def drawn_in_steps(key: Any, v: Any) -> Any:
    """Draws by a key that changes from step to step."""

    def step(now: Any, x: Any) -> Any:
        now, here = jax.random.split(now)
        return now, x * jax.random.uniform(here, (3,)) + jax.random.bernoulli(jax.random.fold_in(here, 1))

    last, ys = jax.lax.scan(step, from_key(key), v)
    return jax.random.key_data(last), ys


def drawn_by_many(key: Any) -> Any:
    keys = jax.random.split(from_key(key), (2, 3))
    turned = jnp.where(jnp.array([True, False]), keys[:, 1], jnp.stack([keys[1, 2], keys[0, 0]]))
    bits = jax.vmap(lambda k: jax.random.bits(k, (4,), jnp.uint16))(turned.reshape(2))
    return bits, jax.random.key_data(keys.T[0, 1:])


CASES: dict[str, tuple[Any, ...]] = {
    # Square shapes: a product of the wrong side has the right shape.
    "matrix, matrix": (lambda a, b: a @ b, A, B),
    "first axes": (lambda a, b: a.T @ b, A, B),
    "last axes": (lambda a, b: a @ b.T, A, B),
    "both first": (lambda a, b: jax.lax.dot_general(a, b, (((0,), (0,)), ((), ()))), A, B),
    "matrix, vector": (lambda a, v: a @ v, A, V),
    "transposed, vector": (lambda a, v: a.T @ v, A, V),
    "vector, matrix": (lambda v, a: v @ a, V, A),
    "vector, transposed": (lambda v, a: v @ a.T, V, A),
    "vector, vector": (lambda v, w: v @ w, V, V),
    "outer": (lambda v, w: jnp.outer(v, w), V, V),
    "batched": (lambda t, u: jnp.einsum("bij,bkj->bik", t, u), T, T),
    "middle axis": (lambda t, v: jnp.einsum("bij,i->bj", t, v), T, V),
    "several axes": (lambda t, u: jnp.einsum("bij,bij->b", t, u), T, T),
    "solve": (solved, A, V),
    "solve matrix": (solved, A, B),
    # No solution by Cholesky's method, hence none by conjugate gradients.
    "solve indefinite": (lambda v: jnp.isfinite(solved_by(jnp.array([[2.0, 3], [3, 2]]), v[:2])), V),
    "take": (lambda a, i: a[i], A, I),
    "take outside": (lambda a, i: a[i], A, OUTSIDE),
    "take filled": (lambda a, i: a.at[i].get(mode="fill", fill_value=9.0), A, OUTSIDE),
    "take clipped": (lambda a, i: jnp.take(a, i, axis=1, mode="clip"), A, OUTSIDE),
    "take columns": (lambda a, i: a[:, i], A, I),
    "take pairs": (lambda a, i: a[i, i[::-1]], A, I),
    "take along": (lambda a, i: jnp.take_along_axis(a, i[:, None], 1), A, I),
    "diagonal": (lambda a: jnp.diagonal(a), A),
    "set dropped": (lambda a, i: a.at[i].set(-1.0, mode="drop"), A, OUTSIDE),
    "add, repeated": (lambda a, i: a.at[i].add(a), A, I),
    "add dropped": (lambda v, i: v.at[i].add(2.0, mode="drop"), V, OUTSIDE),
    "add columns": (lambda a, i: a.at[:, i].add(a), A, I),
    "minimum": (lambda v, i: v.at[i].min(0.1), V, I),
    "gradient of take": (lambda a, i: jax.grad(lambda x: jnp.sum(jnp.sin(x[i])))(a), A, I),
    "slice at": (lambda t, i: jax.lax.dynamic_slice_in_dim(t, i[0], 2, 1), T, OUTSIDE),
    "slice into": (lambda t, i: jax.lax.dynamic_update_slice_in_dim(t, t[:, :2], i[4], 1), T, OUTSIDE),
    "pad": (lambda a: jax.lax.pad(a, 2.0, ((1, 2, 1), (-1, 0, 0))), A),
    "reverse": (lambda t: t[::-1, :, ::-2], T),
    "sort": (lambda z: (jnp.sort(z), jnp.argsort(z)), ZEROS),
    "sort booleans": (lambda z: jnp.argsort(z > 0), ZEROS),
    "sort by several keys": (lambda z, i: jnp.lexsort((i, z)), ZEROS, OUTSIDE[:5] // 4),
    "search": (lambda z, i: jnp.searchsorted(jnp.sort(z), i.astype(jnp.float32) / 4, side="right"), ZEROS, I),
    "search for NaN": (lambda z: jnp.searchsorted(z, jnp.array([jnp.nan, 0.5])), np.sort(V)),
    "top": (lambda t: jax.lax.top_k(t, 2), T),
    "argmax": (lambda z: (jnp.argmax(z), jnp.argmin(z)), ZEROS),
    "cumsum": (lambda a: (jnp.cumsum(a, 0), jax.lax.cumsum(a, 1, reverse=True)), A),
    "reduce": (lambda t: (jnp.max(t, (0, 2)), jnp.prod(t, 1), jnp.all(t > 0, 1), jnp.any(t > 0)), T),
    "integers": (lambda i: (i // 3, i % 3, i << 1, ~i, abs(i), jnp.sign(i)), OUTSIDE),
    "powers": (lambda a: (a**2, a**3, a**-1, jnp.abs(a) ** 0.3, jnp.exp2(a), jnp.cbrt(a)), A),
    "functions": (lambda a: (jnp.tanh(a), jax.nn.sigmoid(a), jax.nn.softplus(a), jax.nn.gelu(a)), A),
    "erf": (lambda a: (jax.lax.erf(a), jax.lax.erfc(a), jax.lax.erf_inv(jnp.tanh(a))), A),
    "logs": (lambda a: (jnp.log1p(a * a), jnp.expm1(a), jax.lax.rsqrt(a * a + 1)), A),
    "rounding": (lambda a: (jnp.round(3 * a), jnp.floor(a), jnp.ceil(a), (3 * a).astype(jnp.int32)), A),
    "finite": (lambda z: jnp.isfinite(1 / z), ZEROS),
    "softmax": (lambda t: (jax.nn.softmax(t), jax.nn.logsumexp(t, 1)), T),
    "select": (lambda i: jax.lax.select_n(i % 3, i, i + 10, i + 20), np.abs(OUTSIDE)),
    "clip": (lambda a: jnp.clip(a, -0.3, 0.4), A),
    "scan": (lambda t: jax.lax.scan(lambda c, x: (c * 0.5 + x, jnp.sum(c)), t[0], t), T),
    "scan backwards": (lambda t: jax.lax.scan(lambda c, x: (c * 0.5 + x, c[0]), t[0], t, reverse=True), T),
    "scan without inputs": (lambda v: jax.lax.scan(lambda c, _: (jnp.sin(c), None), v, length=3)[0], V),
    "gradient of scan": (
        lambda t: jax.grad(lambda t: jnp.sum(jax.lax.scan(lambda c, x: (jnp.tanh(c + x), c), t[0], t)[1]))(t),
        T,
    ),
    "loop": (lambda v: jax.lax.while_loop(lambda c: jnp.sum(c) < 50, lambda c: c * c + 1, v), V),
    "condition": (lambda v: jax.lax.cond(v[0] > 0, lambda v: v + 1, lambda v: v * 2, v), V),
    "switch": (lambda i: jax.lax.switch(i[3], [lambda: 1.0, lambda: 2.0, lambda: 3.0, lambda: 4.0]), OUTSIDE),
    "draws": (lambda key: uniform(fold_in(from_key(key), 3), (5,), -1.0, 2.0), KEY),
    "normal draws": (lambda key: normal(from_key(key), (5,)), KEY),
    "draws of JAX": (lambda key: (jax.random.normal(from_key(key), (5,)), seeded(key[0])), KEY),
    "draws of whole numbers": (lambda key: jax.random.randint(from_key(key), (5,), -3, 9), KEY),
    "random order": (lambda key: jax.random.permutation(from_key(key), 9), KEY),
    "draws in a loop": (drawn_in_steps, KEY, V),
    "draws by many keys": (drawn_by_many, KEY),
    "vmap": (lambda a, v: jax.vmap(lambda row: jnp.dot(row, v) * row)(a), A, V),
    "hessian": (lambda v: jax.hessian(lambda x: jnp.sum(jnp.sin(x) * x[::-1]))(v), V),
}


def written(fn: Any, *args: Any) -> tuple[Any, int]:
    """What ONNX Runtime makes of a function, and its number of operations."""
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in args]
    program, _ = program_of(fn, [], shapes)
    reduce_program(program, {})
    inputs = [Input(f"x{i}", x.dtype, x.shape) for i, x in enumerate(args)]
    outputs = [Output(f"y{i}", value.shape) for i, value in enumerate(program.outputs)]
    model = model_of(program, inputs, outputs, [])
    session = session_of(model.SerializeToString())
    known = {one.name for one in session.get_inputs()}
    given = {f"x{i}": x for i, x in enumerate(args) if f"x{i}" in known}
    return session.run([output.name for output in outputs], given), count(program)


@pytest.mark.parametrize("name", CASES)
def test_operation(name):
    fn, *args = CASES[name]
    found, _ = written(fn, *args)
    for x, y in zip(found, jax.tree.leaves(jax.jit(fn)(*args)), strict=True):
        assert x.dtype == y.dtype and difference(x, np.asarray(y)) < 3e-6, name


def test_what_is_constant_is_folded_and_what_nothing_reads_is_left_out():
    def fn(x: Any) -> Any:
        noise = jax.random.normal(jax.random.key(3), (4,))
        unused = jnp.sin(x) @ x
        return x + noise + 0 * jnp.ones(4), unused

    found, operations = written(lambda x: fn(x)[0], V)
    assert operations <= 2
    np.testing.assert_allclose(found[0], fn(V)[0], rtol=1e-6)


@pytest.mark.parametrize("shape", [(40, 40), (40, 30), (30, 40)])
@pytest.mark.parametrize("offset", [-7, 0, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_large_diagonal_matrices_are_written_by_their_diagonals(shape, offset, dtype):
    matrix = np.zeros(shape, dtype)
    for row in range(shape[0]):
        if 0 <= row + offset < shape[1]:
            matrix[row, row + offset] = row + 2
    scale = np.asarray(2, dtype)

    def fn(x: Any) -> Any:
        return x * matrix

    program, _ = program_of(fn, [], [jax.ShapeDtypeStruct((), dtype)])
    reduce_program(program, {})
    model = model_of(program, [Input("x", np.dtype(dtype), ())], [Output("y", shape)], [])
    assert model.ByteSize() < 800 < matrix.nbytes
    for optimised in (True, False):
        (y,) = session_of(model.SerializeToString(), optimised=optimised).run(["y"], {"x": scale})
        np.testing.assert_array_equal(y, 2 * matrix)


def test_loops_are_not_unrolled():
    def fn(x: Any, length: int) -> Any:
        return jax.lax.scan(lambda c, y: (jnp.tanh(c) + y, None), x, jnp.ones((length, 4)) * x)[0]

    assert written(lambda x: fn(x, 5), V)[1] == written(lambda x: fn(x, 500), V)[1]


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (lambda x: jnp.linalg.qr(x)[0], "the operation 'qr' of JAX cannot be written"),
        (lambda x: jax.lax.linalg.cholesky(x), "the operation 'cholesky' of JAX cannot be written"),
        (lambda x: jax.lax.bitcast_convert_type(x, jnp.int32), "bits cannot be read as another type"),
        (
            lambda x: jax.random.bits(
                jax.random.wrap_key_data(x.astype(jnp.uint32).reshape(4, 4), impl="rbg")[0]
            ),
            "draws by keys of key<rbg> cannot be written",
        ),
    ],
)
def test_what_cannot_be_written_is_named(fn, message):
    with pytest.raises(ExportError, match=message):
        written(fn, A)
