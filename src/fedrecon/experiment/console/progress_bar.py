"""How far a long job is."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from fedrecon.experiment.console.progress import duration

_EVERY = 5.0  # seconds between two lines where there is no terminal


@contextmanager
def counted(screen: Console, what: str, total: int, done: int = 0) -> Iterator[Any]:
    """Shows how far a long job is: a bar on a terminal, a line now and then elsewhere.

    Args:
        screen: Where.
        what: Is counted.
        total: How many there are.
        done: How many of them are there already.

    Yields:
        A function that is told of so many more.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if screen.is_terminal:
        shown = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*shown, console=screen, transient=True) as bar:
            task = bar.add_task("", total=total, completed=done)
            yield lambda more: bar.advance(task, more)
        return
    begun, last, first = time.monotonic(), time.monotonic(), done

    def tell(more: int) -> None:
        nonlocal done, last
        done, now = done + more, time.monotonic()
        if now - last > _EVERY and done < total:
            speed, last = (done - first) / (now - begun), now
            left = duration((total - done) / speed)
            screen.print(f"{done:,} of {total:,} {what}  {speed:,.0f} per second  {left} left")

    yield tell
