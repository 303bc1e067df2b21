"""The commands of the command line."""

import argparse
import time
from pathlib import Path

from fedrecon.errors import RunError, whole_number
from fedrecon.experiment import config as configs
from fedrecon.experiment.config import Config
from fedrecon.experiment.distributed.processes import ALONE, ProcessGroup, join
from fedrecon.experiment.settings.sections import SettingError
from fedrecon.experiment.storage.compilation_cache import keep_compiled


def run(options: argparse.Namespace) -> int:
    """Trains what an experiment describes."""
    config = _above(configs.load(options.experiment, options.overrides), options.data, options.seed)
    out = Path(options.out) if options.out else _fresh(Path("runs"), config.name)
    if options.seeds is None:
        return _train(config, out, options)
    if options.distributed:
        raise SettingError(
            "--seeds and --distributed exclude each other: start each seed as a run of its own"
        )
    whole_number("--seeds", options.seeds, 2, error=SettingError)
    keep_compiled()
    from fedrecon.experiment.analysis.seeds import train_seeds
    from fedrecon.experiment.training.run_experiment import console

    return 0 if train_seeds(config, out, options.seeds, console()) else 130


def resume(options: argparse.Namespace) -> int:
    """Goes on with a run."""
    return _train(_saved(options.run, options.data), Path(options.run), options)


def evaluate(options: argparse.Namespace) -> int:
    """Evaluates a run's parameters."""
    with _begin(options).together():
        from fedrecon.experiment.serving.evaluate import evaluate_run
        from fedrecon.experiment.training.run_experiment import console

        config = _saved(options.run)
        evaluate_run(Path(options.run), config, _place(options.data, config), console())
    return 0


def personalize(options: argparse.Namespace) -> int:
    """Reconstructs every client, or recommends to it."""
    keep_compiled()
    from fedrecon.experiment.serving.personalize import Wanted, personalize_run
    from fedrecon.experiment.training.run_experiment import console

    if options.top is None:
        for name, given in (("--field", options.field is not None), ("--seen", options.seen)):
            if given:
                raise SettingError(f"{name} says which items are recommended, and needs --top K")
    wanted = Wanted(options.top, options.field, options.seen)
    config = _saved(options.run)
    data = str(_place(options.data, config))
    personalize_run(Path(options.run), config, data, Path(options.out), console(), wanted)
    return 0


def curves(options: argparse.Namespace) -> int:
    """Evaluates a run along curves."""
    keep_compiled()
    from fedrecon.experiment.analysis.curves import draw
    from fedrecon.experiment.training.run_experiment import console

    config = _saved(options.run)
    draw(Path(options.run), config, _place(options.data, config), options.split, console())
    return 0


def generate(options: argparse.Namespace) -> int:
    """Writes generated ratings."""
    from fedrecon.experiment.cli import generate as generating
    from fedrecon.experiment.training.run_experiment import console

    out, seed = Path(options.out), options.seed
    generating.generate(out, console(), options.clients, options.items, options.ratings, seed)
    return 0


def plot(options: argparse.Namespace) -> int:
    """Draws runs."""
    from fedrecon.experiment.analysis.compare import plot_runs

    for path in plot_runs([Path(run) for run in options.runs], options.out and Path(options.out)):
        print(path)
    return 0


def compare(options: argparse.Namespace) -> int:
    """Puts runs side by side."""
    from fedrecon.experiment.analysis.compare import compare_runs
    from fedrecon.experiment.analysis.comparison import Target
    from fedrecon.experiment.training.run_experiment import console

    targets = [Target.parse(text) for text in options.target]
    compare_runs([Path(run) for run in options.runs], Path(options.out), console(), targets)
    return 0


def report(options: argparse.Namespace) -> int:
    """Makes a page of runs."""
    from fedrecon.experiment.analysis.compare import report_runs
    from fedrecon.experiment.analysis.comparison import Target

    targets = [Target.parse(text) for text in options.target]
    print(report_runs([Path(run) for run in options.runs], Path(options.out), targets))
    return 0


def sweep(options: argparse.Namespace) -> int:
    """Tunes an experiment."""
    from fedrecon.experiment.sweep import space

    config = _above(configs.load(options.experiment, options.overrides), options.data, options.seed)
    for name in ("trials", "jobs"):
        whole_number(f"--{name}", getattr(options, name), 1, error=SettingError)
    dimensions = space.load(options.space, config)
    keep_compiled()
    from fedrecon.experiment.sweep.run import sweep as run_sweep
    from fedrecon.experiment.training.run_experiment import console

    out = Path(options.out) if options.out else Path("runs") / f"{config.name}-sweep"
    chosen = (options.trials, options.jobs, options.metric, options.prune)
    return 0 if run_sweep(config, dimensions, out, console(), *chosen) else 130


def describe(options: argparse.Namespace) -> int:
    """Shows what is in a data file."""
    from fedrecon.experiment.cli.describe import describe_data

    columns = {name: getattr(options, name) for name in ("client", "item", "rating", "time")}
    print(describe_data(options.data, {name: x for name, x in columns.items() if x is not None}))
    return 0


def complete(options: argparse.Namespace) -> int:
    """Shows the next words of a new user."""
    whole_number("--top", options.top, 1, error=SettingError)
    keep_compiled()
    from fedrecon.experiment.serving.complete import complete_run
    from fedrecon.experiment.training.run_experiment import console

    run, history = Path(options.run), Path(options.history)
    complete_run(run, _saved(options.run), history, options.prompt, options.top, console())
    return 0


def settings(options: argparse.Namespace) -> int:
    """Prints all settings."""
    from fedrecon.experiment.cli.settings_listing import listing

    print(listing(configs.load(options.experiment, options.overrides)), end="")
    return 0


def _begin(options: argparse.Namespace) -> ProcessGroup:
    keep_compiled()
    return join() if options.distributed else ALONE


def _train(config: Config, out: Path, options: argparse.Namespace) -> int:
    _begin(options)
    from fedrecon.experiment.training.run_experiment import console, run_experiment, show

    screen = console()
    result = run_experiment(config, out, screen, options.started)
    show(result, screen)
    return 130 if result.interrupted else 0


def _above(config: Config, data: str | None, seed: int | None = None) -> Config:
    """The configuration with what has an option of its own, which wins over all settings."""
    if data is not None:
        if "path" not in type(config.data).model_fields:
            raise SettingError(
                f"--data: the task {config.task} reads no data; choose one that does by an experiment file, "
                f"or by --set task=movielens for ratings and --set task=next_word for texts"
            )
        config = configs.override(config, {"data": {"path": _place(data, config)}}, "--data")
    return config if seed is None else configs.override(config, {"seed": seed}, "--seed")


def _place(path: str | None, config: Config) -> str | None:
    """A path that still holds when the run is resumed from another folder.

    What the task takes from a package has a name and no path, unless there is such a file.
    """
    packaged = getattr(configs.task_module(config.task), "PACKAGED", ())
    if path is None or (path in packaged and not Path(path).exists()):
        return path
    return str(Path(path).absolute())


def _saved(run: str, data: str | None = None) -> Config:
    """The configuration of a run folder."""
    from fedrecon.experiment.analysis.runs import seed_folders
    from fedrecon.experiment.storage.run_folder import CONFIG

    path = Path(run) / CONFIG
    if not path.is_file():
        if seed_folders(Path(run)):
            raise RunError(
                f"{run}: must be the folder of one run, this holds those of several seeds: name one of them, "
                f"or go on with all by the command that began them, with --seeds and --out {run}"
            )
        raise RunError(f"{run}: a run folder must have a {CONFIG}, this has none")
    return _above(configs.load(path), data)


def _fresh(parent: Path, name: str) -> Path:
    """A folder that does not exist yet."""
    base = parent / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    candidates = [base, *(base.with_name(f"{base.name}-{i}") for i in range(2, 100))]
    return next(path for path in candidates if not path.exists())
