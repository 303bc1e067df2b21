"""Prints all settings as an experiment file with comments."""

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from fedrecon.experiment.config import Config, resolve
from fedrecon.experiment.settings.sections import Section, SettingInfo, all_settings, flat, variants
from fedrecon.experiment.tasks._spec import task_names

WIDTH = 110


def listing(config: Config) -> str:
    """The TOML of a configuration, with a comment on the meaning of each setting.

    A comment gives the default where the value differs from it. Settings of variants that are not chosen
    follow as comments.
    """
    import tomli_w

    values = flat(config.model_dump())
    schema = type(config)
    lines, table = [f"# Tasks: {', '.join(task_names())}"], ""
    described: dict[str, SettingInfo] = {}
    others: list[SettingInfo] = []
    for item in all_settings(schema):
        described.setdefault(item.path, item)
        if item.path not in values:
            others.append(item)
    # In TOML a table's own values come before the tables in it.
    for path in sorted(values, key=lambda p: _order(p, values)):
        parent, _, name = path.rpartition(".")
        if parent != table:
            table = parent
            lines += ["", f"[{table}]"]
        if path in described:
            lines += _comment(described[path], values[path])
        lines.append(tomli_w.dumps({name: values[path]}).strip())
    if others:
        lines += ["", "# Settings of what is not chosen above:"]
        for item in others:
            only = f" ({item.only})" if item.only else ""
            lines += _wrap(f"{item.path}{only}: {item.description}; default {_shown(item.default)}")
    return "\n".join(lines) + "\n"


def changes(config: Config) -> str:
    """The TOML of the settings of a configuration that differ from their defaults: it loads as the same one.

    The defaults are those of the task and the variants that the configuration chooses.
    """
    import tomli_w

    chosen = {"task": config.task, **dict(_choices(config))}
    defaults = flat(resolve(_nested(chosen), "the defaults").model_dump())
    values = flat(config.model_dump())
    differing = {path: x for path, x in values.items() if path in chosen or x != defaults.get(path, ...)}
    return tomli_w.dumps(_nested(differing))


def _choices(section: Section, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The settings by which a section chooses other variants of its subsections than the defaults."""
    for name, field in type(section).model_fields.items():
        below = getattr(section, name)
        if isinstance(below, Section):
            tag, _ = variants(type(section), name)
            if tag and getattr(below, tag) != getattr(field.default, tag, None):
                yield f"{prefix}{name}.{tag}", getattr(below, tag)
            yield from _choices(below, f"{prefix}{name}.")


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """A table with dotted names as nested tables; the inverse of `flat`."""
    tables: dict[str, Any] = {}
    for path, value in values.items():
        *parents, name = path.split(".")
        table = tables
        for parent in parents:
            table = table.setdefault(parent, {})
        table[name] = value
    return tables


def _order(path: str, values: Mapping[str, Any]) -> tuple[int, ...]:
    """A sort key that keeps the order of the settings, but puts a table's own values before its subtables."""
    names = list(values)
    parent = path.rpartition(".")[0]
    first = next(i for i, name in enumerate(names) if name.rpartition(".")[0] == parent)
    return (0 if not parent else 1, _depth_first(parent, names), first, names.index(path))


def _depth_first(parent: str, names: list[str]) -> int:
    """The index of the first setting in or below a table."""
    return next((i for i, name in enumerate(names) if name.startswith(f"{parent}.")), 0)


def _comment(item: SettingInfo, value: object) -> list[str]:
    default = "" if value == item.default else f"; default {_shown(item.default)}"
    return _wrap(item.description + default)


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="# ", subsequent_indent="#   ")


def _shown(value: object) -> str:
    import tomli_w

    return "none" if value is None else tomli_w.dumps({"x": value}).strip().removeprefix("x = ")
