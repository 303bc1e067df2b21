"""Programs that runs share although numbers in them differ."""

from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon.simulation._shared_programs import SharedPrograms, compiled


def straight(rate):
    return lambda x: x * rate + 1.0


def in_a_scan(rate):
    def step(carry, x):
        carry = carry - rate * jnp.sin(carry) * x
        return carry, carry.sum()

    return lambda x: jax.lax.scan(step, x, jnp.arange(5.0), reverse=True)


def in_a_while(rate):
    return lambda x: jax.lax.while_loop(
        lambda carry: carry[1] * rate < 1.5, lambda carry: (carry[0] * (1 - rate), carry[1] + 1.0), (x, 0.0)
    )


def in_a_branch(rate):
    return lambda x: jax.lax.cond(x.sum() > 0, lambda x: x * rate, lambda x: x + 2.0 * rate, x)


def in_a_call(rate):
    inner = jax.jit(lambda x, y: jnp.where(x > 0, x, y))
    return lambda x: inner(x - 1.5, -rate) + inner(x, 3.0)


def in_a_rule(rate):
    # The constant is in a function with a derivative of its own.
    leaky = jax.custom_jvp(lambda x: jnp.where(x > 0, x, rate * x))
    leaky.defjvp(lambda xs, ts: (leaky(*xs), jnp.where(xs[0] > 0, ts[0], rate * ts[0])))
    return lambda x: leaky(x - 1.0)


def a_gradient(rate):
    return lambda x: jax.grad(lambda y: jnp.sum(rate * jax.nn.softplus(y)))(x)


def an_optimizer(rate):
    import optax

    def step(x):
        optimizer = optax.adam(rate)
        updates, _ = optimizer.update(x, optimizer.init(x))
        return optax.apply_updates(x, updates)

    return step


def in_a_vectorised_while(rate):
    # Its elements end one by one.
    return jax.vmap(lambda y: jax.lax.while_loop(lambda c: c < 1.5, lambda c: c + 0.4 + rate, y))


def as_an_input(rate):
    # The number goes into functions with rules of their own, and into an addition to a part of an array.
    held = jax.checkpoint(lambda x, y: jnp.sin(x) * y)
    return lambda x: jnp.logaddexp(x, rate) + held(x, rate) + x.at[0].add(rate)


SHARED = [straight, in_a_scan, in_a_while, in_a_branch, in_a_call, a_gradient, an_optimizer]
X = np.linspace(-1, 2, 7, dtype=np.float32)


@pytest.mark.parametrize("make", [*SHARED, in_a_rule, in_a_vectorised_while, as_an_input])
def test_the_results_are_those_of_a_program_of_its_own(make):
    pool = SharedPrograms()
    for rate in (0.3, 0.17, 0.61):
        expected = jax.jit(make(rate))(X)
        with pool.used([rate]):
            got = compiled(make(rate), {})(X)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-7), got, expected)
        assert jax.tree.structure(got) == jax.tree.structure(expected)


@pytest.mark.parametrize("make", SHARED)
def test_programs_that_differ_in_numbers_are_compiled_once(make):
    pool = SharedPrograms()
    for rate in (0.3, 0.17, 0.61):
        with pool.used([rate]):
            compiled(make(rate), {})(X)
    assert pool.compilations == 1


@pytest.mark.parametrize("make", SHARED)
def test_the_bits_do_not_depend_on_what_was_compiled_before(make):
    def run(pool, rate):
        with pool.used([rate]):
            return compiled(make(rate), {})(X)

    pool = SharedPrograms()
    run(pool, 0.17)
    jax.tree.map(np.testing.assert_array_equal, run(pool, 0.61), run(SharedPrograms(), 0.61))


@pytest.mark.parametrize(
    ("first", "second"), [((0.3, X), (0.3, X[:3])), ((0.3, X), (0.3, X.astype(np.float16)))]
)
def test_other_shapes_and_types_are_other_programs(first, second):
    pool = SharedPrograms()
    for rate, x in (first, second):
        with pool.used([rate]):
            np.testing.assert_allclose(compiled(straight(rate), {})(x), x * x.dtype.type(rate) + 1, rtol=2e-3)
    assert pool.compilations == 2


def test_a_number_that_no_setting_explains_stays_in_its_program():
    pool = SharedPrograms()
    for hidden in (0.123, 0.456):
        with pool.used([0.3]):
            got = compiled(lambda x, hidden=hidden: 0.3 * x + hidden, {})(X)
        np.testing.assert_allclose(got, 0.3 * X + hidden, rtol=1e-6)
    assert pool.compilations == 2


def test_what_a_program_decides_by_a_number_is_seen():
    def make(rate):
        return (lambda x: x * rate) if rate < 0.5 else (lambda x: x - rate)

    pool = SharedPrograms()
    for rate in (0.3, 0.7):
        with pool.used([rate]):
            np.testing.assert_allclose(compiled(make(rate), {})(X), make(rate)(X), rtol=1e-6)


@pytest.mark.parametrize("rate", [0.0, 1.0, 2.0])
def test_numbers_that_programs_are_full_of_stay(rate):
    pool = SharedPrograms()
    with pool.used([rate]):
        program = compiled(straight(rate), {})
        np.testing.assert_allclose(program(X), X * np.float32(rate) + 1, rtol=1e-6)
        assert not program._ready[next(iter(program._ready))].numbers


def test_arrays_that_a_function_closes_over_are_arguments():
    pool = SharedPrograms()
    for scale in (1.0, 3.0):
        table = scale * np.arange(7, dtype=np.float32)
        with pool.used([0.3]):
            got = compiled(lambda x, table=table: x * jnp.asarray(table) * 0.3, {})(X)
        np.testing.assert_allclose(got, X * table * np.float32(0.3), rtol=1e-6)


def test_keys_and_whole_numbers_pass():
    pool = SharedPrograms()
    key = jax.random.key(3)
    for rate in (0.3, 0.7):
        with pool.used([rate]):
            got, count = compiled(lambda key, n, rate=rate: (jax.random.normal(key, (2,)) * rate, n + 1), {})(
                key, np.int32(4)
            )
        np.testing.assert_allclose(got, jax.random.normal(key, (2,)) * np.float32(rate), rtol=1e-6)
        assert int(count) == 5
    assert pool.compilations == 1


def test_programs_that_use_other_arguments_are_others():
    pool, data = SharedPrograms(), {"likes": X, "stars": 5 * X}
    for field in data:
        with pool.used([0.3]):
            got = compiled(lambda data, field=field: 0.3 * data[field], {})(data)
        np.testing.assert_allclose(got, np.float32(0.3) * data[field], rtol=1e-6)
    assert pool.compilations == 2


def test_programs_that_leave_out_other_numbers_are_others():
    def make(unused, used):
        def fn(x):
            x * unused
            return x * used

        return fn

    pool = SharedPrograms()
    for unused, used in ((0.3, 0.7), (0.7, 0.3)):
        with pool.used([0.3, 0.7]):
            np.testing.assert_allclose(compiled(make(unused, used), {})(X), X * np.float32(used), rtol=1e-6)


def test_programs_with_another_structure_of_arguments_are_others():
    pool = SharedPrograms()
    for given in ((X, X), {"a": X, "b": X}, (X, (X, X))):
        with pool.used([0.3]):
            np.testing.assert_allclose(compiled(lambda x, given: x * 0.3, {})(X, given), X * np.float32(0.3))


@pytest.mark.parametrize("tiny", [1e-8, 1e-30])
def test_numbers_near_nothing_leave_one_and_zero_in_programs(tiny):
    pool = SharedPrograms()
    with pool.used([tiny]):
        program = compiled(lambda x: jnp.where(x > 0.0, 1.0, -0.0) + tiny, {})
        np.testing.assert_array_equal(program(X), (X > 0) + np.float32(tiny))
        (ready,) = program._ready.values()
        assert [float(x) for x in ready.numbers] == [float(np.float32(tiny))]


def test_a_program_is_called_by_several_threads():
    pool = SharedPrograms()
    with pool.used([0.3]):
        program = compiled(straight(0.3), {})
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(program, [X] * 8))
    assert pool.compilations == 1 and program._cache_size() == 1
    assert all(np.array_equal(x, results[0]) for x in results)


def test_outside_of_it_functions_are_jitted_as_ever():
    assert not hasattr(compiled(straight(0.3), {}), "_ready")
    with SharedPrograms().used([0.3]):
        assert not hasattr(compiled(straight(0.3), {}, alone=True), "_ready")


def test_old_programs_are_forgotten(monkeypatch):
    monkeypatch.setattr("fedrecon.simulation._shared_programs._MOST", 2)
    pool = SharedPrograms()
    for size in (1, 2, 3, 1):
        with pool.used([0.3]):
            compiled(straight(0.3), {})(X[:size])
    assert pool.compilations == 4 and len(pool._programs) == 2
