"""A round of a deployment over Flower's processes, beside a round of Flower that computes nothing.

    pip install -c constraints-flower.txt '.[flower,privacy,benchmarks]'
    python -m benchmarks.flower_round --nodes 4 --rounds 8        # some minutes

One SuperLink and the same nodes run three apps, one after the other: seven tiny arrays there and back, the
recipe `experiments/movielens.toml`, and the tiny arrays again. All of their messages pass a socket that
counts bytes. The first rounds of each are left out: they compile, and Flower sends its app.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import recipe, table
from benchmarks.counting_proxy import CountingProxy
from benchmarks.options import Options, Row, positive
from fedrecon.experiment.config import Config, load
from fedrecon.experiment.deploying.flower_app import experiment_of, write_app
from fedrecon.experiment.deploying.flower_processes import (
    environment_for,
    follow_run,
    start_run,
    start_superlink,
    start_supernode,
    start_worker,
    wait_until,
)
from fedrecon.experiment.deploying.local import NODE, SERVER, LocalDeployment, work_folder
from fedrecon.experiment.deploying.processes import Processes, free_ports
from fedrecon.experiment.training.build import spec_of, task_of
from fedrecon.simulation import Simulation

# Rounds at the start of a run that are left out.
WARM = 2
RECIPE = Path(__file__).parents[1] / "experiments" / "movielens.toml"
ENVELOPE, EXCESS = 4096, 1.05
TIMES = "seconds.json"
_PROJECT = """\
[project]
name = "empty-rounds"
version = "1.0.0"
description = "Rounds that compute nothing"
license = "Apache-2.0"
dependencies = ["flwr>=1.42"]

[tool.flwr.app]
publisher = "fedrecon"

[tool.flwr.app.components]
serverapp = "empty_rounds.server:app"
clientapp = "empty_rounds.client:app"

[tool.flwr.app.config]
folder = ""
"""
_CLIENT = """\
from flwr.app import Message
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message, context):
    return Message(content=message.content, reply_to=message)
"""
# It looks for answers as often as our own server does: the time to notice them is a part of both rounds.
_SERVER = """\
import json
import time
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()


@app.main()
def main(grid, context):
    folder = Path(str(context.run_config["folder"]))
    while len(nodes := list(grid.get_node_ids())) < {nodes}:
        time.sleep({look})
    seconds = []
    for _ in range({rounds}):
        start = time.monotonic()
        arrays = ArrayRecord([np.zeros(3, np.float32) for _ in range(7)])
        sent = [
            Message(content=RecordDict({{"arrays": arrays}}), message_type="train", dst_node_id=node)
            for node in nodes
        ]
        waiting = set(grid.push_messages(sent))
        while True:
            for reply in grid.pull_messages(sorted(waiting)):
                waiting.discard(reply.metadata.reply_to_message_id)
                assert reply.has_content()
            if not waiting:
                break
            time.sleep({look})
        seconds.append(time.monotonic() - start)
        (folder / "{times}").write_text(json.dumps(seconds))
    (folder / "ended").write_text("")
"""


class Rounds(NamedTuple):
    """The rounds of an app that are compared.

    Attributes:
        seconds: The duration of each round, without those at the start.
        bytes: Number of bytes that passed between nodes and SuperLink in these rounds.
    """

    seconds: list[float]
    bytes: int

    @property
    def median(self) -> float:
        """Seconds of the median round."""
        return float(np.median(self.seconds))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser("python -m benchmarks.flower_round", description=__doc__)
    parser.add_argument("--nodes", type=positive, default=4, metavar="N", help="default: 4")
    parser.add_argument("--rounds", type=positive, default=8, metavar="N", help="default: 8, of each app")
    parser.add_argument("--clients-per-round", type=positive, default=100, metavar="N", help="default: 100")
    parser.add_argument("--data", metavar="PATH", help="MovieLens 1M; default: generated data of its shape")
    parser.add_argument("--json", metavar="FILE", help="write the rows there")
    given = parser.parse_args(arguments)
    if given.rounds <= WARM:
        parser.error(f"--rounds must be above the {WARM} that are left out, got {given.rounds}")
    with tempfile.TemporaryDirectory() as name:
        rows = run(Path(name), given.nodes, given.rounds, given.clients_per_round, given.data)
    if given.json:
        Path(given.json).write_text(json.dumps([row._asdict() for row in rows], indent=2) + "\n")
    cells = [[row.what, table.number(row.value or 0), row.unit, row.note] for row in rows]
    table.screen().print(table.grid(cells, ["what", "value", "unit", "note"], right=(1,)))
    return 0


def run(folder: Path, nodes: int, rounds: int, clients_per_round: int, data: str | None) -> list[Row]:
    """Runs the three apps in a federation; returns the rows of the table.

    Args:
        folder: An empty folder for all files.
        nodes: The number of nodes.
        rounds: The number of rounds of each app.
        clients_per_round: The size of a cohort of the recipe.
        data: The path of MovieLens 1M; None for generated data of its shape.
    """
    settings = [f"training.rounds={rounds}", f"training.clients_per_round={clients_per_round}"]
    settings += [f"data.path='{data or _generated(folder / 'ratings.csv')}'", f"evaluation.every={rounds}"]
    write_app(folder / "app", load(str(RECIPE), settings))
    config = experiment_of(folder / "app")
    deployment = LocalDeployment(folder / "app", config, folder / "run", nodes)
    deployment.prepare()
    work = work_folder(folder / "run")
    _write_empty_app(folder / "empty", nodes, rounds)
    with ExitStack() as stack:
        sockets = Path(tempfile.mkdtemp(prefix="fedrecon-"))
        stack.callback(shutil.rmtree, sockets, True)
        processes = stack.enter_context(Processes(folder / "logs", environment_for(folder / "flower")))
        proxy = _start(stack, processes, folder, work, sockets, nodes)
        empty = [_empty_rounds(processes, folder, proxy, rounds)]
        deployed = _deployed_rounds(processes, folder, work / SERVER, proxy, rounds)
        empty.append(_empty_rounds(processes, folder, proxy, rounds))
    predicted = _predicted(config, rounds)
    return _rows(empty, deployed, predicted, nodes)


def _rows(empty: list[Rounds], deployed: Rounds, predicted: int, nodes: int) -> list[Row]:
    without = float(np.median([s for one in empty for s in one.seconds]))
    shown = ", ".join(f"{one.median:.2f}" for one in empty)
    count = len(deployed.seconds)
    # A node gets one message a round, and answers with one.
    allowed = EXCESS * predicted + ENVELOPE * 2 * nodes * count
    idle = int(np.mean([one.bytes for one in empty]))
    return [
        Row("round of seven tiny arrays", without, "s", f"before and after: {shown}; {nodes} nodes"),
        Row("round of the recipe", deployed.median, "s", f"{count} rounds, after {WARM} that compile"),
        Row("  over that of tiny arrays", deployed.median / without, "x", "bound 1.2x"),
        Row("bytes of the rounds on the wire", deployed.bytes, "", f"tiny arrays {idle:,}"),
        Row("  over those of a simulation", deployed.bytes / predicted, "x", f"it predicts {predicted:,}"),
        Row("  over what is allowed", deployed.bytes / allowed, "x", f"{EXCESS}x and {ENVELOPE:,} a message"),
    ]


def _start(
    stack: ExitStack, processes: Processes, folder: Path, work: Path, sockets: Path, nodes: int
) -> CountingProxy:
    """Starts workers, a SuperLink and nodes that reach it through a socket that counts bytes."""
    for number in range(nodes):
        start_worker(processes, f"worker-{number}", work / NODE.format(number), sockets / str(number))
    link, *ports = free_ports(1 + nodes)
    start_superlink(processes, folder / "flower", link, None)
    proxy = stack.enter_context(CountingProxy(link))
    for number, port in enumerate(ports):
        path = sockets / str(number)
        wait_until(path.exists, f"worker {number}", processes)
        start_supernode(processes, f"node-{number}", f"127.0.0.1:{proxy.port}", port, path, None)
    return proxy


def _deployed_rounds(
    processes: Processes, folder: Path, server: Path, proxy: CountingProxy, rounds: int
) -> Rounds:
    lines, counts = [], []

    def note(line: dict[str, Any]) -> None:
        lines.append(line["seconds"])
        counts.append(proxy.count)

    start_run(processes, folder / "app", server)
    follow_run(processes, server, rounds, note, _nothing)
    return Rounds(lines[WARM:], counts[-1] - counts[WARM - 1])


def _empty_rounds(processes: Processes, folder: Path, proxy: CountingProxy, rounds: int) -> Rounds:
    target = folder / "empty-run"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    start_run(processes, folder / "empty", target)
    counts = {0: 0}
    while not (target / "ended").exists():
        done = len(_seconds(target))
        counts.setdefault(done, proxy.count)
        if processes.status("superlink") is not None or processes.status("run"):
            raise RuntimeError(f"{processes.log('run').read_text()}: the empty rounds have ended")
        time.sleep(0.05)
    return Rounds(_seconds(target)[WARM:], proxy.count - counts.get(WARM, counts[0]))


def _seconds(folder: Path) -> list[float]:
    try:
        found: list[float] = json.loads((folder / TIMES).read_text())
    except (OSError, ValueError):  # it is not there yet, or is being written
        return []
    return found


def _predicted(config: Config, rounds: int) -> int:
    """The bytes that a simulation predicts for the rounds that are compared, requests included."""
    spec = spec_of(config, task_of(config))
    simulation = Simulation(spec.algorithm, spec.clients, spec.sampling, seed=spec.seed)
    sizes = [
        one.request_bytes + one.bytes_down + one.bytes_up
        for one in simulation.rounds(simulation.init(), rounds)
    ]
    return int(sum(sizes[WARM:]))


def _write_empty_app(folder: Path, nodes: int, rounds: int) -> None:
    from fedrecon.experiment.deploying.flower_server import _LOOK

    package = folder / "empty_rounds"
    package.mkdir(parents=True)
    (folder / "pyproject.toml").write_text(_PROJECT)
    (package / "__init__.py").write_text("")
    (package / "client.py").write_text(_CLIENT)
    (package / "server.py").write_text(_SERVER.format(nodes=nodes, rounds=rounds, look=_LOOK, times=TIMES))


def _generated(path: Path) -> Path:
    """Generated ratings of MovieLens 1M's shape, as a file."""
    options = Options()
    from fedrecon.datasets.ratings import synthetic

    clients, _ = synthetic(options.clients, options.items, seed=recipe.SEED)
    owners, item, rating = clients.owners(), clients.column("item"), clients.column("rating")
    with open(path, "w", encoding="utf-8") as file:
        file.write("userId,movieId,rating,timestamp\n")
        for time_, (user, i, r) in enumerate(zip(owners, item, rating, strict=True)):
            file.write(f"{user},{i},{r},{time_}\n")
    return path


def _nothing() -> None:
    return


if __name__ == "__main__":
    sys.exit(main())
