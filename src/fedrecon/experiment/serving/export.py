"""Exports a run's parameters as files for devices, and evaluates these files."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from fedrecon._files import write_atomically
from fedrecon.data._hashing import Purpose, round_keys
from fedrecon.evaluation._evaluate import measure
from fedrecon.experiment.config import Config
from fedrecon.experiment.reporting.tables import size
from fedrecon.experiment.serving.exported_run import Loaded, load_run
from fedrecon.experiment.settings.sections import SettingError
from fedrecon.experiment.tasks._spec import task_spec
from fedrecon.export._cases import Case, fields_of, ranges_of
from fedrecon.export._export import Subject, export
from fedrecon.export._folder import DESCRIPTION, UPDATE_DESCRIPTION
from fedrecon.export._graph.program import ExportError
from fedrecon.export._session import Session, read_description
from fedrecon.export._training import Training
from fedrecon.export._web.page import Page, invented_titles, read_titles, write_page
from fedrecon.export._web.runtime import runtime_files

# The number of training clients whose updates are compared with those in JAX.
_COMPARED = 100
NOTHING_TO_SHOW = "the page shows items that are recommended, or next words; this run has neither"


class Wanted(NamedTuple):
    """The options of an export.

    Attributes:
        support_max: The most support examples that the file takes; None, the default, for the longest support
            set of the run's evaluation, or where it has none for `data.cap` or the longest training client.
        top: The number of items to recommend, if the run has items; 20 by default.
        precision: The type of stored tables: `"float32"` (the default), `"float16"` or `"int8"`.
        seed: The seed of all draws of a client; 0 by default.
        update: Whether a client's part of a training round is written as well; False by default.
        page: Whether the page that shows the export is written as well; False by default.
        titles: The path of a file with the titles of items; `""`, the default, for none.
        runtime: The folder of the browser's runtime; None, the default, takes it from the cache or from npm.
        format: `"onnx"`, the default, for a graph of ONNX, or `"stablehlo"` for an archive of `jax.export`.
    """

    support_max: int | None = None
    top: int = 20
    precision: Any = "float32"
    seed: int = 0
    update: bool = False
    page: bool = False
    titles: str = ""
    runtime: str | None = None
    format: str = "onnx"


def export_run(run: Path, config: Config, out: Path, screen: Console, wanted: Wanted) -> None:
    """Writes the last parameters of a run, or its best ones if it selects these, as a folder for devices.

    Args:
        run: The run folder, from which the parameters are read.
        config: The configuration of the run.
        out: The folder of the export; created where it does not exist.
        screen: The console that shows the result.
        wanted: The options of the export.

    Raises:
        SettingError: Something of the run cannot be exported; `out` is then unchanged.
    """
    if wanted.format != "onnx" and (wanted.update or wanted.page):
        option = "--with update" if wanted.update else "--static"
        raise SettingError(f"{option} needs --format onnx, got {wanted.format}")
    try:
        loaded = load_run(run, config, wanted.top, wanted.seed)
        shown: Page | None = None
        if wanted.page:
            # Everything that may be refused is checked before anything is written.
            models = [{"folder": "", "label": config.name}]
            shown = page_of(config, [loaded.subject], models, wanted.titles)
            runtime_files(wanted.runtime)
        checks = export(
            loaded.subject,
            out,
            support_max=_support_max(config, loaded, wanted.support_max),
            precision=wanted.precision,
            seed=wanted.seed,
            clients=_short(loaded.cases, wanted.support_max),
            training=_training(config, loaded) if wanted.update else None,
            format=wanted.format,
        )
        if shown is not None:
            write_page(shown, out, wanted.runtime)
        text = (out / DESCRIPTION).read_bytes()
        description = read_description(out / DESCRIPTION, text)
    except ExportError as error:
        raise SettingError(str(error)) from None
    screen.print(f"{config.name}: parameters after round {description['round']}")
    for remark in loaded.remarks:
        screen.print(f"Note: {remark}.", markup=False)
    for entry in description["files"]:
        screen.print(f"  {entry['name']}  {size(entry['bytes'])}")
    users = f"random inputs and {checks.users:,} clients" if checks.users else "random inputs"
    screen.print(f"checked against JAX on {users}: largest difference {checks.max_abs_diff:.2g}")
    if loaded.subject.top is not None and checks.users:
        screen.print(
            f"the same top {loaded.subject.top.count}: {checks.topk_identical:,} of {checks.users:,}"
        )
    if checks.rmse_jax is not None:
        screen.print(f"rmse {checks.rmse_export:.6f}, in JAX {checks.rmse_jax:.6f}")
    if wanted.update:
        of_update = json.loads((out / UPDATE_DESCRIPTION).read_text(encoding="utf-8"))["checks"]
        screen.print(
            f"update.onnx: {of_update['clients']:,} training clients, "
            f"largest difference of a delta {of_update['max_abs_diff']:.2g}"
        )
    screen.print(f"SHA-256 of model.json: {hashlib.sha256(text).hexdigest()}")
    if description["data_notice"]:
        screen.print(description["data_notice"])
    screen.print(f"Export: {out}")


def page_of(
    config: Config, subjects: Sequence[Subject], models: list[dict[str, str]], titles: str = ""
) -> Page:
    """The page of one or more runs of one task.

    Args:
        config: The configuration of the first run.
        subjects: The algorithm, parameters and fields of each run's export.
        models: The folder and the label of each run's export.
        titles: The path of a file with the titles of items; `""`, the default, shows ids alone, or invented
            titles of generated items.

    Raises:
        ExportError: The page has nothing to show for such a run.
    """
    if config.task == "next_word":
        data = config.data
        if data.tokenizer not in ("whitespace", "pieces"):
            raise ExportError(
                f"the page knows the tokenizers whitespace and pieces, this run has {data.tokenizer!r}"
            )
        text = {"tokenizer": data.tokenizer, "length": data.length}
        text |= {"buckets": data.buckets, "outputs": data.outputs}
        return Page("words", "Next words on this device", models, {}, text)
    known: dict[str, Any] = {}  # the items of all runs in their order, by their ids as text
    for subject in subjects:
        if subject.top is None:
            raise ExportError(NOTHING_TO_SHOW)
        if "rating" in subject.fields and "rating" not in subject.ranges:
            raise ExportError(
                "the page must know the ends of the ratings, which neither data nor settings tell: put the "
                "run's data back where it found them, or train with data.scale, such as [1, 10]"
            )
        known |= {str(x): x for x in subject.vocabularies[subject.top.field]}
    named: dict[str, str] = read_titles(Path(titles)) if titles else {}
    if config.task == "synthetic_ratings" and not titles:
        named = invented_titles(list(known.values()))
    shown = {identity: title for identity, title in named.items() if identity in known}
    return Page("ratings", "Recommendations on this device", models, shown, {})


def evaluate_through(run: Path, config: Config, folder: Path, out: Path, screen: Console) -> dict[str, Any]:
    """Evaluates a run's test clients with an exported file, and for comparison in JAX.

    Args:
        run: The run folder, from which the parameters for JAX are read.
        config: The configuration of the run.
        folder: The folder of the export.
        out: The JSON file that gets the results.
        screen: The console that shows the results.

    Raises:
        SettingError: The export cannot be used, or is of another run.
    """
    from fedrecon.export._evaluate import through

    try:
        session = Session(folder)
        description = session.description
        loaded = load_run(run, config, description["top_k"] or 1, description["seed"])
        if loaded.spec is None:
            raise ExportError(f"{run}: its test clients must be there to be evaluated; {loaded.remarks[-1]}")
        if not loaded.cases:
            raise ExportError(f"{run}: there must be test clients to evaluate, there are none")
        result = through(session, loaded.subject, loaded.cases)
    except ExportError as error:
        raise SettingError(str(error)) from None
    spec, clients = loaded.spec, loaded.clients
    assert spec is not None and clients is not None  # since there are cases
    in_jax = measure(
        spec.algorithm, loaded.subject.state, clients, split=spec.split, seed=spec.seed, scoring=spec.scoring
    )
    result["run"] = in_jax.over_examples()
    write_atomically(out, json.dumps(result, indent=2) + "\n")
    for name, value in result.items():
        if not isinstance(value, dict):
            screen.print(f"{name}: {value}")
    screen.print(f"Results: {out}")
    return result


def subject_of(run: Path, config: Config) -> Subject:
    """The algorithm, parameters and fields of a run's export.

    Args:
        run: The run folder, from which the parameters are read.
        config: The configuration of the run.
    """
    return load_run(run, config, 1, 0).subject


def _training(config: Config, loaded: Loaded) -> Training:
    """The fields and sizes of the run's training clients, with some clients whose updates are compared.

    Of a private run both are those of the settings: the longest client and the ends of the clients' numbers
    are not covered by the ledger.

    Raises:
        ExportError: The run's data cannot be read, or the settings of a private run bound the examples of no
            client.
    """
    if loaded.spec is None:
        raise ExportError(f"--with update: the run's training clients must be there; {loaded.remarks[-1]}")
    clients, round = loaded.spec.clients, int(loaded.subject.state.round)
    some = clients.take(np.arange(min(len(clients), _COMPARED)))
    keys = round_keys(loaded.spec.seed, Purpose.TRAINING, round, some.keys)
    fields = fields_of(clients)
    own = [
        {n: np.asarray(x).astype(fields[n].dtype) for n, x in some[i].items() if n in fields}
        for i in some.ids
    ]
    if not config.privacy.on:
        return Training(fields, ranges_of(clients), int(clients.num_examples.max(initial=1)), own, keys)
    cap = getattr(config.data, "cap", "none")
    if cap == "none":
        raise ExportError(
            "--with update: data.cap must bound the examples of a client of a private run, whose longest "
            'client is no public number; it is "none"'
        )
    public = task_spec(config.task).public_ranges(config)
    return Training(fields, {name: public[name] for name in fields if name in public}, int(cap), own, keys)


def _support_max(config: Config, loaded: Loaded, asked: int | None) -> int:
    """The most support examples that the file takes; `Wanted.support_max` says what it is by default.

    Raises:
        ExportError: Nothing tells a default: the longest client of a private run is no public number.
    """
    if asked is not None:
        return asked
    if loaded.cases:
        return max(1, *(len(next(iter(case.support.values()))) for case in loaded.cases))
    cap = getattr(config.data, "cap", "none")
    if cap != "none":
        return int(cap)
    if loaded.spec is not None and not config.privacy.on:
        return int(loaded.spec.clients.num_examples.max(initial=1))
    raise ExportError(
        "--support-max must be given where there are no test clients, whose longest history is its default"
    )


def _short(all_cases: list[Case], most: int | None) -> list[Case]:
    """The cases whose support set has at most `most` examples: the file takes no others."""
    if most is None:
        return all_cases
    return [case for case in all_cases if len(next(iter(case.support.values()))) <= most]
