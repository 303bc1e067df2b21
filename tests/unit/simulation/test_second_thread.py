"""Two programs at the same time: the same bits as ever, in one training and in two."""

from threading import Thread

import jax
import numpy as np
import pytest
from tests.small import federation, rating_model, sgd, solver

from fedrecon import Newton, Simulation, Uniform, fedrecon
from fedrecon.core._splits import RandomFraction
from fedrecon.evaluation import evaluate
from fedrecon.simulation._block_plan import Plan, Slot, plan_blocks
from fedrecon.simulation._block_shape import BlockShape
from fedrecon.simulation._second_thread import SecondThread, gains_from_second_thread, result_of

CLIENTS = federation()
HALVES, ODD = Plan((Slot(2, 3, 12),)), Plan((Slot(1, 6, 12),))


def algorithm(reconstruct=None):
    update = solver(batch_size=None)
    return fedrecon(rating_model(), reconstruct or Newton(), update, sgd(1.0), RandomFraction(0.5))


def trained(rounds=20, plan=HALVES, reconstruct=None):
    simulation = Simulation(algorithm(reconstruct), CLIENTS, Uniform(6), seed=2, plan=plan)
    *_, last = simulation.rounds(simulation.init(), rounds)
    return last, evaluate(simulation.algorithm, last.state, CLIENTS).summary()


def test_halves_of_a_pass_give_the_same_as_a_whole():
    (halves, scores), (whole, others) = trained(), trained(plan=ODD)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), halves.state, whole.state
    )
    assert halves.clients == whole.clients == 6
    assert halves.metrics()["empty"].weight == whole.metrics()["empty"].weight == 6
    assert set(scores) == set(others)


def test_two_trainings_at_a_time_end_with_the_bits_of_one():
    alone, scores = trained(100)
    results = []
    threads = [Thread(target=lambda: results.append(trained(100))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2
    for last, others in results:
        jax.tree.map(np.testing.assert_array_equal, last.state, alone.state)
        assert others == scores


def test_who_gains():
    assert gains_from_second_thread(algorithm())
    assert not gains_from_second_thread(algorithm(solver()))


def test_a_result_is_the_same_whichever_thread_made_it():
    assert result_of(SecondThread().call(lambda x: x + 1, 2)) == result_of(3)


def test_the_second_thread_computes_in_the_precision_of_the_first():
    thread, program = SecondThread(), lambda: jax.numpy.ones(()).dtype
    assert thread.call(program).result() == np.float32
    with jax.enable_x64(True):
        assert thread.call(program).result() == np.float64
    assert thread.call(program).result() == np.float32


@pytest.mark.parametrize(("blocks", "halves"), [((2, 4), (1, 2)), ((2, 3), None), ((1,), None)])
def test_only_even_numbers_of_blocks_are_halved(blocks, halves):
    plan = Plan(tuple(Slot(n, 5, 10) for n in blocks)).halved()
    assert (plan and tuple(slot.blocks for slot in plan.slots)) == halves


def test_blocks_by_parts_and_places():
    lengths = np.repeat([10, 100, 1000], 20)
    plan = plan_blocks(lengths, 30, 3, 8, most_places=2000, parts=2)
    assert all(slot.blocks % 2 == 0 for slot in plan.slots)
    assert all(slot.clients == 1 or slot.clients * slot.length <= 2000 for slot in plan.slots)


def test_the_shape_of_blocks():
    shapes = {"item": jax.ShapeDtypeStruct((4000, 128), np.float32)}
    assert BlockShape.of(algorithm(), shapes, None, 1) == BlockShape(32, 2, 2**13, 2)
    assert BlockShape.of(algorithm(), shapes, 7, 1) == BlockShape(7, parts=2)
    assert BlockShape.of(algorithm(), shapes, None, 2).parts == 1
    large = {"item": jax.ShapeDtypeStruct((4_000_000, 128), np.float32)}
    assert BlockShape.of(algorithm(), large, None, 1).clients == 1
