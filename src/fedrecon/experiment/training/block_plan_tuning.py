"""Plan tuning: chooses the block plan of a long run on an accelerator by measuring several."""

import json
import math
import time
from collections.abc import Callable

import jax

from fedrecon.algorithms._base import ServerState
from fedrecon.experiment.distributed.processes import ProcessGroup
from fedrecon.experiment.storage.run_folder import TUNED, RunFolder
from fedrecon.simulation._block_plan import Plan
from fedrecon.simulation._simulation import Simulation

# The share of the expected time of the remaining rounds that may be spent on the search for a better plan.
SHARE = 0.05
# The number of rounds whose time tells how long the remaining ones will take.
MEASURED_ROUNDS = 3
# The factor by which the next candidate has more, or fewer, clients in a block.
_STEP = 4
# A candidate replaces the best plan so far if its round takes less than this share of that plan's time.
_GAIN = 0.95
# The number of shapes of the last candidate.
_MORE_SLOTS = 4


def pays() -> bool:
    """Whether plans differ enough to be measured.

    On a CPU their times differ by an eighth at most. That is not worth the price: a plan that depends on
    measured times makes two runs differ in their last bits.
    """
    return jax.default_backend() != "cpu"


class BlockPlanTuner:
    """Tries other plans after a run's first rounds, if its rounds are so many or so long that it pays.

    The chosen plan, and the round from which on it is used, are written to the run folder, so that a resumed
    run changes its plan at the same round.

    Args:
        simulation: The simulation of the run, whose plan is changed.
        rounds: The number of rounds of the run.
        folder: The run folder; None in all processes but the first, and for a run that keeps nothing.
        processes: The processes of the run, which all use the same plan.
        free: Whether the plan may be changed, because the user has not chosen one; True by default.
    """

    def __init__(
        self,
        simulation: Simulation,
        rounds: int,
        folder: RunFolder | None,
        processes: ProcessGroup,
        free: bool = True,
    ):
        self._simulation, self._rounds, self._folder, self._processes = simulation, rounds, folder, processes
        self._free = free and pays()
        self._last: float | None = None
        self._paces: list[float] = []
        self._saved = processes.tell(None if folder is None else folder.read_json(TUNED))

    def resume(self, done: int) -> None:
        """Prepares the tuner; is called before the first round of this process.

        Args:
            done: The number of rounds that earlier processes have done.
        """
        # Only the start of a run is measured: in a resumed run the bits would depend on when it was killed.
        self._free = self._free and self._saved is None and done == 0
        if self._saved is not None and done >= self._saved["from_round"]:
            self._use_saved()

    def after(self, number: int, state: ServerState, compilation: float, quiet: bool = True) -> None:
        """Is called after every round but the last; chooses the plan once enough rounds were measured.

        Args:
            number: The number of rounds done.
            state: The server's state after the round.
            compilation: Seconds that this process has spent on compiling so far.
            quiet: Whether nothing else computes beside the rounds, which would spoil the measurement; True by
                default.
        """
        if self._saved is not None and number == self._saved["from_round"]:
            self._use_saved()
        if not self._free or not quiet:
            return
        jax.block_until_ready(state)
        now = time.monotonic()
        if self._last is not None:
            self._paces.append(now - self._last)
        self._last = now
        if len(self._paces) == MEASURED_ROUNDS:
            self._free = False
            self._decide(number, state, compilation)

    def _use_saved(self) -> None:
        assert self._saved is not None
        self._simulation.use(Plan.from_json(json.dumps(self._saved["slots"])))

    def _decide(self, number: int, state: ServerState, compilation: float) -> None:
        simulation, present = self._simulation, self._simulation.plan
        budget = SHARE * min(self._paces) * (self._rounds - number)
        # All processes go by the times of the first one: otherwise they would choose different plans.
        budget, compilation = self._processes.tell([budget, compilation])

        def measure(plan: Plan) -> tuple[float, float]:
            started = time.monotonic()
            if plan != simulation.plan:
                simulation.use(plan)
            seconds = self._seconds(state)
            seconds, spent = self._processes.tell([seconds, time.monotonic() - started])
            return seconds, spent

        chosen = search(present, simulation.plan_of, measure, budget, compilation)
        if chosen != simulation.plan:
            simulation.use(chosen)
        if chosen == present:
            return
        self._saved = {"from_round": number, "slots": [slot._asdict() for slot in chosen.slots]}
        if self._folder is not None:
            self._folder.write_json(TUNED, self._saved)

    def _seconds(self, state: ServerState) -> float:
        """Seconds of the next round under the present plan; infinite if there is not enough memory for it."""
        try:
            seconds = self._simulation.seconds(state)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            seconds = math.inf
        return seconds if self._processes.all(seconds < math.inf) else math.inf


def search(
    present: Plan,
    plan_of: Callable[[int, int], Plan],
    measure: Callable[[Plan], tuple[float, float]],
    budget: float,
    compilation: float,
) -> Plan:
    """The fastest of several plans, measured within a budget of seconds.

    Wider blocks are tried first, then narrower ones if these were no faster, and then more shapes.

    Args:
        present: The plan to compare with.
        plan_of: Makes a plan of a number of vectorised clients and of a limit on the number of shapes.
        measure: Measures a plan: returns the seconds of its round, infinite if it cannot be computed, and the
            seconds that the measurement took.
        budget: Seconds for all measurements. Nothing is measured if they do not suffice for one other plan.
        compilation: Seconds that the compilation of a plan is expected to take.
    """
    if budget < compilation:
        return present
    best, (least, spent) = present, measure(present)
    seen, width, cost, slots = {present}, max(slot.clients for slot in present.slots), compilation, 2

    def better(plan: Plan) -> bool:
        nonlocal best, least, spent, cost
        if plan in seen or spent + cost > budget:
            return False
        seen.add(plan)
        seconds, taken = measure(plan)
        spent, cost = spent + taken, max(cost, taken)
        # This also holds where neither plan can be computed, and both times are infinite.
        if seconds >= _GAIN * least:
            return False
        best, least = plan, seconds
        return True

    start = width
    while better(plan_of(width * _STEP, slots)):
        width *= _STEP
    while width <= start and width > 1 and better(plan_of(max(width // _STEP, 1), slots)):
        width = max(width // _STEP, 1)
    better(plan_of(width, _MORE_SLOTS))
    return best
