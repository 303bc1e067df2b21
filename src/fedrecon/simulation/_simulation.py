"""Simulates federated rounds: cohorts are cut into blocks, and the clients of a block are vectorised."""

import functools
import time
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, UInt32, UInt64

from fedrecon.algorithms._base import Algorithm, ServerState
from fedrecon.core._types import Params
from fedrecon.data._clients import Clients
from fedrecon.data._hashing import Purpose, round_keys
from fedrecon.data._sampling import AbstractSampling, Sampling, cohort_of
from fedrecon.errors import whole_number
from fedrecon.privacy._secret import Secret
from fedrecon.simulation._batches import Batch, Layout
from fedrecon.simulation._block_plan import Plan, plan_blocks
from fedrecon.simulation._block_shape import BlockShape
from fedrecon.simulation._client_state_store import ClientStateStore
from fedrecon.simulation._client_step import View, first_state
from fedrecon.simulation._cohort import cohort_update, one_pass
from fedrecon.simulation._compilation import engine_options, heavy
from fedrecon.simulation._devices import Devices
from fedrecon.simulation._late_updates import checked_delays, checked_late, counting_late, stages_of
from fedrecon.simulation._protection import NoiseDrawer, Protection
from fedrecon.simulation._round import Round, Sizes
from fedrecon.simulation._second_thread import SecondThread
from fedrecon.simulation._shared_programs import compiled
from fedrecon.simulation._trained_state import TrainedState, plain_state
from fedrecon.simulation._validation.model import check_model

# With more bytes of global parameters, the server's step is a program of its own: the arrays that a joint
# program would need beside them cost more than a second dispatch.
_JOINED_BYTES = 2**22


class Simulation:
    """Runs an algorithm on clients, one cohort a round.

    Results do not depend on how clients are cut into blocks, up to the rounding of sums; under one plan they
    are the same to the bit. Under JAX's distributed runtime every process makes the same calls, lays out the
    clients of its own devices, and has all results.

    Attributes:
        algorithm: The algorithm that is simulated.
        clients: The training clients.
        sampling: The sampling that draws the cohort of a round.
        seed: The seed of the cohorts and of the clients' draws; noise for privacy never follows from it.
        plan: The plan by which cohorts are cut into blocks.
        client_states: The states of all clients between rounds; None for a stateless algorithm. `rounds`
            updates it, and takes it back where rounds start from an earlier state.

    Args:
        algorithm: The algorithm to simulate.
        clients: The training clients.
        sampling: The sampling that draws the cohort of a round.
        seed: The seed of the cohorts and of the clients' draws; 0 by default.
        plan: The plan by which cohorts are cut into blocks; None, the default, to choose one.
        clients_per_block: The number of clients of a block, which are vectorised, where no plan is given;
            None, the default, for 1 for a large model on a CPU, else for what the plan chooses.
        client_states_folder: Folder of the clients' states, in which those of an earlier run are replaced;
            None, the default, for a temporary folder.
        devices: The number of devices of each process that share the clients of a block; None, the default,
            for all, or for 1 where the algorithm's server takes each delta.
        secret: The secret of a private algorithm, from which its noise and cohorts are drawn; None, the
            default, for a new one.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        clients: Clients,
        sampling: Sampling,
        *,
        seed: int = 0,
        plan: Plan | None = None,
        clients_per_block: int | None = None,
        client_states_folder: str | PathLike[str] | None = None,
        devices: int | None = None,
        secret: Secret | None = None,
    ):
        seed = whole_number("seed", seed)
        if clients_per_block is not None:
            clients_per_block = whole_number("clients_per_block", clients_per_block, 1)
        self._devices = checked_devices(algorithm, clients, sampling, devices)
        self._protection = Protection.of(algorithm, clients, sampling, self._devices.processes, secret)
        self.algorithm, self.clients, self.sampling, self.seed = algorithm, clients, sampling, seed
        shapes = jax.eval_shape(algorithm.model.init_global, jax.random.key(0))
        self.client_states = ClientStateStore.of(
            algorithm, clients, None if client_states_folder is None else Path(client_states_folder)
        )
        self._layout = Layout(algorithm.model, clients, shapes, (algorithm.hyperparameters.get("split"),))
        self._sizes = Sizes(shapes, self._layout.groups, algorithm.compression)
        self._sent = self._sizes if algorithm.exchanges == "parameters" else Sizes({}, ())
        if algorithm.privacy is not None:  # whole tables are sent: row numbers would tell a client's items
            self._sent = Sizes(shapes, (), algorithm.compression, algorithm.row_counts)
        large = heavy(shapes, algorithm.model.tables)
        self._shape = BlockShape.of(algorithm, shapes, clients_per_block, len(self._devices))
        # Both donate the sum of updates, whose memory the result takes over. The server's state is never
        # donated: the caller may hold the state of any round.
        self._merge = jax.jit(lambda a, b: jax.tree.map(jnp.add, a, b), donate_argnums=0)
        self._stages = stages_of(sampling)
        self._step = step = counting_late(sampling, algorithm)
        # Sums by stage, and what is not summed, have no result of their shape that could take their memory
        # over, nor have the counts of rows beside the sums.
        self._finish = jax.jit(
            lambda state, sums, beside: step(state, beside._replace(delta=sums)),
            donate_argnums=1 if self._stages == 1 and not algorithm.takes_each else (),
            # The older emitter, see `engine_options`, takes twice as long for noise.
            compiler_options=None if self._protection is None else engine_options(heavy=True),
        )
        if algorithm.takes_each:
            self._merge = jax.jit(lambda a, b: jax.tree.map(lambda *x: jnp.concatenate(x), a, b))
        # Nearly all cohorts take one pass, and with the server's step in its program a round is one dispatch.
        # The price is a superfluous step in each further pass, and the memory that `_finish` would take over,
        # which is much for large parameters.
        # Nor is a private algorithm's step joined: its noise is drawn once a round, with a key that is
        # computed while the clients are. Much noise is drawn at that time, too.
        small = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes)) <= _JOINED_BYTES
        self._joined = small and self._protection is None
        self._noise = None if small or self._protection is None else NoiseDrawer(self._protection, shapes)
        self._options = engine_options(large)
        self._before = 0  # the number of programs that earlier plans compiled
        self._pass: Any = None
        self._helper: SecondThread | None = None
        self.use(plan or self._plan_of(self._shape))

    def plan_of(self, clients_per_block: int | None, most_slots: int = 2) -> Plan:
        """Chooses a plan for this simulation's cohorts.

        Args:
            clients_per_block: The number of clients of a block; None leaves the choice to the plan.
            most_slots: The largest number of slots, which are shapes to compile; 2 by default.
        """
        return self._plan_of(BlockShape(clients_per_block, most_slots, parts=self._shape.parts))

    def _plan_of(self, shape: BlockShape) -> Plan:
        lengths, cohort, draw = self.clients.num_examples, self.sampling.most(len(self.clients)), None
        if isinstance(self.sampling, AbstractSampling) and not self.sampling.even:
            draw = functools.partial(cohort_of, self.sampling, num_examples=lengths, seed=0)
        plan = plan_blocks(
            lengths,
            cohort,
            shape.most_slots,
            shape.clients,
            draw,
            most_places=shape.most_places,
            parts=shape.parts,
        )
        return plan.in_parts(len(self._devices))

    def use(self, plan: Plan) -> None:
        """Makes later rounds use a plan, with the clients of a block rounded up to the devices."""
        self._before += 0 if self._pass is None else self._pass._cache_size()
        self.plan = plan.in_parts(len(self._devices))
        halved = self.plan.halved() if self._shape.parts == 2 else None
        self._parts, self._slots = (1, self.plan.slots) if halved is None else (2, halved.slots)
        groups = self._layout.groups
        views = tuple(
            View(slot.length, cut, tuple(f for g in cut for f in g.fields if f in self._layout.positional))
            for slot in self._slots
            for cut in [tuple(g for g in groups if self._layout.by_rows(g, slot))]
        )
        # One program for all slots of a pass: a program for each would be dispatched, and its results merged,
        # many times in a round that may take a few milliseconds.
        sums = functools.partial(cohort_update, self.algorithm, views, stages=self._stages)
        update_of = self._devices.spread(sums)
        steps = self._step if self._joined and self._parts == 1 else None
        run = functools.partial(one_pass, self.algorithm, update_of, steps)
        self._pass = compiled(run, self._options, alone=len(self._devices) > 1)

    @property
    def compilations(self) -> int:
        """The number of programs that the rounds have compiled so far."""
        programs: tuple[Any, ...] = (self._pass, self._merge, self._finish)
        return self._before + sum(program._cache_size() for program in programs)

    def init(self, global_params: Params | None = None) -> ServerState:
        """The server's state before the first round; also checks the model on a client's examples.

        Args:
            global_params: The global parameters at the start; None, the default, to draw them from the seed.

        Raises:
            TypeError: The model's loss or metrics are not what a model must return.
            ValueError: The global parameters do not have the model's structure, shapes and types, or the
                model breaks one of the rules that `check_model` lists.
        """
        state, key = first_state(self.algorithm, self.seed, global_params)
        check_model(self.algorithm, self.clients, state.global_params, key)
        return self._as_trained(checked_late(state, self._stages))

    def rounds(self, state: ServerState, count: int) -> Iterator[Round]:
        """Runs rounds from `state` on; the host lays out a cohort while the device computes the one before.

        Args:
            state: The server's state from which the rounds start; its arrays stay valid.
            count: The number of rounds to run.
        """
        count = whole_number("count", count, 0)
        first = int(state.round)
        if self._protection is not None:
            self._protection.check(first + count)
        if self.client_states is not None:
            self.client_states.rewind(first)
        state = self._devices.everywhere(checked_late(plain_state(state), self._stages))
        for number in range(first, first + count):
            cohort = self._cohort(number)
            delays = self._delays(number, len(cohort))
            keys = round_keys(self.seed, Purpose.TRAINING, number, self.clients.keys[cohort])
            drawer = self._noise
            noise = None if drawer is None else drawer.begin(state, number, cohort, self.plan)
            total: Any = None
            metrics, local_positions = [], []
            passes = self.plan.passes(self.clients.num_examples[cohort])
            after = None
            for slots in passes:
                del after  # the state of the pass before is not used: frees memory that this pass may need
                parts = self._cut(slots)
                laid_out = [self._laid_out(part, cohort, keys, delays) for part in parts]
                local_positions += [positions for mine, _ in laid_out for positions in mine]
                results = self._run(state, [batches for _, batches in laid_out])
                after = results[0][0]
                sent = [result[1:] for result in results]
                del results
                for part, (update, sums, client_states) in zip(parts, sent, strict=True):
                    total = update if total is None else self._merge(total, update)
                    if self.client_states is not None:
                        for positions, value in zip(part, client_states, strict=True):
                            self.client_states.put(number, self.clients.keys[cohort[positions]], value)
                    metrics.append(sums)
                del sent, update, client_states
            if noise is not None:
                state = noise.result()
            elif self._protection is not None:
                # As late as possible: the key waits for the parameters of the round before.
                state = self._protection.armed(state, number, cohort, self.plan)
            if after is None or len(passes) > 1:
                after = self._finish(state, total.delta, total._replace(delta=()))
            state = after
            del after, total  # the generator's frame would keep them while the caller works on the round
            rows = self._touched(cohort, cohort[np.concatenate(local_positions)])
            yield Round(number + 1, self._as_trained(state), len(cohort), rows, self._sent, metrics)

    def seconds(self, state: ServerState, repeats: int = 2) -> float:
        """Measures the seconds that the passes of the next round take under the present plan.

        Args:
            state: The server's state before the round that is measured; it is not changed.
            repeats: How often each pass is timed, after a first run to compile it; the shortest time counts;
                2 by default.
        """
        number, total = int(state.round), 0.0
        state = checked_late(plain_state(state), self._stages)
        cohort = self._cohort(number)
        delays = self._delays(number, len(cohort))
        keys = round_keys(self.seed, Purpose.TRAINING, number, self.clients.keys[cohort])
        for slots in self.plan.passes(self.clients.num_examples[cohort]):
            batches = [self._laid_out(part, cohort, keys, delays)[1] for part in self._cut(slots)]
            times = []
            for _ in range(repeats + 1):
                start = time.perf_counter()
                jax.block_until_ready(self._run(state, batches))
                times.append(time.perf_counter() - start)
            total += min(times[1:])
        return total

    def _as_trained(self, state: ServerState) -> TrainedState:
        return TrainedState.of(state, self.clients.vocabularies)

    def _cut(self, slots: list[Int[np.ndarray, "..."]]) -> list[list[Int[np.ndarray, "..."]]]:
        """The clients of a pass, by slot, for each of the programs that share it: every other one, so that
        each has short and long ones.
        """
        return [[positions[part :: self._parts] for positions in slots] for part in range(self._parts)]

    def _run(self, state: ServerState, parts: list[tuple[Batch, ...]]) -> list[Any]:
        """What the program of a pass returns for each of its parts, which are computed side by side."""
        if len(parts) == 1 or not self._pass._cache_size():  # two threads would compile the program twice
            return [self._devices.settled(self._pass(state, batches)) for batches in parts]
        if self._helper is None:
            self._helper = SecondThread()
        second = self._helper.call(self._pass, state, parts[1])
        return [self._pass(state, parts[0]), second.result()]

    def _cohort(self, number: int) -> Int[np.ndarray, "client"]:
        """The positions of a round's clients among all clients."""
        seed = self.seed if self._protection is None else self._protection.secret.cohort_seed
        return cohort_of(self.sampling, number, self.clients.num_examples, seed)

    def _delays(self, number: int, count: int) -> Int[np.ndarray, "client"] | None:
        """How many rounds later the updates of a round's clients are counted; None if all are at once."""
        if self._stages == 1:
            return None
        assert isinstance(self.sampling, AbstractSampling)
        return checked_delays(self.sampling, number, self.clients.num_examples, self.seed, count)

    def _laid_out(
        self,
        slots: list[Int[np.ndarray, "..."]],
        cohort: Int[np.ndarray, "client"],
        keys: UInt32[np.ndarray, "client 2"],
        delays: Int[np.ndarray, "client"] | None,
    ) -> tuple[list[Any], tuple[Batch, ...]]:
        """The positions in the cohort of a pass's clients that this process lays out, and their batches."""
        parts = [
            slot.part(positions, *self._devices.part)
            for slot, positions in zip(self._slots, slots, strict=True)
        ]
        batches = tuple(
            self._layout.batch(slot, cohort[p], keys[p], delays=None if delays is None else delays[p])
            for slot, p in parts
        )
        if self.client_states is not None:
            names = [self.clients.keys[cohort[positions]] for _, positions in parts]
            batches = tuple(map(functools.partial(_with_client_states, self.client_states), batches, names))
        return [positions for _, positions in parts], self._devices.cut(batches)

    def _touched(
        self, cohort: Int[np.ndarray, "client"], own: Int[np.ndarray, "own_client"]
    ) -> dict[str, Any]:
        """The numbers of rows of each group of tables that a cohort touches.

        Args:
            cohort: The positions of the cohort's clients.
            own: The positions of those that this process lays out. Where there are several processes, each
                counts the rows of its own clients, and the counts are summed over the processes.
        """
        if self.algorithm.exchanges != "parameters" or self._protection is not None:
            return {}
        groups, several = self._layout.groups, self._devices.processes > 1
        if not several or all(group.fields[0] in self._layout.positional for group in groups):
            # The rows of positional fields are counted by the numbers of examples, which all processes know.
            return self._layout.touched(cohort)
        counts = self._layout.touched(own)
        sums = self._devices.total([int(np.sum(x)) for x in counts.values()])
        return {name: sums[i] for i, name in enumerate(counts)}


def checked_devices(
    algorithm: Algorithm, clients: Clients, sampling: Sampling, devices: int | None = None
) -> Devices:
    """The devices of a simulation, if its parts fit one another: so that nobody has to build it to find out.

    Args:
        algorithm: The algorithm to simulate.
        clients: The training clients.
        sampling: The sampling that draws the cohort of a round.
        devices: The number of devices of each process; None, the default, for all, or for 1 where the
            algorithm's server takes each delta.

    Raises:
        ValueError: There are fewer clients than a cohort asks for; the algorithm cannot be simulated on these
            devices, or with late answers; or the clients or the sampling are not those of its privacy
            accounting.
    """
    sampling.check(len(clients))
    one = algorithm.takes_each
    chosen = Devices.first(1 if one and devices is None else devices)
    if one and len(chosen) > 1:
        several = f"{len(chosen)} devices" if chosen.processes == 1 else f"{chosen.processes} processes"
        raise ValueError(
            f"devices must be 1, in one process, for an algorithm whose server takes each delta, "
            f"got {several}"
        )
    Protection.of(algorithm, clients, sampling, chosen.processes, None)
    counting_late(sampling, algorithm)
    return chosen


def _with_client_states(
    client_states: ClientStateStore, batch: Batch, names: UInt64[np.ndarray, "client"]
) -> Batch:
    """A batch with the states of its clients; waits for the round before, which computes them."""
    blocks, clients = batch.real.shape
    stored = client_states.get(names, blocks * clients)
    return batch._replace(
        client_state=jax.tree.map(lambda x: x.reshape(blocks, clients, *x.shape[1:]), stored)
    )
