"""Rows instead of tables: renumbering, gathering, adding back, and which optimisers bear it."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon._kernels.gathered_rows import gather, origin, remembering
from fedrecon._kernels.rows import (
    Group,
    add,
    add_rows,
    distinct,
    first_occurrence,
    groups,
    ids_of,
    locality,
    num_rows,
    renumbered,
    slices,
    step_ids,
    take,
    without_padding,
)
from fedrecon.core._examples import Examples
from fedrecon.core._model import Table
from fedrecon.solvers._optimizers import optimizer

PARAMS = {
    "item": {"factors": jnp.ones((9, 2)), "bias": jnp.ones(9)},
    "word": jnp.ones((5, 3)),
    "scale": jnp.ones(()),
}
TABLES = (Table("item/factors", ("item", "other")), Table("item/bias", ("item",)), Table("word", ("words",)))


def test_tables_that_share_a_field_are_one_group():
    item, word = groups(TABLES)
    assert item.leaves == ("item/bias", "item/factors")
    assert item.fields == ("item", "other")
    assert (word.leaves, word.fields) == (("word",), ("words",))


def test_groups_are_joined_by_a_table_between_them():
    (group,) = groups((Table("a", ("x",)), Table("b", ("y",)), Table("c", ("x", "y"))))
    assert group.leaves == ("a", "b", "c")
    assert group.fields == ("x", "y")


def test_tables_on_one_leaf_are_one_group():
    (group,) = groups((Table("a", ("x",)), Table("a", ("y",))))
    assert (group.leaves, group.fields) == (("a",), ("x", "y"))


def test_number_of_rows():
    assert [num_rows(PARAMS, g) for g in groups(TABLES)] == [9, 5]
    with pytest.raises(
        ValueError, match=r"share the fields \('x',\) must have as many rows, got .*'word': 5"
    ):
        num_rows(PARAMS, Group(("item/bias", "word"), ("x",)))
    with pytest.raises(ValueError, match=r"tables names the leaf 'item/biass', .*; did you mean 'item/bias'"):
        num_rows(PARAMS, Group(("item/biass",), ("x",)))


def test_ids_and_their_renumbering_have_one_layout():
    group, _ = groups(TABLES)
    data = {"other": np.array([[7, 1], [0, 7]]), "item": np.array([3, 1]), "rating": np.array([4.0, 5.0])}
    ids = ids_of(data, group)
    assert ids.tolist() == [3, 1, 7, 1, 0, 7]
    first = first_occurrence(ids)
    assert first.tolist() == [0, 1, 2, 1, 4, 2]
    new = renumbered(data, group, first)
    assert new["item"].tolist() == [0, 1]
    assert new["other"].tolist() == [[2, 1], [4, 2]]
    assert new["rating"] is data["rating"]
    np.testing.assert_array_equal(ids[new["other"]], data["other"])


def test_ids_of_steps():
    group, words = groups(TABLES)
    data = {
        "item": np.arange(6).reshape(2, 3),
        "other": np.zeros((2, 3, 2), int),
        "words": np.ones((2, 3, 4), int),
    }
    batches = Examples(data, np.ones((2, 3), bool))
    assert step_ids(batches, group).tolist() == [[0, 1, 2] + [0] * 6, [3, 4, 5] + [0] * 6]
    assert step_ids(batches, words).shape == (2, 12)


def test_rows_are_distinct_only_of_one_field_that_says_so():
    data = {"item": np.arange(6).reshape(2, 3), "other": np.zeros((2, 3), int)}
    single = Group(("item/bias",), ("item",))
    assert distinct(Examples(data, np.ones((2, 3), bool), ("item",)), single)
    assert not distinct(Examples(data, np.ones((2, 3), bool)), single)
    assert not distinct(Examples(data, np.ones((2, 3), bool), ("item",)), groups(TABLES)[0])
    moved = Examples({**data, "item": jnp.asarray(data["item"])}, np.ones((2, 3), bool), ("item",))
    assert distinct(moved, single)


def test_padding_of_moved_rows_is_past_the_end():
    mask = np.array([[True, True, False]])
    moved = Examples({"item": jnp.array([[2, 0, 2]])}, mask, ("item",))
    assert without_padding(moved.data["item"], moved, 5).tolist() == [[2, 0, 5]]


RUNS = {
    "one after the other": np.arange(8).reshape(4, 2),
    "from the third on": 2 + np.arange(6).reshape(3, 2),
    "the first of every two": np.array([[0, 1], [4, 5]]),
    "the second of every two": np.array([[2, 3], [6, 7]]),
    "one step": np.array([[3, 4, 5]]),
    "past the end": np.arange(12).reshape(4, 3),
    "half past the end": np.array([[0, 1, 2], [6, 7, 8], [12, 13, 14]]),
    "apart": np.array([[0, 3], [1, 2]]),
    "backwards": np.array([[6, 7], [4, 5]]),
    "overlapping": np.array([[0, 1], [1, 2]]),
    "none": np.zeros((0, 2), int),
}


@pytest.mark.parametrize("ids", RUNS.values(), ids=RUNS)
def test_known_ids_give_the_same_as_unknown_ones(ids):
    """Slices against gathers and scatters; past the end nothing is added and anything finite is read."""
    table = np.arange(20.0, dtype=np.float32).reshape(10, 2)
    updates = np.random.default_rng(0).normal(size=(*ids.shape, 2)).astype(np.float32)
    inside = ids < len(table)
    found = np.asarray(take(jnp.asarray(table), ids))
    assert found.shape == (*ids.shape, 2)
    np.testing.assert_array_equal(found[inside], table[ids[inside]])
    assert np.isfinite(found).all()
    wanted = table.copy()
    np.add.at(wanted, ids[inside], updates[inside])
    np.testing.assert_allclose(add(jnp.asarray(table), ids, jnp.asarray(updates)), wanted, rtol=1e-6)


@pytest.mark.parametrize("ids", RUNS.values(), ids=RUNS)
def test_rows_that_were_gathered_are_read_as_those_of_the_table_they_come_from(ids):
    table = np.random.default_rng(0).normal(size=(7, 2)).astype(np.float32)
    numbers = np.array([3, 0, 6, 1, 5, 2, 4, 7, 7, 7], np.int32)  # of ten rows, the last three padding
    inside = ids < 7
    wanted = table[numbers[ids[inside]]]
    with remembering():
        rows = gather(jnp.asarray(table), jnp.asarray(numbers))
        assert origin(rows) is not None and origin(rows + 0) is None
        found = np.asarray(take(rows, ids))
        steps = slices(rows, ids)
        if steps is not None:
            each = [np.asarray(steps.at(t)) for t in range(len(ids))]
            np.testing.assert_array_equal(each, found)
    assert origin(rows) is None  # forgotten
    assert found.shape == (*ids.shape, 2) and np.isfinite(found).all()
    np.testing.assert_array_equal(found[inside], wanted)


@pytest.mark.parametrize("shape", [(2,), ()], ids=str)
@pytest.mark.parametrize("heavy", [False, True])
def test_rows_of_clients_are_added_with_repeats_and_past_the_end(shape, heavy):
    # Dropped ones in between and at the end, a client without any row, one with all, the last row.
    ids = np.array([[3, 0, 3, 9], [10, 99, 9, 10], [10, 10, 10, 10], [9, 1, 99, 99]], np.int32)
    table = np.ones((10, *shape), np.float32)
    updates = np.arange(1.0, 17.0, dtype=np.float32).reshape(4, 4, *[1] * len(shape))
    updates = updates * np.ones(shape, np.float32)
    wanted = table.copy()
    np.add.at(wanted, ids[ids < 10], updates[ids < 10])
    updates[ids >= 10] = np.nan  # whatever a dropped one is
    found = jax.jit(functools.partial(add_rows, heavy=heavy))(table, ids, updates)
    np.testing.assert_allclose(found, wanted)


def sgd_after(clipping):
    return optax.chain(clipping, optax.sgd(0.1))


OPTIMIZERS = {
    "step": {
        "sgd": optimizer("sgd", learning_rate=0.1),
        "scheduled": optax.sgd(optax.linear_schedule(1, 0, 10)),
        "clipped": sgd_after(optax.clip(0.1)),
        "clipped by the norm of all": sgd_after(optax.clip_by_global_norm(0.1)),
    },
    "client": {
        "momentum": optax.sgd(0.1, momentum=0.9),
        "adam": optax.adam(0.1),
        "adagrad": optax.adagrad(0.1),
    },
    "dense": {
        "lamb": optax.lamb(0.1),
        "lars": optax.lars(0.1),
        "adafactor": optax.adafactor(0.1),
        "weight decay": optax.adamw(0.1),
        "yogi": optax.yogi(0.1),  # its moments start above 0 and move rows without a gradient
        "clipped by block": sgd_after(optax.clip_by_block_rms(0.1)),
        "clipped by block, hardly ever": sgd_after(optax.clip_by_block_rms(100.0)),
        "clipped by the parameters' norm": sgd_after(optax.adaptive_grad_clip(0.01)),
    },
}


@pytest.mark.parametrize(
    ("wanted", "name"),
    [(w, n) for w, made in OPTIMIZERS.items() for n in made],
    ids=lambda x: x.replace(" ", "_"),
)
def test_locality(wanted, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        assert (
            locality(
                OPTIMIZERS[wanted][name],
                {"table": jnp.ones((9, 2)), "rest": jnp.ones(3)},
                (Table("table", ("i",)),),
            )
            == wanted
        )


@pytest.mark.parametrize(
    ("wanted", "arguments"),
    [
        ("step", {}),
        ("step", {"momentum": None}),
        ("client", {"momentum": 0.9}),
        ("client", {"nesterov": True}),
    ],
    ids=str,
)
def test_locality_of_gradient_descent_by_name_is_what_a_trial_finds(wanted, arguments):
    table = (Table("table", ("i",)),)
    if "nesterov" in arguments:
        arguments = {**arguments, "momentum": 0.5}
    named = optimizer("sgd", learning_rate=0.5, **arguments)
    tried = optax.sgd(0.5, **arguments)
    assert named.plain == (not arguments)
    for found in (named, tried):
        assert locality(found, {"table": jnp.ones((9, 2))}, table) == wanted


def test_locality_is_found_while_tracing_and_once():
    tries = []
    sgd = optax.sgd(0.1)

    def update(*args):
        tries.append(1)
        return sgd.update(*args)

    counted = optax.GradientTransformation(sgd.init, update)
    run = functools.partial(locality, counted, tables=(Table("table", ("i",)),))
    assert jax.jit(lambda x: jnp.float32(run({"table": x}) == "step"))(jnp.ones((9, 2))) == 1
    tried = len(tries)
    assert run({"table": jnp.ones((5, 2))}) == "step"
    assert len(tries) == tried
