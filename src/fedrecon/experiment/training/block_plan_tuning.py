"""The plan of a long run on an accelerator, chosen by measurement."""

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

# The share of what the rounds that are left take that may be spent on looking for a better plan.
SHARE = 0.05
WATCHED = 3  # rounds whose pace tells what those that are left take
_STEP, _GAIN = 4, 0.95  # candidates are so many times wider or narrower, and better if they take this share
_MORE_SLOTS = 4


def pays() -> bool:
    """Whether plans differ enough to be measured.

    On a CPU they do not: by an eighth at most, for which no two runs should differ in their last bits.
    """
    return jax.default_backend() != "cpu"


class BlockPlanTuner:
    """Tries other plans after a run's first rounds, where its rounds are so many or so long that it pays.

    What it chooses, and from which round on, is written to the run folder, and a resume does the same.

    Args:
        simulation: Of the run.
        rounds: Of the run.
        folder: Of the run; None for nowhere.
        processes: The processes that run it together.
        free: Whether nobody has chosen the plan.
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
        saved = processes.tell(None if folder is None else folder.read(TUNED))
        self._saved = None if saved is None else json.loads(saved)

    def resume(self, done: int) -> None:
        """The run goes on after so many rounds."""
        self._free = self._free and self._saved is None and done == 0
        if self._saved is not None and done >= self._saved["from_round"]:
            self._use_saved()

    def after(self, number: int, state: ServerState, compilation: float, quiet: bool = True) -> None:
        """A round is done.

        Args:
            number: Its number.
            state: The server's.
            compilation: Seconds that the round's programs took to compile.
            quiet: Whether nothing else computes, which would spoil the measurement.
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
        if len(self._paces) == WATCHED:
            self._free = False
            self._decide(number, state, compilation)

    def _use_saved(self) -> None:
        assert self._saved is not None
        self._simulation.use(Plan.from_json(json.dumps(self._saved["slots"])))

    def _decide(self, number: int, state: ServerState, compilation: float) -> None:
        simulation, present = self._simulation, self._simulation.plan
        budget = SHARE * min(self._paces) * (self._rounds - number)
        budget, compilation = self._processes.tell([budget, compilation])

        def measure(plan: Plan) -> tuple[float, float]:
            started = time.monotonic()
            if plan != simulation.plan:
                simulation.use(plan)
            seconds = self._seconds(state)
            found = self._processes.tell([seconds, time.monotonic() - started])
            return found[0], found[1]

        chosen = search(present, simulation.plan_of, measure, budget, compilation)
        if chosen != simulation.plan:
            simulation.use(chosen)
        if chosen == present:
            return
        self._saved = {"from_round": number, "slots": [slot._asdict() for slot in chosen.slots]}
        if self._folder is not None:
            self._folder.write_json(TUNED, self._saved)

    def _seconds(self, state: ServerState) -> float:
        """Of the next round under the present plan; infinite where that wants more memory than there is."""
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
    """The quickest plan that is found in some seconds: wider ones, else narrower ones, then more shapes.

    Args:
        present: The plan to compare with.
        plan_of: From clients side by side and the most shapes to a plan.
        measure: From a plan to the seconds of its round, infinite if it cannot be computed, and the seconds
            that it took to find that out.
        budget: Seconds. Nothing is measured if they do not suffice for one other plan.
        compilation: Seconds that a plan is expected to take to be compiled.
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
        if seconds >= _GAIN * least:  # also where neither can be computed
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
