"""The configuration of an experiment: reading, checking, overriding and writing it."""

import functools
import os
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, cast

from pydantic import create_model

from fedrecon.experiment.settings.aggregation import AggregationSettings, CompressionSettings
from fedrecon.experiment.settings.algorithms import AnyAlgorithmSettings, FedReconSettings
from fedrecon.experiment.settings.privacy import PrivacySettings
from fedrecon.experiment.settings.sections import (
    Section,
    SettingError,
    defaults,
    overlay,
    parse_override,
    parse_toml,
    setting,
    validate,
)
from fedrecon.experiment.settings.training import DeviceSettings, EvaluationSettings, TrainingSettings
from fedrecon.experiment.tasks._spec import task_spec
from fedrecon.experiment.tracking.settings import TrackingSettings, UntrackedSettings

# Experiments that ship with the package: generated ratings, and one's own ratings.
DEFAULT, RATINGS = "default.toml", "ratings.toml"
PACKAGED = (DEFAULT, RATINGS)


class Config(Section):
    """The configuration of an experiment. Its task decides which settings are in `data` and `model`."""

    name: str = setting("experiment", "a name, for the run's folder and its figures", min_length=1)
    task: str = setting("synthetic_ratings", "the data and the model")
    seed: int = setting(0, "the seed of the split, of the sampling and of all draws", ge=0, lt=2**31)
    data: Any = None
    model: Any = None
    algorithm: AnyAlgorithmSettings = setting(FedReconSettings(), "the algorithm:")
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    privacy: PrivacySettings = PrivacySettings()
    compression: CompressionSettings = CompressionSettings()
    aggregation: AggregationSettings = AggregationSettings()
    devices: DeviceSettings = DeviceSettings()
    tracking: TrackingSettings = setting(UntrackedSettings(), "where numbers go beside the run folder:")


@functools.cache
def schema(task: str) -> type[Config]:
    """The class of a task's configurations."""
    spec = task_spec(task)
    return create_model(
        "Config", __base__=Config, data=(spec.Data, spec.Data()), model=(spec.Model, spec.Model())
    )


def load(path: str | Path | None = None, overrides: Sequence[str] = (), packaged: str = DEFAULT) -> Config:
    """The configuration in a TOML file, with overrides.

    Args:
        path: The file; None, the default, for an experiment that ships with the package.
        overrides: Settings such as `"training.rounds=100"`, of which later ones win; none by default.
        packaged: Which of these, one of `PACKAGED`; the default generates ratings.

    Raises:
        SettingError: The file is missing or no TOML, or a setting is unknown, breaks a rule or has no effect
            beside the others.
    """
    config = _load(path, overrides, packaged)
    check_effects(config)
    return config


def check_effects(config: Config) -> None:
    """Refuses settings that have no effect beside the others.

    Raises:
        SettingError: Naming one of them.
    """
    for section in (config.privacy, config.compression, config.aggregation):
        section.check_effect()


def _load(path: str | Path | None, overrides: Sequence[str] = (), packaged: str = DEFAULT) -> Config:
    """As `load`, with settings that have no effect, which folders of earlier versions may hold."""
    source, values = _read(path, packaged)
    # `RunSpec.configuration` writes the algorithm of a run made in Python as text.
    if isinstance(values.get("algorithm"), str):
        raise SettingError(
            f"{source}: is of a run made in Python, whose model and data only its program has: call "
            f"fedrecon.train with the same arguments to go on with it, fedrecon.Personalization to serve "
            f"clients; of the commands plot, compare and report take its folder"
        )
    config = resolve(values, source)
    return with_overrides(config, overrides)


def with_overrides(config: Config, overrides: Sequence[str]) -> Config:
    """The configuration with settings such as `"training.rounds=100"`; later ones win.

    Raises:
        SettingError: A setting is unknown or breaks a rule.
    """
    given: dict[str, Any] = {}
    for text in overrides:
        _merge(given, parse_override(text))
    return override(config, given) if given else config


def load_saved(run: Path, code: Sequence[str] = ()) -> Config:
    """The configuration of a run folder, which is checked against what the run began with.

    Args:
        run: The run folder, which has a configuration.
        code: Modules and functions that the user names; by default none. The folder may be somebody
            else's, so that no other code that it names is imported.

    Raises:
        RunError: The configuration is not what the run began with.
        SettingError: The folder names code that the user does not name.
    """
    from fedrecon.experiment.storage.run_folder import CONFIG, check_settings

    check_settings(run)
    path = run / CONFIG
    for place, name in code_of(path):
        if name not in code:
            raise SettingError(
                f"{path}: {place} names code, {name!r}, which the run folder alone does not get run: "
                f"if you trust it, name it again with --code {name}"
            )
    return _load(path)


def code_of(path: str | Path) -> list[tuple[str, str]]:
    """The settings of an experiment file that name code, and what they name; nothing is imported.

    Raises:
        SettingError: The file cannot be read or is no TOML.
    """
    values = _read(path)[1]
    data = values.get("data")
    named = {
        "task": values.get("task"),
        "data.tokenizer": data.get("tokenizer") if isinstance(data, dict) else None,
    }
    return [(name, x) for name, x in named.items() if isinstance(x, str) and ("." in x or ":" in x)]


def override(config: Config, given: Mapping[str, Any], source: str = "--set") -> Config:
    """The configuration with some settings changed. Another task starts from its own data and model settings.

    Args:
        config: The configuration to change, which stays as it is.
        given: The settings that change, as nested tables.
        source: The origin of the settings in messages; `"--set"` by default.

    Raises:
        SettingError: A setting is unknown or breaks a rule.
    """
    base = config.model_dump()
    if given.get("task", config.task) != config.task:
        del base["data"], base["model"]
    return resolve(overlay(type(config), base, given), source)


def resolve(values: Mapping[str, Any], source: str) -> Config:
    """The configuration with these values, every default filled in.

    Args:
        values: The settings as nested tables.
        source: The origin of the settings in messages.

    Raises:
        SettingError: A setting is unknown or breaks a rule.
    """
    task = values.get("task", Config.model_fields["task"].default)
    if not isinstance(task, str):
        raise SettingError(f"{source}: task must be a string, got {task!r}")
    cls = schema(task)
    return cast(Config, validate(cls, _with_home(overlay(cls, defaults(cls), values)), source))


def _with_home(values: dict[str, Any]) -> dict[str, Any]:
    """The settings with the user's folder for a `~` at the beginning of `data.path`, as in a shell."""
    data = values.get("data")
    path = data.get("path") if isinstance(data, Mapping) else None
    if not isinstance(data, Mapping) or not isinstance(path, str) or not path.startswith("~"):
        return values
    return {**values, "data": {**data, "path": os.path.expanduser(path)}}


def text(config: Config) -> str:
    """The configuration as TOML, every setting written out."""
    import tomli_w

    return tomli_w.dumps(config.model_dump())


def _read(path: str | Path | None, packaged: str = DEFAULT) -> tuple[str, dict[str, Any]]:
    if path is None:
        shipped = resources.files(__package__) / packaged
        return packaged, tomllib.loads(shipped.read_text(encoding="utf-8"))
    try:
        # Some editors begin a file with a byte order mark.
        content = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        # Python refuses a name that holds the character 0 by a ValueError, as it does what is no UTF-8.
        encoded = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error)
        reason = error.strerror if isinstance(error, OSError) else encoded
        hint = "; a setting is changed by --set NAME=VALUE" if "=" in str(path) else ""
        if isinstance(error, IsADirectoryError):
            hint = "; the experiment of a run folder is its config.toml"
        raise SettingError(f"{path}: the experiment cannot be read: {reason}{hint}") from None
    try:
        return str(path), parse_toml(content)
    except ValueError as error:
        raise SettingError(f"{path}: no TOML: {error}") from None


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        below = into.get(name)
        if isinstance(value, Mapping) and isinstance(below, dict) and not _of_another_kind(value, below):
            _merge(below, value)
        else:
            into[name] = value


def _of_another_kind(value: Mapping[str, Any], below: Mapping[str, Any]) -> bool:
    """Whether a table chooses another variant than one given before, so that it must replace that table."""
    return "kind" in value and "kind" in below and value["kind"] != below["kind"]
