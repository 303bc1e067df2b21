"""The rounds of a deployment, over any transport."""

import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from fedrecon._files import make_folder, write_atomically
from fedrecon.core._mean import Mean
from fedrecon.deployment._endpoint import Endpoint
from fedrecon.deployment._refusals import RefusedError
from fedrecon.deployment._server import Outcome
from fedrecon.deployment._wire import decode
from fedrecon.errors import DataError, RunError, whole_number

STATE, LOG, ANSWERED = "server.state", "rounds.jsonl", "answered.jsonl"


@runtime_checkable
class Transport(Protocol):
    """Carries messages between a server and the nodes of its clients."""

    def exchange(self, messages: Sequence[tuple[Any, bytes]], seconds: float) -> Iterator[bytes]:
        """Sends each message to the node of its client, and yields the nodes' answers.

        Answers are yielded as they arrive, late answers to earlier messages included, until all messages are
        answered or the time is over. The caller may stop earlier; the next call then yields what has come by
        then and was not yielded. A node that cannot be reached is not an error: it does not answer.

        Args:
            messages: Pairs of a client's name and the bytes of its message.
            seconds: The longest time to wait for answers, in seconds.
        """


class RoundRecord(NamedTuple):
    """The record of one attempt at a round, a line of `rounds.jsonl`.

    Attributes:
        outcome: The way in which the attempt ended.
        bytes_down: Number of bytes sent to clients in the attempt.
        bytes_up: Number of bytes received from clients in the attempt.
        seconds: Duration of the attempt in seconds.
    """

    outcome: Outcome
    bytes_down: int
    bytes_up: int
    seconds: float

    def line(self) -> dict[str, Any]:
        """The record as JSON values, as a line of `rounds.jsonl` has them."""
        fields = ("round", "attempt", "released", "asked", "answered", "late")
        values = {name: getattr(self.outcome, name) for name in fields}
        values["stale"] = len(self.outcome.stale)
        values["refused"] = dict(self.outcome.refused)
        sizes = {"bytes_down": self.bytes_down, "bytes_up": self.bytes_up}
        return {**values, **sizes, "seconds": round(self.seconds, 6)}

    def metrics(self) -> dict[str, Mean]:
        """Means of the training metrics over the clients that answered."""
        return dict(self.outcome.metrics)


def run_rounds(
    endpoint: Endpoint,
    transport: Transport,
    rounds: int,
    folder: Path,
    *,
    seconds: float = 600.0,
    max_attempts: int = 10,
    note_clients: bool = False,
    enough_answers: int | None = None,
) -> Iterator[RoundRecord]:
    """Runs rounds until a number of them is done; each is on the disk before the next one begins.

    If the folder holds the state of an earlier process, the rounds continue from there as if that process
    had gone on.

    Args:
        endpoint: The endpoint of the server.
        transport: Carries the messages between the server and the nodes.
        rounds: Number of rounds to have done at the end, those of earlier processes included.
        folder: The folder of the server's state and of `rounds.jsonl`; created where it does not exist.
        seconds: Deadline of a round in seconds; a client that has not answered by then is left out of it; 600
            by default.
        max_attempts: The number of attempts that a round gets before this raises an error; 10 by default.
        note_clients: Whether the names of the clients that each round counted are written to
            `answered.jsonl`; False by default.
        enough_answers: The number of counted updates of a round's own cohort at which the round ends before
            its deadline; None, the default, to wait for the whole cohort. Answers that come afterwards are
            late.

    Raises:
        ValueError: `enough_answers` is below 1.
        DataError: The state in the folder is damaged, or of another run.
        OSError: The state cannot be written; the file then still holds the state after the round before.
        RunError: A round had `max_attempts` attempts without enough answers.
    """
    enough = math.inf if enough_answers is None else whole_number("enough_answers", enough_answers, 1)
    make_folder(folder)
    server, state = endpoint.server, folder / STATE
    if state.exists():
        server.restore(state)
    else:
        server.checkpoint(state)
    endpoint.checkpointed()
    names = (LOG, ANSWERED) if note_clients else (LOG,)
    for name in names:
        _cut(folder / name, server.round)
    begun = 0
    while server.round < rounds:
        begun += 1
        started = time.monotonic()
        end = started + seconds
        cohort = server.cohort()
        asked = [(client, endpoint.ask(client)) for client in cohort if not endpoint.knows(client)]
        if asked:
            for data in transport.exchange(asked, seconds):
                endpoint.receive(data)
        # A client that did not answer which rows it needs is unreachable, and gets no broadcast.
        sent = [(client, endpoint.broadcast(client)) for client in cohort if endpoint.knows(client)]
        if sent:
            for data in transport.exchange(sent, end - time.monotonic()):
                endpoint.receive(data)
                if len(server.answered) >= enough:
                    break
        outcome, down, up = endpoint.step()
        record = RoundRecord(outcome, down, up, time.monotonic() - started)
        # The line is written before the state. After a kill between the two, the round is computed again and
        # `_cut` removes its line; in the other order the line of a released round could be missing for good.
        _append(folder / LOG, record.line())
        if note_clients and outcome.released:
            stale = {"stale": [list(pair) for pair in outcome.stale]} if outcome.stale else {}
            _append(folder / ANSWERED, {"round": outcome.round, "clients": list(outcome.clients), **stale})
        if outcome.released:
            server.checkpoint(state)
            endpoint.checkpointed()
            begun = 0
        yield record
        if begun == max_attempts:
            raise RunError(
                f"round {server.round} was begun {begun} times, and never had the answers that it needs; "
                f"the last time {outcome.answered} of {outcome.asked} clients answered"
            )


def read_log(path: Path) -> list[dict[str, Any]]:
    """The values of the whole lines of `rounds.jsonl`; none without the file.

    A last line that another process is writing, or that its end cut short, is left out.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def rounds_done(state: Path) -> int:
    """The number of rounds that a saved state of a server has; 0 without the file.

    Raises:
        DataError: The file is damaged.
    """
    if not state.exists():
        return 0
    try:
        return decode(state.read_bytes(), max_bytes=2**63).round
    except RefusedError as error:
        raise DataError(f"{state}: this checkpoint cannot be used: {error}") from None


def _append(path: Path, line: dict[str, Any]) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _cut(path: Path, round: int) -> None:
    """Removes the lines of rounds that the saved state does not have, and a line that a kill cut short."""
    if not path.exists():
        return
    kept = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if line["round"] < round or not line.get("released", True):
            kept.append(text + "\n")
    write_atomically(path, "".join(kept))
