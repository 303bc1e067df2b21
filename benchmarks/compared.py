"""The library's round and other ways to run it, timed in turn in one process, and their ratios."""

from benchmarks import timing
from benchmarks.library_round import padding, slots
from benchmarks.options import Row
from fedrecon import Simulation
from fedrecon.experiment.storage.resource_usage import peak_memory

LIBRARY = "the library"


class Comparison:
    """Rounds of the library and, one after the other, the ways they are compared with.

    Each is warmed up when it comes, so that the peak memory noted then is that of the ways so far.

    Args:
        simulation: The library's rounds.
        warm_up: Rounds of each way before any is timed.
        at_a_time: Rounds of the library beside one of another way, where those take far longer.
    """

    def __init__(self, simulation: Simulation, warm_up: int = 1, at_a_time: int = 1):
        self._simulation, self._warm_up = simulation, warm_up
        self._rounds = timing.Rounds(simulation)
        self._ways: dict[str, timing.Way] = {}
        self._notes: dict[str, str] = {}
        self.add(LIBRARY, lambda count: self._rounds.time(count * at_a_time))

    def add(self, name: str, way: timing.Way, note: str = "") -> None:
        """Adds a way, and what a reader should know of it."""
        way(self._warm_up)
        self._ways[name] = way
        peak = f"peak memory up to this way {_megabytes():.0f} MB"
        self._notes[name] = f"{note}; {peak}" if note else peak

    def rows(self, rounds: int, chunks: int) -> list[Row]:
        """Times so many rounds of each in so many chunks: the table's lines."""
        found = timing.in_turn(self._ways, rounds, chunks)
        ours = found[LIBRARY]
        lines = []
        for name, timed in found.items():
            note = f"{timing.work(timed):,.1f} ms of CPU; {self._notes[name]}"
            lines.append(Row(name, timing.milliseconds(timed), "ms", note))
            if name != LIBRARY:
                by_wall = timing.milliseconds(timed) / timing.milliseconds(ours)
                lines.append(Row(f"  {name} over {LIBRARY}", by_wall, "x", "medians of wall time"))
                by_work = timing.work(timed) / timing.work(ours)
                lines.append(Row(f"  {name} over {LIBRARY}, in CPU time", by_work, "x"))
        simulation = self._simulation
        free = 100 * padding(simulation, self._rounds.done)
        said = f"of {LIBRARY}'s rounds; slots {slots(simulation)}"
        return [
            *lines,
            Row("compilations", simulation.compilations, "", said),
            Row("padding", free, "%", f"of the examples that {LIBRARY} lays out in blocks"),
            Row("peak memory", _megabytes(), "MB", "of this process, all ways included"),
        ]


def _megabytes() -> float:
    return (peak_memory() or 0) / 1e6
