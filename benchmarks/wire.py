"""A deployment's messages: what an update takes to encode and decode, and the bytes of whole rounds."""

import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pyarrow as pa

from benchmarks import recipe
from benchmarks.options import Options, Row
from benchmarks.timing import Timed, in_turn, milliseconds, timed, work
from fedrecon import Mean, Uniform
from fedrecon.algorithms import Update
from fedrecon.deployment import Endpoint, Node, Server, Store, run_rounds
from fedrecon.deployment._messages import Address, update_from, update_message
from fedrecon.deployment._wire import decode, encode

# Rows of the item table in a client's update: a user of MovieLens, and a large part of a large catalogue.
ROWS = (100, 20_000)
REPEATS, CHUNKS = 400, 20
ROUNDS = 10
# Bytes that a message may have beside 1.05 times its arrays.
ENVELOPE, EXCESS = 4096, 1.05


class Direct:
    """A transport that calls the node where it is, and counts messages.

    Attributes:
        messages: Number of messages in both directions.
    """

    def __init__(self, node: Node):
        self._node, self.messages = node, 0

    def exchange(self, messages: Sequence[tuple[Any, bytes]], seconds: float) -> Iterator[bytes]:
        """The answer to each message."""
        for _, data in messages:
            self.messages += 2
            yield self._node.handle(data)


def run(options: Options) -> list[Row]:
    """The rows of the table."""
    return [*_times(options), *_sizes(options)]


def _times(options: Options) -> list[Row]:
    rows = []
    for count in ROWS:
        ours, arrow = _ways(count)
        repeats = options.rounds or REPEATS
        for call in (ours, arrow):
            call()
        found = in_turn({"ours": _repeated(ours), "arrow": _repeated(arrow)}, repeats, CHUNKS)
        here, there = found["ours"], found["arrow"]
        note = f"{work(here) / work(there):.2f}x in CPU time; Arrow {milliseconds(there) * 1e3:.0f} µs"
        rows += [
            Row(f"update of {count:,} rows, there and back", milliseconds(here) * 1e3, "µs"),
            Row("  over Arrow IPC and CRC-32", milliseconds(here) / milliseconds(there), "x", note),
        ]
    return rows


def _repeated(call: Callable[[], None]) -> Callable[[int], Timed]:
    return lambda count: timed(call, count)


def _ways(count: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """An update there and back as a message, and its arrays by Arrow IPC with a CRC-32 on both sides."""
    draw = np.random.default_rng(recipe.SEED)
    ids = np.sort(draw.choice(2 * count, count, replace=False)).astype(np.int32)
    params = {"item": {"factors": draw.normal(size=(count, recipe.FACTORS)).astype(np.float32)}}
    metrics = {name: Mean(jnp.float32(2), jnp.float32(3)) for name in ("loss", "mse", "accuracy")}
    update = Update(Mean(params, jnp.float32(80)), {"item/factors": ids}, metrics)
    address = Address("benchmark", 3, 0, "a client")
    arrays = update_message(address, update).arrays

    def ours() -> None:
        update_from(decode(encode(update_message(address, update))), params)

    def arrow() -> None:
        data = _written(arrays)
        check = zlib.crc32(data)
        table = pa.ipc.open_stream(data).read_all()
        for name in table.column_names:
            table.column(name).chunk(0).values.to_numpy()
        if check != zlib.crc32(data):
            raise RuntimeError("Arrow's bytes have changed")

    return ours, arrow


def _written(arrays: Mapping[str, np.ndarray]) -> pa.Buffer:
    """The arrays as Arrow's stream, each a list in its column, with no copy but that to the stream."""
    columns = {}
    for name, x in arrays.items():
        flat = pa.array(np.reshape(x, -1))
        columns[name] = pa.ListArray.from_arrays(np.array([0, len(flat)], np.int32), flat)
    batch = pa.record_batch(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def _sizes(options: Options) -> list[Row]:
    """The bytes of rounds as messages, beside those that a simulation of the same rounds predicts."""
    clients = recipe.training_clients(options)
    simulation = recipe.simulation(clients, options.clients_per_round)
    rounds = options.rounds or ROUNDS
    predicted = sum(
        one.request_bytes + one.bytes_down + one.bytes_up
        for one in simulation.rounds(simulation.init(), rounds)
    )
    algorithm, sampling = simulation.algorithm, Uniform(options.clients_per_round)
    server = Server(algorithm, clients.ids.tolist(), sampling, seed=recipe.SEED)
    node = Node(algorithm, Store(clients), seed=recipe.SEED, vocabularies=clients.vocabularies)
    transport = Direct(node)
    with tempfile.TemporaryDirectory() as name:
        records = list(run_rounds(Endpoint(server), transport, rounds, Path(name)))
    sent = sum(record.bytes_down + record.bytes_up for record in records)
    allowed = EXCESS * predicted + ENVELOPE * transport.messages
    note = f"{transport.messages:,} messages of {rounds} rounds, requests and the questions for them included"
    envelope = (sent - predicted) / transport.messages
    return [
        Row("bytes of rounds as messages", sent, "", note),
        Row("  over those of a simulation", sent / predicted, "x", f"{envelope:.0f} bytes more a message"),
        Row("  over what is allowed", sent / allowed, "x", f"{EXCESS}x and {ENVELOPE:,} bytes a message"),
    ]
