"""Makes run folders of version 0.1.0 in the middle of their training, and the numbers they lead to.

It runs with the code of commit fbc829d and no other, because later code is what the folders are to test:

    git worktree add ../base fbc829d
    PYTHONPATH=../base/src python -m tests.compatibility.make_fixtures tests/compatibility/data

The output folder gets `NAME.tar.xz` and `NAME.json` of every fixture, and `compared.json`. Each run is made
in a process of its own. The stateful one is killed two rounds after its last checkpoint, so that its records
and what its clients keep are ahead of the checkpoint; the others are interrupted as by Ctrl-C, which saves a
checkpoint of the round that was done. No file tells of the machine on which it was made.
"""

import json
import os
import platform
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.compatibility import own_model, uses
from tests.compatibility.measured import fedrecon

import fedrecon as package

COMMIT = "fbc829dc5a08a2e28a89a4985a77847329e61408"
# None of it is compared or read: figures are drawn anew.
LEFT_OUT = ("plots", ".lock")
KILLED = 9

RATINGS = {
    "data.clients": 60,
    "data.items": 40,
    "data.cap": 30,
    "data.fractions.train": 0.6,
    "data.fractions.validation": 0.2,
    "data.fractions.test": 0.2,
    "data.held_out.validation": 0.1,
    "data.held_out.test": 0.2,
    "model.factors": 4,
    "training.rounds": 8,
    "training.clients_per_round": 10,
    "training.clients_per_block": 5,
    "training.checkpoint_every": 2,
    "evaluation.every": 3,
    "evaluation.select": "best",
}
KEEPING = {
    "name": "stateful",
    "algorithm.name": "fedalt",
    "algorithm.reconstruct.epochs": 2,
    "algorithm.reconstruct.optimizer.learning_rate": 0.1,
    "algorithm.update.optimizer.learning_rate": 0.1,
    "training.checkpoint_every": 4,
}
WORDS = {
    "data.sentences": 8,
    "data.words": 8,
    "data.buckets": 3,
    "data.length": 7,
    "data.fractions.train": 0.5,
    "data.fractions.validation": 0.25,
    "data.fractions.test": 0.25,
    "model.network.embedding": 4,
    "model.network.hidden": 5,
    "algorithm.split.batch_size": 2,
    "algorithm.reconstruct.batch_size": 2,
    "algorithm.update.batch_size": 2,
    "evaluation.split.batch_size": 2,
    "evaluation.every": 2,
    "training.rounds": 6,
    "training.clients_per_round": 4,
    "training.clients_per_block": 2,
    "training.checkpoint_every": 2,
}
# After which round, and whether by a kill.
STOPPED = {
    "command_line": (5, False),
    "stateful": (6, True),
    "next_word": (3, False),
    "own_model": (4, False),
}


def main() -> int:
    """Makes all fixtures; with `--begin NAME`, in a process of its own, one run until it is stopped."""
    if sys.argv[1] == "--begin":
        return begin(sys.argv[2])
    root = Path(package.__file__).parent
    revision = subprocess.check_output(["git", "-C", str(root), "rev-parse", "HEAD"], text=True).strip()
    if revision != COMMIT:
        raise SystemExit(f"the fixtures are made with the code of {COMMIT}, this is {revision}")
    out = Path(sys.argv[1]).absolute()
    with tempfile.TemporaryDirectory() as home:
        os.chdir(home)
        os.environ["XDG_CACHE_HOME"] = f"{home}/cache"
        make_clients()
        for name in uses.RUNS:
            make_run(name)
        pack(out)
        numbers(out)
    return 0


def make_run(name: str) -> None:
    """Begins a run in another process, and removes what tells of this machine from what it left."""
    Path(name).mkdir(exist_ok=True)
    if name == "next_word":
        make_texts(Path(uses.TEXTS))
    command = [sys.executable, "-m", "tests.compatibility.make_fixtures", "--begin", name]
    repository = str(Path(__file__).parents[2])
    source = str(Path(package.__file__).parents[1])
    paths = {"PYTHONPATH": os.pathsep.join([source, repository])}
    status = subprocess.run(command, env={**os.environ, **paths}).returncode
    expected = KILLED if STOPPED[name][1] else 0
    assert status == expected, f"{name} ended with {status}"
    config = Path(name, uses.RUN, "config.toml")
    config.write_text(config.read_text().replace(f"{Path.cwd()}/", ""))
    # Of the system its name is enough: which kernel it has is nobody's business.
    environment = Path(name, uses.RUN, "environment.json")
    made = {**json.loads(environment.read_text()), "system": platform.system()}
    environment.write_text(json.dumps(made, indent=2) + "\n")
    for checkpoint in Path(name, uses.RUN, "checkpoints").glob("*"):
        # Orbax writes where it was, and the checkpoint lists length and checksum of each of its files.
        written = checkpoint / "arrays" / "commit_success.txt"
        written.write_text(written.read_text().replace(f"{Path.cwd()}/", ""))
        described = json.loads((checkpoint / "info.json").read_text())
        content = written.read_bytes()
        described["files"]["arrays/commit_success.txt"] = [len(content), zlib.crc32(content)]
        (checkpoint / "info.json").write_text(json.dumps(described, indent=1))


def begin(name: str) -> int:
    """Trains until the round at which the run is to stop."""
    stop_after(*STOPPED[name], Path(name, uses.RUN))
    if name == uses.OWN:
        sys.argv = ["train.py"]
        try:
            return 0 if own_model.train(Path(name, uses.RUN)).interrupted else 1
        except KeyboardInterrupt:  # as of later versions
            return 0
    experiment: tuple[str, ...] = ()
    settings: Mapping[str, object] = RATINGS
    if name == "next_word":
        shipped = Path(package.__file__).parents[2] / "experiments" / "next_word.toml"
        Path("next_word.toml").write_text(shipped.read_text())
        experiment, settings = ("next_word.toml", "--data", uses.TEXTS), WORDS
    if name == "stateful":
        # What the embedded experiment says of its own algorithm does not fit this one.
        settings = {**RATINGS, **KEEPING}
    sets = [x for key, value in settings.items() for x in ("--set", f"{key}={value}")]
    status = fedrecon("run", *experiment, "--out", Path(name, uses.RUN), *sets)
    return 0 if status == 130 else 1


def stop_after(number: int, kill: bool, run: Path) -> None:
    """Has this process interrupted, or killed, once a round is done."""
    original = package.Simulation.rounds

    def rounds(self: Any, state: Any, count: int) -> Iterator[Any]:
        for done in original(self, state, count):
            if done.number == number and not kill:
                signal.raise_signal(signal.SIGINT)
            yield done
            if done.number == number:
                while not any(path.name.isdecimal() for path in run.glob("checkpoints/*")):
                    time.sleep(0.1)
                os._exit(KILLED)

    package.Simulation.rounds = rounds  # type: ignore[method-assign]


def make_clients() -> None:
    """Writes generated ratings of which some clients have the ids of those that the runs train on."""
    from fedrecon.datasets.ratings._synthetic import synthetic  # type: ignore[import-not-found, unused-ignore]

    Path(uses.CLIENTS).parent.mkdir()
    clients, _ = synthetic(60, 40, seed=3)
    clients.take(range(0, 60, 5)).cap(20).write(uses.CLIENTS)


def make_texts(path: Path) -> None:
    """Writes sentences in which every client has some words of its own."""
    things = ("kettle", "ladder", "lantern", "saddle", "teapot", "rudder", "basket", "hammer")
    places = ("harbour", "orchard", "attic", "valley")
    lines = []
    for i in range(16):
        thing, other, place = things[i % 8], things[(3 * i + 1) % 8], places[i % 4]
        text = [
            f"the {thing} is in the {place}",
            f"we left the {other} by the {place}",
            f"the {thing} and the {other} are old",
            f"nobody found the {thing}{i}",
            f"the {place} is quiet",
            f"we took the {thing}{i} to the {place}",
        ]
        lines.append(json.dumps({"client": f"reader-{i}", "text": text[: 3 + i % 4]}))
    path.write_text("\n".join(lines) + "\n")


def pack(out: Path) -> None:
    """Packs the folders, after making sure that none tells of this machine."""
    private = {str(Path.home()), tempfile.gettempdir(), str(Path(package.__file__).parents[2])}
    for path in (p for name in uses.FIXTURES for p in Path(name).rglob("*") if p.is_file()):
        if not set(LEFT_OUT).isdisjoint(path.parts):
            continue
        held = path.read_bytes()
        there = [text for text in private if text.encode() in held]
        assert not there, f"{path} holds {there}"
    out.mkdir(parents=True, exist_ok=True)

    def cleaned(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if Path(member.name).name in LEFT_OUT:
            return None
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        return member

    for name in uses.FIXTURES:
        with tarfile.open(out / f"{name}.tar.xz", "w:xz") as archive:
            archive.add(name, filter=cleaned)


def numbers(out: Path) -> None:
    """Uses the packed folders, and writes what came out."""
    with tempfile.TemporaryDirectory() as home:
        os.chdir(home)
        for name in uses.FIXTURES:
            with tarfile.open(out / f"{name}.tar.xz") as archive:
                archive.extractall(filter="data")
        written: dict[str, Any] = {"clients": uses.read_clients()}
        for name in uses.RUNS:
            steps = {"resume": uses.resume, "evaluate": uses.evaluate, "personalize": uses.personalize}
            written[name] = {step: use(name) for step, use in steps.items()}
        written["compared"] = {pair: uses.compare(pair) for pair in uses.COMPARED}
        os.chdir(out)
    for name, values in written.items():
        (out / f"{name}.json").write_text(json.dumps(values, separators=(",", ":"), allow_nan=False) + "\n")


if __name__ == "__main__":
    sys.exit(main())
