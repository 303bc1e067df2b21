"""The work that `benchmarks pair` gives to two checkouts: commands that both have, whatever their modules."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeAlias

from benchmarks.options import Options
from benchmarks.pair_checkout import HERE, Checkout

SEED = "0"
FACTORS = 50
SERVED = 50_000  # clients, so that serving them takes longer than starting
RATINGS = 80  # of a client, on average
TOP = "20"
TRIALS = 20
_WITHOUT_RATIO = ("", "x", "%")  # units of counts and of what is a ratio already
_SERVED_IN = re.compile(r"clients in ([\d.]+) s")


class Measure(NamedTuple):
    """What was measured.

    Attributes:
        what: Its label.
        unit: Its unit.
        repetition: How many measures before it in the same report have the same label and unit.
    """

    what: str
    unit: str
    repetition: int = 0


Sample: TypeAlias = dict[Measure, float]
WALL = Measure("process: wall time", "s")
CPU = Measure("process: CPU time", "s of CPU")
MEMORY = Measure("process: peak memory", "MB")


@dataclass(frozen=True)
class Work:
    """What a name gives to a checkout.

    Attributes:
        says: What it is, in a line.
        prepare: Makes what `measure` needs in the checkout's scratch folder, uncounted.
        measure: Runs the work once, as one process, and returns what it took.
    """

    says: str
    prepare: Callable[[Checkout, Options, Path | None], None]
    measure: Callable[[Checkout, Options, Path | None], Sample]
    needs_ratings: bool = False


def works(benchmarks: Iterable[str]) -> dict[str, Work]:
    """The work by name: whole commands of `fedrecon`, then each of `benchmarks` as a process."""
    return {
        "run": Work(
            "fedrecon run experiments/movielens.toml at one reconstruction epoch, 500 rounds",
            _nothing,
            partial(_run, "movielens", 500, ("algorithm.reconstruct.epochs=1",)),
            needs_ratings=True,
        ),
        "run_newton": Work(
            "fedrecon run experiments/movielens-newton.toml, 100 rounds",
            _nothing,
            partial(_run, "movielens-newton", 100, ()),
            needs_ratings=True,
        ),
        "run_ranking": Work(
            "fedrecon run experiments/ranking.toml, 20 rounds and an evaluation of all clients",
            _nothing,
            partial(_run, "ranking", 20, ()),
            needs_ratings=True,
        ),
        "sweep": Work(
            f"fedrecon sweep of two learning rates of experiments/movielens.toml at one reconstruction epoch:"
            f" {TRIALS} trials of 100 rounds",
            _nothing,
            _sweep,
            needs_ratings=True,
        ),
        "personalize": Work(
            f"fedrecon personalize on a generated client file of {SERVED:,} clients",
            _prepare_serving,
            partial(_serve, ()),
        ),
        "recommend": Work(
            f"fedrecon personalize --top {TOP} on the same clients",
            _prepare_serving,
            partial(_serve, ("--top", TOP)),
        ),
        **{
            name: Work(f"python -m benchmarks {name}", _nothing, partial(_benchmark, name))
            for name in benchmarks
        },
    }


def _nothing(checkout: Checkout, options: Options, ratings: Path | None) -> None:
    """Prepares nothing."""


def _measured(checkout: Checkout, arguments: list[str]) -> tuple[Sample, str]:
    """What a command of the checkout took as a process, and what it printed."""
    usage = checkout.run(arguments)
    return {WALL: usage.wall, CPU: usage.cpu, MEMORY: usage.memory}, usage.printed


def _benchmark(name: str, checkout: Checkout, options: Options, ratings: Path | None) -> Sample:
    """Runs a benchmark; beside the process stand the costs that the benchmark itself reports."""
    path = checkout.scratch / "rows.json"
    path.unlink(missing_ok=True)
    command = ["-m", "benchmarks", name, "--json", str(path), *_sizes(options)]
    rounds = options.rounds or (2 if name == "next_word" else None)  # each takes seconds
    command += [f"--rounds={rounds}"] if rounds else []
    command += [f"--data={Path(options.data).absolute()}"] if options.data is not None else []
    sample, _ = _measured(checkout, command)
    times: Counter[Measure] = Counter()
    for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
        measure = Measure(row["what"], row["unit"])
        times[measure] += 1
        if row["value"] is not None and row["unit"] not in _WITHOUT_RATIO:
            sample[measure._replace(repetition=times[measure] - 1)] = row["value"]
    return sample


def _sizes(options: Options) -> list[str]:
    """The flags of sizes that are not the default: an older checkout may lack one of them."""
    sizes = {name: getattr(options, name) for name in ("clients", "items", "clients_per_round")}
    return [
        f"--{name.replace('_', '-')}={size}" for name, size in sizes.items() if size != getattr(Options, name)
    ]


def _run(
    experiment: str,
    rounds: int,
    settings: tuple[str, ...],
    checkout: Checkout,
    options: Options,
    ratings: Path | None,
) -> Sample:
    """Runs an experiment of this checkout, the same for both sides, in a fresh run folder."""
    folder = checkout.scratch / "run"
    shutil.rmtree(folder, ignore_errors=True)  # a run that is there would go on
    command = ["-m", "fedrecon", "run", str(HERE / "experiments" / f"{experiment}.toml")]
    command += ["--data", str(ratings), "--out", str(folder), "--seed", SEED]
    settings += (f"training.rounds={options.rounds or rounds}",)
    if options.clients_per_round != Options.clients_per_round:
        settings += (f"training.clients_per_round={options.clients_per_round}",)
    sample, _ = _measured(checkout, [*command, *(f"--set={setting}" for setting in settings)])
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    seconds = result["seconds"]
    return sample | {
        Measure("to the first round's end", "s"): seconds["to_first_round"],
        Measure("tracing and compiling", "s"): seconds["compilation"],
        Measure("after the first round", "s"): seconds["total"] - seconds["to_first_round"],
    }


def _sweep(checkout: Checkout, options: Options, ratings: Path | None) -> Sample:
    """Tunes an experiment of this checkout, the same for both sides; no trial was compiled before."""
    folder, space = checkout.scratch / "sweep", checkout.scratch / "space.toml"
    shutil.rmtree(folder, ignore_errors=True)  # a sweep that is there would go on
    space.write_text(
        "algorithm.update.optimizer.learning_rate = { low = 0.1, high = 1.0, log = true }\n"
        "algorithm.reconstruct.optimizer.learning_rate = { low = 0.05, high = 0.5, log = true }\n",
        encoding="utf-8",
    )
    command = ["-m", "fedrecon", "sweep", str(HERE / "experiments" / "movielens.toml"), str(space)]
    command += ["--data", str(ratings), "--out", str(folder), "--trials", str(TRIALS)]
    # Another seed in every run, so that no program of a trial is in the cache of compiled programs.
    command += ["--seed", str(checkout.commands), "--set=algorithm.reconstruct.epochs=1"]
    sample, _ = _measured(checkout, [*command, f"--set=training.rounds={options.rounds or 100}"])
    return sample


def _prepare_serving(checkout: Checkout, options: Options, ratings: Path | None) -> None:
    """Generates a client file and trains two rounds on it: how good the items are changes no time.

    `personalize` and `recommend` of one call share both.
    """
    # As many clients as make a file large; fewer only where somebody tries the benchmark out.
    count = options.clients if options.clients != Options.clients else SERVED
    clients, run = checkout.scratch / "clients.arrow", checkout.scratch / "served"
    if (run / "result.json").is_file():
        return
    clients.unlink(missing_ok=True)  # left by a preparation that failed, as a run folder may be
    shutil.rmtree(run, ignore_errors=True)
    generate = [f"--clients={count}", f"--items={options.items}", f"--ratings={RATINGS}", f"--seed={SEED}"]
    checkout.run(["-m", "fedrecon", "generate", "--out", str(clients), *generate])
    experiment = checkout.scratch / "served.toml"
    experiment.write_text(
        'task = "movielens"\n'
        'data = { order = "file" }\n'
        f'model = {{ factors = {FACTORS}, init = "normal", user_penalty = 1.0 }}\n'
        'algorithm = { reconstruct = { kind = "newton" } }\n'
        "training = { rounds = 2, clients_per_round = 10 }\n",
        encoding="utf-8",
    )
    command = ["-m", "fedrecon", "run", str(experiment), "--data", str(clients), "--out", str(run)]
    checkout.run([*command, "--seed", SEED])


def _serve(flags: tuple[str, ...], checkout: Checkout, options: Options, ratings: Path | None) -> Sample:
    """Personalises all clients of the file, from process start to the Parquet file."""
    out = checkout.scratch / "served.parquet"
    out.unlink(missing_ok=True)  # a file that is there would be gone on with or refused
    command = ["-m", "fedrecon", "personalize", str(checkout.scratch / "served")]
    command += ["--data", str(checkout.scratch / "clients.arrow"), "--out", str(out), *flags]
    sample, printed = _measured(checkout, command)
    served = _SERVED_IN.search(printed)
    # The command prints tenths of a second, and its words may differ between commits.
    return sample if served is None else sample | {Measure("after the start", "s"): float(served[1])}
