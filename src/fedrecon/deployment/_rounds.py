"""The rounds of a deployment, over whatever carries its messages."""

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from fedrecon._files import make_folder, write_atomically
from fedrecon.core._mean import Mean
from fedrecon.deployment._endpoint import Endpoint
from fedrecon.deployment._server import Outcome
from fedrecon.errors import RunError

STATE, LOG, ANSWERED = "server.state", "rounds.jsonl", "answered.jsonl"


@runtime_checkable
class Transport(Protocol):
    """Carries messages between a server and the nodes of its clients."""

    def exchange(self, messages: Sequence[tuple[Any, bytes]], seconds: float) -> Iterator[bytes]:
        """Sends each message to the node of its client, and yields what nodes send back.

        Answers come in the order in which they arrive, those to earlier messages too, until all messages are
        answered or the time is over. That a node cannot be reached is no error: it does not answer.

        Args:
            messages: Pairs of a client's name and what it gets.
            seconds: Until when answers are waited for.
        """


class RoundRecord(NamedTuple):
    """A line of `rounds.jsonl`; see `Outcome` for what it has of that."""

    outcome: Outcome
    bytes_down: int
    bytes_up: int
    seconds: float

    def line(self) -> dict[str, Any]:
        """As JSON values."""
        fields = ("round", "attempt", "released", "asked", "answered", "late")
        values = {name: getattr(self.outcome, name) for name in fields}
        values["refused"] = dict(self.outcome.refused)
        sizes = {"bytes_down": self.bytes_down, "bytes_up": self.bytes_up}
        return {**values, **sizes, "seconds": round(self.seconds, 6)}

    def metrics(self) -> dict[str, Mean]:
        """Means over the answers."""
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
) -> Iterator[RoundRecord]:
    """Runs rounds until so many are done, each on the disk before the next one begins.

    Where the folder has the state of an earlier process, it goes on from there, with the same numbers.

    Args:
        endpoint: Of the server.
        transport: Carries the messages.
        rounds: How many are to be done, those of earlier processes included.
        folder: For the server's state and `rounds.jsonl`.
        seconds: A round's deadline: who has not answered then is left out of it.
        max_attempts: How often a round is begun before it is given up.
        note_clients: Whether `answered.jsonl` gets the names of the clients that each round counted.

    Raises:
        DataError: The state in the folder is not whole, or of another run.
        OSError: The state cannot be written; it is then as it was after the round before.
        RunError: A round was begun `max_attempts` times without enough answers.
    """
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
        # Who did not say which rows it needs is not there.
        sent = [(client, endpoint.broadcast(client)) for client in cohort if endpoint.knows(client)]
        if sent:
            for data in transport.exchange(sent, end - time.monotonic()):
                endpoint.receive(data)
        outcome, down, up = endpoint.step()
        record = RoundRecord(outcome, down, up, time.monotonic() - started)
        # Before the state: a line whose round then comes again is taken out by whoever goes on.
        _append(folder / LOG, record.line())
        if note_clients and outcome.released:
            _append(folder / ANSWERED, {"round": outcome.round, "clients": list(outcome.clients)})
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


def _append(path: Path, line: dict[str, Any]) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _cut(path: Path, round: int) -> None:
    """Takes out what a process wrote of rounds that its state does not have, a line cut short among it."""
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
