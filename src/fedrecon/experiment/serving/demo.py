"""Serves the page of one or two runs on this machine."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from fedrecon.experiment.config import Config
from fedrecon.experiment.serving.export import (
    NOTHING_TO_SHOW,
    Wanted,
    export_run,
    page_of,
    subject_of,
)
from fedrecon.experiment.settings.sections import SettingError
from fedrecon.experiment.tasks._spec import task_spec
from fedrecon.export._folder import DESCRIPTION, VOCABULARIES
from fedrecon.export._graph.program import ExportError
from fedrecon.export._session import read_description
from fedrecon.export._web.page import write_page
from fedrecon.export._web.runtime import runtime_files
from fedrecon.export._web.server import server_of

Runs = Sequence[tuple[Path, Config]]


def serve_demo(runs: Runs, port: int, screen: Console, wanted: Wanted) -> None:
    """Exports runs and serves their page until Ctrl-C.

    Args:
        runs: One or two run folders, each with its configuration.
        port: The port of the server; 0 for a free one.
        screen: The console that shows the address.
        wanted: The options of the exports.

    Raises:
        SettingError: A run cannot be exported, the two do not go together, or the port is taken.
    """
    with tempfile.TemporaryDirectory(prefix="fedrecon-demo-") as folder:
        files = write_demo(runs, Path(folder), screen, wanted)
        try:
            server = server_of(Path(folder), files, port)
        except OSError as error:
            raise SettingError(f"--port: {port} cannot be used: {error.strerror}") from None
        with server:
            screen.print(f"http://127.0.0.1:{server.server_address[1]}/ until Ctrl-C")
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                screen.print("stopped")


def write_demo(runs: Runs, root: Path, screen: Console, wanted: Wanted) -> list[str]:
    """Writes the page of one or two runs, with an export of each in a folder of its own.

    Args:
        runs: One or two run folders, each with its configuration.
        root: An empty folder for the page.
        screen: The console that shows the exports.
        wanted: The options of the exports.

    Returns:
        The paths of all files below `root`.

    Raises:
        SettingError: A run cannot be exported, or the two do not go together.
    """
    tasks = [config.task for _, config in runs]
    if len(runs) > 1 and "next_word" in tasks:
        raise SettingError(
            "--other compares runs that recommend items; next-word runs are shown one at a time"
        )
    if len(set(tasks)) > 1:
        raise SettingError(
            f"--other must be a run of the task {tasks[0]!r}, as the first run is, got {tasks[1]!r}"
        )
    try:
        runtime_files(wanted.runtime)  # it may be missing, and an export takes a while
        models, files, exports = [], [], []
        for number, ((run, config), label) in enumerate(zip(runs, _labels(runs), strict=True)):
            name = f"model{number}"
            export_run(run, config, root / name, screen, wanted)
            exports.append(root / name)
            models.append({"folder": f"{name}/", "label": label})
            files += [f"{name}/{path.name}" for path in (root / name).iterdir()]
        if len(runs) > 1:
            first, second = (config for _, config in runs)
            _check_pair(exports[0], exports[1], _have_one_scale(first, second))
        page = page_of(runs[0][1], [subject_of(*run) for run in runs], models, wanted.titles)
        return files + write_page(page, root, wanted.runtime)
    except ExportError as error:
        raise SettingError(str(error)) from None


def _labels(runs: Runs) -> list[str]:
    """The names of the runs' folders, or their whole paths where the names are the same."""
    names = [run.name for run, _ in runs]
    return names if len(set(names)) == len(names) else [str(run) for run, _ in runs]


def _have_one_scale(first: Config, second: Config) -> bool:
    """Whether the settings and the formats of the files say that two runs rate on one scale."""
    scale = _scale_by_settings(first)
    return first.data == second.data or (scale is not None and scale == _scale_by_settings(second))


def _scale_by_settings(config: Config) -> object:
    """What a run's settings say of the scale of its ratings; None where they say nothing."""
    return task_spec(config.task).public_ranges(config).get("rating")


def _check_pair(one: Path, other: Path, one_scale: bool) -> None:
    """Checks that two exports can be shown side by side: they take the same ratings of common items.

    The ends that an export names may differ although the scale is one: those of a private run are the ends of
    the scale, those of another run the ends of the ratings that its clients happened to give.

    Args:
        one: The folder of the first export.
        other: The folder of the second export.
        one_scale: Whether both are known to rate on one scale; otherwise the ends of their ratings must be
            the same.
    """
    first, second = (_inputs(folder) for folder in (one, other))
    item = next((name for name, entry in first.items() if "items" in entry), None)
    if item is None:
        raise ExportError(NOTHING_TO_SHOW)
    if "items" not in second.get(item, {}):
        raise SettingError(f"--other must recommend items of the field {item!r}, as the first run does")
    ends = [inputs["rating"].get("range", ()) if "rating" in inputs else None for inputs in (first, second)]
    # Ends that an export does not tell are equal to no others.
    same = (ends[0] is None) == (ends[1] is None) and (one_scale or (ends[0] == ends[1] != ()))
    if not same or not _overlap([x for x in ends if x]):
        raise SettingError(
            f"--other must take ratings of the same scale: the first run has {_scale(ends[0])}, "
            f"the other {_scale(ends[1])}"
        )
    known, others = (set(map(str, _items(folder, item))) for folder in (one, other))
    if not known & others:
        raise SettingError(
            f"--other must know items of the first run: none of its {len(others):,} ids is among the "
            f"{len(known):,} of the first"
        )


def _overlap(ends: Sequence[Sequence[float]]) -> bool:
    """Whether some ratings are within all ends that are known; the page offers those."""
    return len(ends) < 2 or max(low for low, _ in ends) < min(high for _, high in ends)


def _inputs(folder: Path) -> dict[str, Mapping[str, Any]]:
    description = read_description(folder / DESCRIPTION, (folder / DESCRIPTION).read_bytes())
    return {entry["name"]: entry for entry in description["inputs"]}


def _items(folder: Path, field: str) -> Sequence[Any]:
    items: Sequence[Any] = json.loads((folder / VOCABULARIES).read_text(encoding="utf-8"))[field]
    return items


def _scale(ends: Sequence[float] | None) -> str:
    return "none" if ends is None else f"{ends[0]:g} to {ends[1]:g}" if ends else "one that it does not tell"
