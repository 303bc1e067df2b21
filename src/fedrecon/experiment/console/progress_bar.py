"""Shows how much of a long job is done."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from fedrecon.experiment.console.progress import duration

# Seconds between two lines where there is no terminal.
_EVERY = 5.0


@contextmanager
def show_progress(screen: Console, what: str, total: int, done: int = 0) -> Iterator[Any]:
    """Shows how much of a long job is done: a bar on a terminal, a line every few seconds elsewhere.

    Args:
        screen: The console that shows it.
        what: The name of what is counted, in the plural, for instance `"clients"`.
        total: The number of things to do.
        done: The number of things that were done before; 0 by default.

    Yields:
        A function to call with the number that was done since its last call.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if screen.is_terminal:
        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=screen, transient=True) as bar:
            task = bar.add_task("", total=total, completed=done)
            yield lambda count: bar.advance(task, count)
        return
    begun, last, first = time.monotonic(), time.monotonic(), done

    def advance(count: int) -> None:
        nonlocal done, last
        done, now = done + count, time.monotonic()
        if now - last > _EVERY and done < total:
            speed, last = (done - first) / (now - begun), now
            left = duration((total - done) / speed)
            screen.print(f"{done:,} of {total:,} {what}  {speed:,.0f} per second  {left} left")

    yield advance
