"""What a run shows while it works: a live line on a terminal, and a line per evaluation."""

import math
import sys
import time
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from fedrecon._safe_text import terminal
from fedrecon.evaluation._metric_names import shown_first
from fedrecon.experiment.storage.metrics_log import COUNTS
from fedrecon.privacy._ledger import rounded_up

if TYPE_CHECKING:
    from rich.console import Console

    from fedrecon.evaluation._evaluation import Evaluation


@runtime_checkable
class EvaluatedRound(Protocol):
    """The part of an evaluated round that the screen shows; `Evaluated` has it, and describes it."""

    @property
    def round(self) -> int: ...
    @property
    def rounds(self) -> int: ...
    @property
    def training(self) -> Mapping[str, float]: ...
    @property
    def evaluations(self) -> "Mapping[str, Evaluation]": ...


class Progress:
    """Receives a call for everything that happens in a run, and shows nothing; subclasses show something."""

    def start(self, done: int, rounds: int) -> None:
        """Is called when the rounds begin.

        Args:
            done: Rounds that were done before, by an earlier process.
            rounds: Rounds of the run, those done before included.
        """

    def round(self, number: int, loss: float) -> None:
        """Is called when the metrics of a round have arrived from the device, in the order of the rounds.

        Args:
            number: The number of the round, from 1.
            loss: Mean loss over the query examples of the round's cohort; NaN for a private algorithm.
        """

    def evaluated(self, evaluated: EvaluatedRound) -> None:
        """Is called after an evaluation.

        Args:
            evaluated: The evaluated round, as callbacks get it.
        """

    def note(self, text: str) -> None:
        """Is called with any other line of text that the user should read."""

    def close(self) -> None:
        """Is called once, when the run is over."""

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Pace:
    """Measures rounds per second over the last `WINDOW` seconds, and estimates the time left.

    The first round does not count, since it includes compilation.
    """

    WINDOW = 15.0

    def __init__(self) -> None:
        self._seen: deque[tuple[int, float]] = deque()

    def at(self, number: int, rounds: int) -> tuple[float | None, float | None]:
        """Rounds per second, and seconds left; None for both before the second round.

        Args:
            number: The number of the round that is done.
            rounds: The number of rounds of the run.
        """
        now = time.monotonic()
        if not self._seen or number > self._seen[-1][0]:
            self._seen.append((number, now))
        while len(self._seen) > 2 and now - self._seen[1][1] > self.WINDOW:
            self._seen.popleft()
        first, start = self._seen[0]
        if number == first or now <= start:
            return None, None
        speed = (number - first) / (now - start)
        return speed, (rounds - number) / speed


def describe(evaluated: EvaluatedRound, pace: Pace) -> str:
    """One line about an evaluation: round, loss, the first two metrics of every set, speed and time left.

    Where clients of a set are too short to be evaluated, the line tells how many were, of how many. Where no
    set is evaluated, the first two metrics of the training clients take their place.
    """
    width = len(str(evaluated.rounds))
    parts = [f"round {evaluated.round:{width}d}/{evaluated.rounds}", progress_of(evaluated.training)]
    if evaluated.training.get("dropped", 0) > 0:
        parts.append(f"{evaluated.training['dropped']:.1%} of the updates dropped")
    parts += first_metrics(evaluated)
    speed, left = pace.at(evaluated.round, evaluated.rounds)
    if speed is not None and left is not None:
        parts += [pace_of(speed), f"{duration(left)} left"]
    return "  ".join(parts)


def first_metrics(evaluated: EvaluatedRound) -> list[str]:
    """The first two metrics of every evaluated set as text: `["validation rmse 0.9123 accuracy 0.4312"]`.

    Where no set is evaluated, those that the update phase measured of the training clients, if there are any.
    """
    if not evaluated.evaluations:
        counts = {"loss", "epsilon", *COUNTS}
        training = {m: x for m, x in evaluated.training.items() if m not in counts}
        return [_first_two("training", training)] if training else []
    parts = []
    for name, evaluation in evaluated.evaluations.items():
        summary = evaluation.summary()
        if summary["examples"]:
            parts.append(_first_two(name, summary["examples"]))
            if summary["evaluated_clients"] < summary["asked_clients"]:
                parts[-1] += f" ({summary['evaluated_clients']:,} of {summary['asked_clients']:,} clients)"
    return parts


def _first_two(name: str, metrics: Mapping[str, float]) -> str:
    return " ".join([name, *(f"{m} {figure(metrics[m])}" for m in shown_first(metrics)[:2])])


def progress_of(training: Mapping[str, float]) -> str:
    """The training loss; of a private algorithm, which shows no loss, epsilon so far."""
    if "epsilon" in training:
        return f"epsilon {rounded_up(training['epsilon'])}"
    return f"loss {figure(training.get('loss', math.nan))}"


def figure(value: float) -> str:
    """A loss or a metric as text: `"0.9123"`, and `"3.141e+32"` where training diverges."""
    return f"{value:.3e}" if 1e6 <= abs(value) < math.inf else f"{value:.4f}"


def pace_of(speed: float) -> str:
    """A speed in rounds per second as text: `"12.3 rounds/s"`, or `"8.1 s a round"`."""
    return f"{speed:.1f} rounds/s" if speed >= 1 else f"{1 / speed:.1f} s a round"


def duration(seconds: float) -> str:
    """A duration in seconds as text: `"1 h 05 min"`, `"2 min 03 s"`, `"45 s"`."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


class Lines(Progress):
    """Prints a line for each evaluation, for logs.

    Args:
        file: The text file to print to; by default the standard output.
    """

    def __init__(self, file: Any = None):
        self._file = file
        self._pace = Pace()

    def round(self, number: int, loss: float) -> None:
        self._pace.at(number, number)

    def evaluated(self, evaluated: EvaluatedRound) -> None:
        self.note(describe(evaluated, self._pace))

    def note(self, text: str) -> None:
        print(terminal(text), file=self._file or sys.stdout, flush=True)


class LiveLine:
    """The text beside a bar: loss or epsilon, the first metrics of the last evaluation, speed and time left.

    Args:
        pace: The measure of the rounds' speed and of the time left.

    Attributes:
        rounds: Rounds of the run; 0 before it starts.
    """

    def __init__(self, pace: Pace):
        self._pace = pace
        self._metrics, self._epsilon, self.rounds = "", "", 0

    def round(self, number: int, loss: float) -> str:
        """The text after a round, see `Progress.round`."""
        speed, left = self._pace.at(number, self.rounds)
        numbers = [self._epsilon or f"loss {figure(loss)}", self._metrics]
        if speed is not None and left is not None:
            numbers += [pace_of(speed), f"{duration(left)} left"]
        return terminal("  ".join(x for x in numbers if x))

    def evaluated(self, evaluated: EvaluatedRound) -> None:
        """Notes the metrics of an evaluation; of several sets those of the first."""
        self._metrics = "".join(first_metrics(evaluated)[:1])
        if "epsilon" in evaluated.training:
            self._epsilon = progress_of(evaluated.training)


class Live(Progress):
    """Shows a bar with rounds, loss, first metrics, speed and time left, and above it a line per evaluation.

    Args:
        console: The terminal.
    """

    def __init__(self, console: "Console"):
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Bar

        self._pace = Pace()
        self._line = LiveLine(self._pace)
        self._bar = Bar(
            TextColumn("rounds"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}", markup=False),
            console=console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task: Any = None

    def start(self, done: int, rounds: int) -> None:
        self._line.rounds = rounds
        self._task = self._bar.add_task("", total=rounds, completed=done, numbers="compiling …")
        self._bar.start()

    def round(self, number: int, loss: float) -> None:
        self._bar.update(self._task, completed=number, numbers=self._line.round(number, loss))

    def evaluated(self, evaluated: EvaluatedRound) -> None:
        self._line.evaluated(evaluated)
        self.note(describe(evaluated, self._pace))

    def note(self, text: str) -> None:
        self._bar.console.print(terminal(text), highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        self._bar.stop()


def progress_for(console: "Console") -> Progress:
    """What shows a run's progress: a live bar on a terminal, lines elsewhere, nothing on a quiet console."""
    if console.quiet:
        return Progress()
    return Live(console) if console.is_terminal else Lines(console.file)
