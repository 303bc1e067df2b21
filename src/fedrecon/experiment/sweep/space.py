"""The settings that a sweep may change, and between which values."""

import math
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from fedrecon.experiment.config import Config, override
from fedrecon.experiment.settings.sections import SettingError, flat

if TYPE_CHECKING:
    from optuna.trial import Trial

RANGE, CHOICES = ("low", "high", "log", "step"), ("choices",)

# Another value of these would change what is measured, and not how well.
FIXED = ("name", "task", "seed", "data", "evaluation", "tracking")

Scalar = bool | int | float | str


class Dimension(NamedTuple):
    """A setting that is tuned.

    Attributes:
        path: Dotted.
        choices: Its values, or () for a range.
        low: Of a range.
        high: Of a range, which it may reach.
        log: Whether the range is searched by orders of magnitude.
        step: Between values; None for any value.
        whole: Whether its values are whole numbers.
        needs: Choices of other settings under which alone it exists.
    """

    path: str
    choices: tuple[Scalar, ...] = ()
    low: int | float = 0
    high: int | float = 0
    log: bool = False
    step: int | float | None = None
    whole: bool = False
    needs: tuple[tuple[str, tuple[Scalar, ...]], ...] = ()

    def ends(self) -> tuple[Scalar, ...]:
        """Its values, or the ends of its range."""
        return self.choices or (self._of(self.low), self._of(self.high))

    def exists(self, chosen: Mapping[str, Scalar]) -> bool:
        """Whether it exists beside these values of other settings."""
        return all(name in chosen and chosen[name] in values for name, values in self.needs)

    def suggest(self, trial: "Trial") -> Scalar:
        """The value that a trial of Optuna tries."""
        if self.choices:
            value = cast(Scalar, trial.suggest_categorical(self.path, list(self.choices)))
        elif self.whole:
            value = trial.suggest_int(
                self.path, int(self.low), int(self.high), step=int(self.step or 1), log=self.log
            )
        else:
            value = trial.suggest_float(self.path, self.low, self.high, step=self.step, log=self.log)
        return value

    def _of(self, end: int | float) -> Scalar:
        return int(end) if self.whole else float(end)


def load(path: str | Path, config: Config) -> list[Dimension]:
    """Reads a file of ranges, each under the name of its setting.

    Args:
        path: A TOML file; `{ low, high }` with `log` or `step`, `{ choices = [...] }`, or a list of choices.
        config: The experiment that is tuned.

    Raises:
        SettingError: The file cannot be read, a setting is unknown or may not be tuned, or a range is wrong.
    """
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingError(f"{path}: the space cannot be read: {reason}") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingError(f"{path}: no TOML: {error}") from None
    return parse(values, config, str(path))


def parse(values: Mapping[str, Any], config: Config, source: str) -> list[Dimension]:
    """The space in nested tables, those settings last that need others; see `load`."""
    found = [_dimension(name, value, config, source) for name, value in _leaves(values, source)]
    if not found:
        raise SettingError(f"{source}: a space must name at least one setting, this has none")
    made = [d._replace(needs=_needs(d, found, config, source)) for d in found]
    return sorted(made, key=lambda d: len(d.needs))


def nested(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by their dotted names as nested tables."""
    result: dict[str, Any] = {}
    for path, value in chosen.items():
        *tables, name = path.split(".")
        table = result
        for part in tables:
            table = table.setdefault(part, {})
        table[name] = value
    return result


def _leaves(values: Mapping[str, Any], source: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        path = prefix + name
        if isinstance(value, list):
            yield path, {"choices": value}
        elif not isinstance(value, Mapping):
            raise SettingError(
                f"{source}: {path} must be a range such as {{ low = 0.1, high = 1.0 }} or a list of choices, "
                f"got {value!r}"
            )
        elif any(not isinstance(x, Mapping) for key, x in value.items() if key in RANGE + CHOICES):
            yield path, value
        else:
            yield from _leaves(value, source, path + ".")


def _dimension(path: str, value: Mapping[str, Any], config: Config, source: str) -> Dimension:
    def fail(rule: str, got: object) -> SettingError:
        return SettingError(f"{source}: {path} {rule}, got {got!r}")

    # With output buckets of their own, those of the embeddings change nothing that is asked of a model.
    apart = path == "data.buckets" and getattr(config.data, "output_buckets", "same") != "same"
    if path.partition(".")[0] in FIXED and not apart:
        raise SettingError(f"{source}: {path} cannot be tuned: it changes what is measured")
    for key in value:
        allowed = CHOICES if "choices" in value else RANGE
        if key not in allowed:
            raise fail(f"takes {', '.join(allowed)}", key)
    if "choices" in value:
        choices = value["choices"]
        if not isinstance(choices, list) or len({repr(x) for x in choices}) < 2:
            raise fail("needs at least two different choices", choices)
        if not all(isinstance(x, Scalar) for x in choices):
            raise fail("needs choices that are numbers, strings or booleans", choices)
        return Dimension(path, tuple(choices))
    for key in ("low", "high"):
        if key not in value:
            raise fail("needs low and high", dict(value))
    for key in ("low", "high", "step"):
        number = value.get(key, 1)
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise fail(f"needs a number for {key}", number)
    low, high, log, step = value["low"], value["high"], value.get("log", False), value.get("step")
    if not isinstance(log, bool):
        raise fail("needs true or false for log", log)
    if low >= high:
        raise fail("needs low < high", f"{low} and {high}")
    if log and low <= 0:
        raise fail("needs low > 0 with log = true", low)
    if log and step is not None:
        raise fail("takes either log = true or a step", step)
    if step is not None and not 0 < step <= high - low:
        raise fail("needs a step of more than 0 and at most high - low", step)
    present = flat(config.model_dump()).get(path)
    # Whole ends of a setting that is a fraction now, such as a learning rate, are no wish for whole numbers.
    whole = all(isinstance(x, int) for x in (low, high, step or 1)) and not isinstance(present, float)
    return Dimension(path, (), low, high, log, step, whole)


def _needs(
    dimension: Dimension, space: list[Dimension], config: Config, source: str
) -> tuple[tuple[str, tuple[Scalar, ...]], ...]:
    """Under which choices of others a setting exists, all of its values tried.

    Raises:
        SettingError: Under none, or a value breaks a rule of the setting.
    """

    def wrong(chosen: Mapping[str, Any]) -> str:
        for end in dimension.ends():
            try:
                override(config, nested({**chosen, dimension.path: end})).algorithm.parts()
            except SettingError as error:
                return str(error).removeprefix("--set: ")
        return ""

    others = [d for d in space if d.choices and d.path != dimension.path]
    starts: list[dict[str, Any]] = [{}, *({d.path: choice} for d in others for choice in d.choices)]
    start = next((chosen for chosen in starts if not wrong(chosen)), None)
    if start is None:
        raise SettingError(f"{source}: {wrong({})}")
    needs = []
    for other in others:
        fit = tuple(x for x in other.choices if not wrong({**start, other.path: x}))
        if fit != other.choices:
            needs.append((other.path, fit))
    return tuple(needs)
