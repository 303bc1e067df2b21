"""The whole configuration of an experiment: read, checked, overridden and written."""

import functools
import tomllib
from collections.abc import Mapping, Sequence
from importlib import import_module, resources
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, Field, create_model

from fedrecon.evaluation._selection import FORMS, is_selection
from fedrecon.experiment import tasks
from fedrecon.experiment.settings.algorithms import AnyAlgorithmSettings, FedReconSettings
from fedrecon.experiment.settings.sections import (
    Section,
    SettingError,
    defaults,
    nearest,
    overlay,
    parse_override,
    setting,
    validate,
)
from fedrecon.experiment.settings.splits import AlternateBatchesSettings, SplitSettings
from fedrecon.experiment.tracking.settings import TrackingSettings, UntrackedSettings

DEFAULT = "default.toml"


class TrainingSettings(Section):
    """The rounds."""

    rounds: int = setting(500, "rounds", ge=1)
    clients_per_round: int = setting(100, "clients in a cohort; in expectation, under poisson sampling", ge=1)
    sampling: Literal["uniform", "poisson", "weighted", "passes"] = setting(
        "uniform",
        "uniform without replacement, poisson, weighted by examples, or passes: each client once in each",
    )
    checkpoint_every: int = setting(
        50, "rounds between checkpoints: what a resume computes again at most", ge=1
    )
    clients_per_block: Annotated[int, Field(ge=1)] | Literal["auto"] = setting(
        "auto", 'clients side by side in training; "auto" is right for small models'
    )
    initial_global_params: str = setting(
        "", 'a run folder or an .npz file with an array per leaf to start from; "" for the model\'s own start'
    )


def _selection(select: str) -> str:
    if not is_selection(select):
        raise ValueError(f"must be {FORMS}, got {select!r}")
    return select


class EvaluationSettings(Section):
    """ReconEval on unseen clients."""

    every: int = setting(50, "rounds between evaluations of the validation clients", ge=1)
    select: Annotated[str, AfterValidator(_selection)] = setting(
        "final",
        "test clients meet the parameters of the final round, or of the best validation, by what is read"
        ' first, by "best:METRIC", or by "best:METRIC:max" or ":min"',
    )
    split: SplitSettings = setting(AlternateBatchesSettings(), "support and query set in evaluation:")


class Config(Section):
    """An experiment. Its task decides what is in `data` and `model`."""

    name: str = setting("experiment", "a name, for the run's folder and its figures", min_length=1)
    task: str = setting("synthetic_ratings", "the data and the model")
    seed: int = setting(0, "of the split, of the sampling and of all draws", ge=0, lt=2**31)
    data: Any = None
    model: Any = None
    algorithm: AnyAlgorithmSettings = setting(FedReconSettings(), "the algorithm:")
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    tracking: TrackingSettings = setting(UntrackedSettings(), "where numbers go beside the run folder:")


def task_names() -> list[str]:
    """The tasks there are: the modules of `fedrecon.experiment.tasks`."""
    return sorted(m.name for m in iter_modules(tasks.__path__) if not m.name.startswith("_"))


def task_module(name: str) -> ModuleType:
    """The module of a task: one of this package, or the dotted path of one's own.

    Raises:
        SettingError: There is no such task.
    """
    if "." in name:
        try:
            return import_module(name)
        except ModuleNotFoundError as error:
            raise SettingError(f"task: the module {name!r} cannot be imported: {error}") from error
    if name not in task_names():
        known = ", ".join(task_names())
        raise SettingError(f"task must be one of {known} or the path of a module; nearest to {name!r} is "
                           f"{nearest(name, task_names())!r}")  # fmt: skip
    return import_module(f"{tasks.__name__}.{name}")


@functools.cache
def schema(task: str) -> type[Config]:
    """The class of a task's configurations."""
    module = task_module(task)
    return create_model(
        "Config", __base__=Config, data=(module.Data, module.Data()), model=(module.Model, module.Model())
    )


def load(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """The configuration in a TOML file, with overrides.

    Args:
        path: The file; None for the experiment that ships with the package.
        overrides: Settings such as `"training.rounds=100"`; later ones win.

    Raises:
        SettingError: The file is missing or no TOML, or a setting is unknown or breaks a rule.
    """
    source, values = _read(path)
    if isinstance(values.get("algorithm"), str):  # as `RunSpec.configuration` writes it
        raise SettingError(
            f"{source}: is of a run made in Python, whose model and data only its program has: call "
            f"fedrecon.train with the same arguments to go on with it, fedrecon.Personalization to serve "
            f"clients; of the commands plot, compare and report take its folder"
        )
    config = resolve(values, source)
    given: dict[str, Any] = {}
    for text in overrides:
        _merge(given, parse_override(text))
    return override(config, given) if given else config


def override(config: Config, given: Mapping[str, Any], source: str = "--set") -> Config:
    """The configuration with some settings changed. Another task starts from its own data and model settings.

    Args:
        config: Before.
        given: What changes, nested.
        source: Where that comes from, for messages.

    Raises:
        SettingError: A setting is unknown or breaks a rule.
    """
    base = config.model_dump()
    if given.get("task", config.task) != config.task:
        del base["data"], base["model"]
    return resolve(overlay(type(config), base, given), source)


def resolve(values: Mapping[str, Any], source: str) -> Config:
    """The configuration with these values, every default filled in.

    Raises:
        SettingError: A setting is unknown or breaks a rule.
    """
    task = values.get("task", Config.model_fields["task"].default)
    if not isinstance(task, str):
        raise SettingError(f"{source}: task must be a string, got {task!r}")
    cls = schema(task)
    return cast(Config, validate(cls, overlay(cls, defaults(cls), values), source))


def text(config: Config) -> str:
    """The configuration as TOML, every setting written out."""
    import tomli_w

    return tomli_w.dumps(config.model_dump())


def _read(path: str | Path | None) -> tuple[str, dict[str, Any]]:
    if path is None:
        shipped = resources.files(__package__) / DEFAULT
        return DEFAULT, tomllib.loads(shipped.read_text(encoding="utf-8"))
    try:
        content = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingError(f"{path}: the experiment cannot be read: {reason}") from None
    try:
        return str(path), tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:
        raise SettingError(f"{path}: no TOML: {error}") from None


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        below = into.get(name)
        if isinstance(value, Mapping) and isinstance(below, dict) and not _of_another_kind(value, below):
            _merge(below, value)
        else:
            into[name] = value


def _of_another_kind(value: Mapping[str, Any], below: Mapping[str, Any]) -> bool:
    """Whether a table says that it is of another kind than one given before, whose settings it lacks."""
    return "kind" in value and "kind" in below and value["kind"] != below["kind"]
