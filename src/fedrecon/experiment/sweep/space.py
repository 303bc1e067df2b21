"""The space of a sweep: the settings that it may change, and the values that they may have."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from fedrecon.experiment.config import Config, check_effects, override
from fedrecon.experiment.settings.sections import SettingError, flat, parse_toml

if TYPE_CHECKING:
    from optuna.trial import Trial

RANGE, CHOICES = ("low", "high", "log", "step"), ("choices",)

# Settings that a sweep must not change: they decide what is measured, so values would not be comparable.
FIXED = ("name", "task", "seed", "data", "evaluation", "tracking")

Scalar = bool | int | float | str


class Dimension(NamedTuple):
    """A setting that a sweep may change: a list of choices or a range of numbers.

    Attributes:
        path: The dotted name of the setting.
        choices: The values that it may have; `()`, the default, for a range.
        low: The lower end of a range; 0 by default.
        high: The upper end of a range, itself included; 0 by default.
        log: Whether a range is searched on a logarithmic scale; False by default.
        step: The distance between the values of a range; None, the default, for any value in it.
        whole: Whether the values of a range are whole numbers; False by default.
        needs: Other settings, each with the choices under which this one exists; by default it always does.
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
        """The choices, or the two ends of the range."""
        return self.choices or (self._of(self.low), self._of(self.high))

    def exists(self, chosen: Mapping[str, Scalar]) -> bool:
        """Whether the setting exists beside these values of other settings, by their dotted names."""
        return all(name in chosen and chosen[name] in values for name, values in self.needs)

    def suggest(self, trial: "Trial") -> Scalar:
        """The value that Optuna chooses for a trial."""
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
        path: A TOML file. The value of a setting is `{ low, high }` with `log` or `step`, or
            `{ choices = [...] }`, or a list of choices.
        config: The configuration of the experiment that is tuned.

    Raises:
        SettingError: The file cannot be read, a setting is unknown or may not be tuned, or a range is wrong.
    """
    try:
        values = parse_toml(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingError(f"{path}: the space cannot be read: {reason}") from None
    except ValueError as error:
        raise SettingError(f"{path}: no TOML: {error}") from None
    return parse(values, config, str(path))


def parse(values: Mapping[str, Any], config: Config, source: str) -> list[Dimension]:
    """The space in nested tables, see `load`. Settings that need others come after these.

    Args:
        values: The tables of the file.
        config: The configuration of the experiment that is tuned.
        source: The name of the file, for messages.
    """
    dimensions = [_dimension(name, value, config, source) for name, value in _leaves(values, source)]
    if not dimensions:
        raise SettingError(f"{source}: a space must name at least one setting, this has none")
    complete = [d._replace(needs=_needs(d, dimensions, config, source)) for d in dimensions]
    return sorted(complete, key=lambda d: len(d.needs))


def nest(chosen: Mapping[str, Any]) -> dict[str, Any]:
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

    # Where the output buckets are set by themselves, the buckets of the embeddings do not change what a model
    # is asked to predict, and may be tuned.
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
    # A range with whole ends still has fractions if the setting's present value is one, as a learning rate.
    whole = all(isinstance(x, int) for x in (low, high, step or 1)) and not isinstance(present, float)
    return Dimension(path, (), low, high, log, step, whole)


def _needs(
    dimension: Dimension, space: list[Dimension], config: Config, source: str
) -> tuple[tuple[str, tuple[Scalar, ...]], ...]:
    """The choices of other settings under which a setting exists, found by trying all of them.

    Raises:
        SettingError: The setting exists under none of the choices, or one of its own values breaks a rule.
    """

    def wrong(chosen: Mapping[str, Any]) -> str:
        for end in dimension.ends():
            try:
                tried = override(config, nest({**chosen, dimension.path: end}))
                tried.algorithm.parts()
                check_effects(tried)  # else the experiment of the best trial could be refused
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
