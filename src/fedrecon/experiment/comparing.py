"""Several runs in one figure, from what their folders hold."""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedrecon.experiment.files import RunError
from fedrecon.experiment.folder import CONFIG, PLOTS
from fedrecon.experiment.records import METRICS, RECON_EVAL, Records, read


def plot_runs(runs: Sequence[Path], out: Path | None = None) -> list[Path]:
    """Draws runs, finished or not.

    Args:
        runs: Their folders.
        out: Where to; by default `plots` in the folder of a single run, or here for several.

    Returns:
        The files.

    Raises:
        RunError: A folder holds no run, or one without an evaluation.
    """
    from fedrecon.experiment import plots  # takes a second

    curves = [_curves(run, label) for run, label in zip(runs, _labels(runs), strict=True)]
    target = out or (runs[0] / PLOTS if len(runs) == 1 else Path(PLOTS))
    return [target / path.name for path in plots.write(target, curves)]


def _curves(run: Path, label: str) -> Any:
    from fedrecon.experiment.plots import Curves

    records = Records()
    if not (run / METRICS).is_file():
        raise RunError(f"{run}: a run folder must have a {METRICS}, this has none")
    records.append(read(run / METRICS))
    if not any(row.protocol == RECON_EVAL for row in records):
        raise RunError(f"{run}: a run must have reached an evaluation to be drawn, this one has not")
    tables = sorted(run.glob("clients-*.parquet"))
    return Curves(label, records, {p.stem.removeprefix("clients-"): _clients(p) for p in tables})


def _clients(path: Path) -> dict[str, Any]:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    return {name: table[name].to_numpy() for name in table.column_names if name not in ("client", "weight")}


def _labels(runs: Sequence[Path]) -> list[str]:
    """The runs' names where these tell them apart, and else their folders."""
    names = []
    for run in runs:
        try:
            names.append(str(tomllib.loads((run / CONFIG).read_text(encoding="utf-8")).get("name", run.name)))
        except (OSError, ValueError):
            names.append(run.name)
    if len(set(names)) == len(names):
        return names
    folders = [run.name for run in runs]
    return folders if len(set(folders)) == len(folders) else [str(run) for run in runs]
