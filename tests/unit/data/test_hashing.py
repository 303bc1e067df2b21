"""Hashes of clients' names: the same for ever, in any order."""

import numpy as np

from fedrecon.data._clients import Clients
from fedrecon.data._hashing import Purpose, client_keys, keyed, mix, mixed, round_keys


def test_keys_are_the_same_for_ever():
    """Changing them would change every split and every run."""
    assert client_keys(["ann", "bob"]).tolist() == ANN_AND_BOB
    assert client_keys(np.array([0, 1, -1])).tolist() == NUMBERS
    assert keyed(0, Purpose(1), np.array([5], np.uint64)).tolist() == KEYED
    assert round_keys(-5, Purpose(3), 7, client_keys(["ann", "bob"])).tolist() == OF_A_ROUND


ANN_AND_BOB = [11957940740637538957, 10566683571197309812]
NUMBERS = [16294208416658607535, 10451216379200822465, 16490336266968443936]
KEYED = [5824483609541921649]
OF_A_ROUND = [[3754606804, 2835906038], [3338299617, 2808781386]]


def test_the_numbers_of_purposes_are_the_same_for_ever():
    assert {purpose.name: purpose.value for purpose in Purpose} == {
        "EXAMPLE_ORDER": 1,
        "CLIENT_SPLIT": 2,
        "TRAINING": 3,
        "EVALUATION": 4,
        "INITIAL_PARAMS": 5,
        "NEGATIVE_ITEMS": 21,
    }


def test_one_number_is_mixed_as_many_are():
    numbers = np.concatenate([np.arange(5), np.random.default_rng(0).integers(2**63, size=100) * 2 + 1])
    assert [mixed(int(x)) for x in numbers.astype(np.uint64)] == mix(numbers.astype(np.uint64)).tolist()
    assert mixed(-1) == mixed(2**64 - 1)


def test_mix_is_a_bijection_that_scrambles():
    found = mix(np.arange(100_000))
    assert len(np.unique(found)) == 100_000
    bits = (found[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    np.testing.assert_allclose(bits.mean(0), 0.5, atol=0.02)


def test_a_string_is_not_its_number():
    assert client_keys(["7"]) != client_keys(np.array([7]))
    assert len(client_keys([])) == 0


def test_zero_characters_at_the_end_of_a_name_count():
    """NumPy takes them for padding where it makes strings of one width."""
    names = ["", "\0", "ann", "ann\0", "ann\0\0", "an"]
    assert len({*client_keys(names).tolist()}) == len(names)
    assert client_keys(names).tolist() == client_keys(np.array(names, object)).tolist()
    assert client_keys(names).tolist() == [int(client_keys([name])[0]) for name in names]
    assert client_keys(["ann", "bob"]).tolist() == client_keys(np.array(["ann", "bob"])).tolist()
    clients = Clients.from_arrays({name: {"x": [1.0]} for name in names})
    assert clients.ids.tolist() == names and clients.keys.tolist() == client_keys(names).tolist()
    assert all(clients[name]["x"].tolist() == [1.0] for name in names)


def test_seeds_purposes_and_rounds_draw_apart():
    keys = client_keys(np.arange(1000))
    drawn = [keyed(s, p, keys) for s in (0, 1, -1) for p in Purpose]
    drawn += [
        round_keys(s, p, r, keys).view(np.uint64)[:, 0] for s in (0, 1) for p in Purpose for r in (0, 1)
    ]
    assert len(np.unique(np.concatenate(drawn))) == 1000 * len(drawn)


def test_clients_numbered_like_rounds_draw_apart():
    keys = client_keys(np.arange(50))
    drawn = [round_keys(0, Purpose.TRAINING, r, keys).view(np.uint64) for r in range(50)]
    assert len(np.unique(np.concatenate(drawn))) == 50 * 50


def test_keys_of_a_round_do_not_depend_on_who_else_is_there():
    keys = client_keys(["ann", "bob", "cid"])
    drawn = round_keys(3, Purpose.TRAINING, 9, keys)
    np.testing.assert_array_equal(drawn[1], round_keys(3, Purpose.TRAINING, 9, keys[1]))
    assert drawn.shape == (3, 2)
