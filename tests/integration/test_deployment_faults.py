"""What goes wrong with real processes: rounds end as they would have ended without those that were lost."""

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager

import jax
import numpy as np
import pytest
from tests.integration.loopback import (
    ALGORITHM,
    CLIENTS,
    NAMES,
    NODES,
    PATIENCE,
    ROUNDS,
    SEED,
    server_of,
)
from tests.small import Given

from fedrecon.deployment._rounds import LOG, STATE
from fedrecon.simulation._simulation import Simulation

MOST_STARTS = 12
pytestmark = pytest.mark.skipif(os.name == "nt", reason="processes are killed by signals of POSIX")


class Processes:
    """The processes of a federation, each known by its own id, which end with the test whatever happens."""

    def __init__(self, folder, repository):
        self._folder, self.starts, self.statuses = folder, 0, []
        path = os.pathsep.join([str(repository / "src"), str(repository)])
        self._environment = {**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}
        self.alive = {}

    def start(self, *words):
        self.starts += 1
        assert self.starts <= MOST_STARTS
        with open(self._folder / f"{'-'.join(words)}.log", "ab") as log:
            self.alive[words] = subprocess.Popen(
                [sys.executable, "-m", "tests.integration.loopback", words[0], str(self._folder), *words[1:]],
                stdout=log,
                stderr=log,
                env=self._environment,
            )

    def run(self):
        """Starts again what ends, until the server is done; nodes then end by themselves."""
        end = time.monotonic() + 2 * PATIENCE
        self.start("server")
        for number in range(NODES):
            self.start("node", str(number))
        while time.monotonic() < end and self.alive:
            for words, process in list(self.alive.items()):
                if process.poll() is None:
                    continue
                del self.alive[words]
                self.statuses.append((words[0], process.returncode))
                if process.returncode != 0:
                    self.start(*words)
            time.sleep(0.05)
        assert not self.alive, "the federation did not end in time"

    def end(self):
        for process in self.alive.values():
            process.kill()
            process.wait()


@contextmanager
def federation(folder, repository, server, nodes):
    (folder / "server.json").write_text(json.dumps(server))
    for number, faults in nodes.items():
        (folder / f"node-{number}.json").write_text(json.dumps(faults))
    processes = Processes(folder, repository)
    try:
        processes.run()
        yield processes
    finally:
        processes.end()


def check(folder):
    """The state on the disk is that of a simulation of the clients that each round counted."""
    lines = [json.loads(line) for line in (folder / "counted.jsonl").read_text().splitlines()]
    counted = dict(lines)  # of a round that came again the last time
    simulation = Simulation(ALGORITHM, CLIENTS, Given([counted[i] for i in range(ROUNDS)]), seed=SEED)
    wanted = list(simulation.rounds(simulation.init(), ROUNDS))[-1].state
    server = server_of()
    server.restore(folder / STATE)
    assert server.round == ROUNDS
    for a, b in zip(jax.tree.leaves(server.state), jax.tree.leaves(wanted), strict=True):
        assert np.max(np.abs(np.asarray(a) - np.asarray(b)), initial=0) <= 1e-5
    records = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
    assert [r["round"] for r in records if r["released"]] == list(range(ROUNDS))
    assert not list(folder.glob(".*"))  # nothing half-written
    return counted, records


def test_nodes_that_die_and_nodes_that_answer_wrongly(tmp_path, repository):
    wrong = {"1": "garbage", "2": "nan", "3": "shape", "4": "round", "5": "twice", "6": "late"}
    dying = {1: {"1": "die before"}, 2: {"2": "die during"}, 3: {"3": "die after"}}
    with federation(tmp_path, repository, [{"hurry": 6}], {0: wrong, **dying}) as processes:
        counted, records = check(tmp_path)
    assert sorted(processes.statuses) == sorted([("node", -9)] * 3 + [("node", 0)] * NODES + [("server", 0)])
    everybody = len(NAMES)
    refused = {r["round"]: r["refused"] for r in records if r["released"]}
    assert not any(r["late"] for r in records if r["round"] < 6)
    assert refused[1] == {"checksum": 1}
    assert refused[2] == {"not_finite": 1}
    assert refused[3] == {"wrong_shape": 1}
    assert refused[4] == {"wrong_round": 1}
    assert refused[5] == {"duplicate": 1}
    late = [(r["late"], r["refused"]) for r in records if r["late"]]
    assert late and all(of == {"wrong_round": count} for count, of in late)
    assert len(counted[0]) == everybody
    assert 0 in counted[5] and not any(0 in counted[round] for round in (1, 2, 3, 4))


def test_server_that_dies_around_its_checkpoints_or_has_a_full_disk(tmp_path, repository):
    """Each start of the server has a fault of its own; the fifth goes through."""
    faults = [
        {"kill": 1},
        {"kill before the state is saved": 3},
        {"kill after the state was saved": 5},
        {"full": 6},
    ]
    with federation(tmp_path, repository, faults, {2: {"4": "die during"}}) as processes:
        counted, _ = check(tmp_path)
    assert processes.statuses.count(("server", -9)) == 3
    assert processes.statuses.count(("server", 1)) == 1
    assert processes.statuses.count(("node", -9)) == 1
    assert len(counted[1]) == len(counted[6]) == len(NAMES)
    tried = [json.loads(line)[0] for line in (tmp_path / "counted.jsonl").read_text().splitlines()]
    assert tried.count(3) == 2  # computed, lost before it was saved, and computed again
    assert tried.count(5) == 1  # saved, and not applied a second time
    assert tried.count(6) == 2  # computed, lost with its checkpoint, and computed again


def test_no_byte_that_nodes_send_is_a_local_parameter_an_example_or_the_text_of_an_error(
    tmp_path, repository
):
    """One node meets an error, another one a full disk, a third one dies."""
    faults = {0: {"2": "raise"}, 1: {"3": "full"}, 3: {"5": "die during"}}
    with federation(tmp_path, repository, [], faults) as processes:
        counted, records = check(tmp_path)
    assert sorted(processes.statuses) == sorted([("node", -9)] + [("node", 0)] * NODES + [("server", 0)])
    # The node with the full disk answers that it failed, and goes on.
    assert len(counted[3]) == len(NAMES) - 1 and len(counted[4]) == len(NAMES)
    sent = (tmp_path / "received.bin").read_bytes()
    refused = {r["round"]: r["refused"] for r in records if r["refused"]}
    assert refused == {2: {"failed": 1}, 3: {"failed": 1}}
    for needle in (b"secret", b"ZeroDivision", b"Error", b"Traceback", b"File "):
        assert needle not in sent
    states = {
        bytes.fromhex(line)
        for path in tmp_path.glob("node-*.secrets")
        for line in path.read_text().splitlines()
        if line
    }
    # A state of fewer bytes, such as a counter, would be found by chance.
    states = {state for state in states if len(state) >= 8 and any(state)}
    assert len(states) > len(NAMES)
    assert not [state.hex() for state in states if state in sent]
    looked_for = set()
    for name in NAMES:
        examples = CLIENTS[name]
        if len(examples["rating"]) < 3:
            continue
        # What is looked for is found where it is: the rows of the client's request, in their own order.
        rows = np.unique(np.concatenate([examples["item"], examples["previous"]])).astype(np.int32)
        assert rows.tobytes() in sent
        for field, values in examples.items():
            # Few different values would be found by chance; rows in ascending order are the request itself.
            if len(np.unique(values)) < 3 or (field != "rating" and np.all(np.diff(values) > 0)):
                continue
            for kind in (np.float32, np.float64, np.int32, np.int64):
                assert values.astype(kind).tobytes() not in sent, (name, field)
                looked_for.add((field, kind))
    assert len(looked_for) == 12
