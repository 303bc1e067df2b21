"""Algorithms whose clients tune copies: the same numbers by rows in blocks as by whole tables one by one."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.small import ITEMS, Given, examples, federation, rating_model, sgd, solver

from fedrecon.algorithms._base import Algorithm, Broadcast
from fedrecon.algorithms._fedavg import fedavg
from fedrecon.algorithms._fedrecon import fedrecon
from fedrecon.algorithms._finetuning import finetuning
from fedrecon.algorithms._full_gradient import full_gradient
from fedrecon.algorithms._local_only import local_only
from fedrecon.algorithms._maml import first_order_maml, maml
from fedrecon.algorithms._reptile import reptile
from fedrecon.core._costs import COSTS
from fedrecon.core._model import Model, without_tables
from fedrecon.core._splits import AlternateBatches
from fedrecon.simulation._block_plan import Plan, Slot
from fedrecon.simulation._simulation import Simulation
from fedrecon.solvers._gradient import Solver
from fedrecon.solvers._implicit_diff import ImplicitDifferentiation
from fedrecon.solvers._newton import Newton
from fedrecon.solvers._optimizers import optimizer

PAIRS = AlternateBatches(2)
ADAM = Solver(optimizer("adam", learning_rate=0.05, eps=0.01, eps_root=1e-6), 2, epochs=2)
TRAINING = {
    "local_only": lambda model: local_only(model, solver()),
    "maml": lambda model: maml(model, solver(0.05), solver(0.1), sgd(1.0), PAIRS),
    "first_order_maml": lambda model: first_order_maml(model, solver(0.05), solver(0.1), sgd(1.0), PAIRS),
    "full_gradient": lambda model: full_gradient(model, solver(epochs=2), solver(0.1), sgd(1.0), PAIRS),
    "full_gradient, newton": lambda model: full_gradient(
        model, Newton(), solver(0.01, None, reduction="sum"), sgd(1.0), PAIRS
    ),
}


def global_model(model: Model) -> Algorithm:
    return fedavg(model, solver(0.05), sgd(1.0))


SERVING = {
    "local_only": TRAINING["local_only"],
    "finetuning of a table": lambda model: finetuning(global_model(model), solver(), ("0/item/bias",)),
    "finetuned fedrecon": lambda model: finetuning(
        fedrecon(model, Newton(), solver(), sgd(1.0), PAIRS), ADAM
    ),
}
# With distinct items, one field and no other parameter the positions of rows are known in advance.
MODELS: dict[str, dict[str, Any]] = {"distinct": {}, "repeats": {"two_fields": True, "scale": True}}
LENGTHS = (0, 3, 9)
FEDERATIONS = {kind: federation(repeats=kind == "repeats", lengths=LENGTHS) for kind in MODELS}
EVERYBODY = np.arange(len(LENGTHS))
PLAN = Plan((Slot(1, len(LENGTHS), 10),))
GIVEN = examples(FEDERATIONS["repeats"], "c2", 9)


def assert_close(a: Any, b: Any) -> None:
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=5e-5, atol=5e-6)


@functools.cache
def trained(name: str, kind: str, by_rows: bool) -> Any:
    """A round of everybody, by rows or with whole tables."""
    model = rating_model(**MODELS[kind])
    algorithm = TRAINING[name](model if by_rows else without_tables(model))
    simulation = Simulation(algorithm, FEDERATIONS[kind], Given([EVERYBODY]), seed=3, plan=PLAN)
    start = simulation.init()
    done = next(simulation.rounds(start, 1))
    return jax.device_get((start, done.state)), done.metrics()


@pytest.mark.parametrize(("name", "kind"), [*((n, "repeats") for n in TRAINING), ("maml", "distinct")])
def test_training_by_rows_is_training_with_whole_tables(name, kind):
    (start, state), metrics = trained(name, kind, by_rows=True)
    wanted = trained(name, kind, by_rows=False)
    assert_close((state, metrics), (wanted[0][1], wanted[1]))
    assert metrics["dropped"].total == 0 and metrics["empty"].total >= 1
    change = jax.tree.map(lambda a, b: np.abs(a - b).max(), state.global_params, start.global_params)
    assert all(x == 0 if name == "local_only" else x > 1e-3 for x in jax.tree.leaves(change))


def test_what_clients_compute_is_counted():
    """Of clients of 0, 3 and 9 examples, whose support sets have 0, 2 and 5: 0, 1 and 3 batches."""
    wanted = {  # gradient steps, solves, example passes
        "local_only": (2 + 5, 0, 3 + 9),
        "maml": ((1 + 1) + (2 + 2 * 3), 0, (1 + 2) + (4 + 2 * 5)),
        "first_order_maml": ((1 + 1) + (3 + 2), 0, 3 + 9),
        "full_gradient": ((1 + 2) + (2 + 2 * 6), 0, (1 + 4) + (4 + 2 * 10)),
        "full_gradient, newton": (2, 2, 3 + 9),
    }
    for name in TRAINING:
        metrics = trained(name, "repeats", by_rows=True)[1]
        found = [float(metrics[n].total) if n in metrics else 0 for n in COSTS]
        assert tuple(found) == wanted[name], name


@pytest.mark.parametrize("name", SERVING)
def test_serving_by_rows_is_serving_with_whole_tables(name):
    def served(model: Any) -> Any:
        algorithm = SERVING[name](model)

        @jax.jit
        def metrics(key: Any) -> Any:
            params = algorithm.model.init_global(key)
            local = algorithm.personalize(Broadcast(params, jnp.int32(0)), (), GIVEN, key)
            return algorithm.personal_model.metrics(params, local, GIVEN.data)

        return metrics(jax.random.key(0))

    model = rating_model(**MODELS["repeats"])
    found = served(model)
    assert_close(found, served(without_tables(model)))
    assert np.isfinite(found["mse"].total).all()


def rows_of_a_step(algorithm: Algorithm, seen: set[int]) -> set[int]:
    """How many rows of the tables the loss is given when a client of 9 examples is served."""
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    seen.clear()
    jax.eval_shape(
        lambda g: algorithm.personalize(Broadcast(g, jnp.int32(0)), (), GIVEN, jax.random.key(1)),
        state.global_params,
    )
    return set(seen)


def test_tuning_copies_sees_the_rows_of_a_batch_alone():
    seen: set[int] = set()
    model = rating_model(seen=seen, **MODELS["repeats"])
    trained = fedavg(model, solver(), sgd(1.0))
    assert rows_of_a_step(finetuning(trained, solver()), seen) == {4}  # two examples, two fields
    # The bias alone: its field indexes the factors too, which stay the server's.
    assert rows_of_a_step(finetuning(trained, solver(), ("0/item/bias",)), seen) == {ITEMS}
    assert rows_of_a_step(finetuning(trained, solver(), ("1/user",)), seen) == {4}
    assert rows_of_a_step(local_only(model, solver()), seen) == {4}


def test_a_part_is_tuned_and_no_more():
    model = rating_model()
    algorithm = finetuning(global_model(model), solver(), ("1",))
    params = algorithm.model.init_global(jax.random.key(0))
    given, key = GIVEN, jax.random.key(1)
    (copy, local) = algorithm.personalize(Broadcast(params, jnp.int32(0)), (), given, key)
    assert copy[0] == {"item": {"factors": None, "bias": None}} and local == ()
    assert np.abs(copy[1]["user"] - params[1]["user"]).max() > 1e-3
    merged = params[0], copy[1]
    found = algorithm.personal_model.loss(params, (copy, local), given.data, key)
    assert_close(found, model.loss(*merged, given.data, key))
    assert_close(algorithm.personal_model.penalty(params, (copy, local)), model.penalty(*merged))
    predict = algorithm.personal_model.predict
    assert predict is not None and model.predict is not None
    assert_close(predict(params, (copy, local), given.data), model.predict(*merged, given.data))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (("0/item/biass",), "part names the path '0/item/biass', but .* did you mean '0/item/bias'"),
        (("1", "2"), "part names the path '2'"),
        (("0/it",), "part names the path '0/it'"),
        ((), r"part must be a tuple of paths of global leaves, \['0/item/bias', .* got \(\)"),
    ],
)
def test_a_part_that_is_not_there(part, message):
    with pytest.raises(ValueError, match=message):
        finetuning(fedavg(rating_model(), solver(), sgd(1.0)), solver(), part)


def test_algorithms_print_what_they_are_made_of():
    model = rating_model()
    shown = repr(finetuning(global_model(model), solver(), ("1",)))
    assert shown.startswith("finetuning(trained=fedavg(update=Solver(sgd(learning_rate=0.05)")
    assert shown.endswith("part=('1',))")
    for name in ("local_only", "maml", "first_order_maml", "full_gradient"):
        shown = repr(TRAINING[name](model))
        assert shown.startswith(f"{name}(") and "Solver(" in shown
    assert repr(reptile(model, solver(), sgd(0.5))).startswith("reptile(tune=Solver(")
    assert "reconstruct=Newton(iterations=1" in repr(TRAINING["full_gradient, newton"](model))
    assert (
        repr(ImplicitDifferentiation(Newton()))
        == "ImplicitDifferentiation(solver=Newton(iterations=1, damping=0.0))"
    )
