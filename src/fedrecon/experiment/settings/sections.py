"""Settings in sections: defaults, variants, overrides, and errors that name the setting."""

import difflib
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails, PydanticUndefined


class SettingError(ValueError):
    """A setting that is unknown, missing or out of its range."""


class Section(BaseModel):
    """A table of settings. Unknown names, and values of another type, are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True)


def setting(default: Any, description: str, **rules: Any) -> Any:
    """A setting with its default, what it means, and rules such as `gt=0`; a default of `...` means required.

    A mutable default may be shared: sections are frozen.
    """
    return Field(default, description=description, **rules)


class Known(NamedTuple):
    """A setting that exists.

    Attributes:
        path: Dotted, for instance `"training.rounds"`.
        default: What it is when not given; None if it must be given.
        description: What it means.
        only: The variant it belongs to, for instance `"algorithm.name = maml"`; `""` if it always exists.
    """

    path: str
    default: Any
    description: str
    only: str


def variants(section: type[Section], name: str) -> tuple[str, dict[str, type[Section]]]:
    """Which setting chooses the class of the subsection `name`, and the classes by its value.

    `("", {})` for what is no section; `("", {"": cls})` for a section of a single class.
    """
    field = section.model_fields[name]
    classes = [c for c in get_args(field.annotation) or (field.annotation,) if _is_section(c)]
    if not classes:
        return "", {}
    tag = field.discriminator
    if not isinstance(tag, str):
        return "", {"": classes[0]}
    return tag, {cls.model_fields[tag].default: cls for cls in classes}


def known(section: type[Section], prefix: str = "", only: str = "") -> Iterator[Known]:
    """Every setting of a section and of all variants of its subsections."""
    for name, field in section.model_fields.items():
        path = prefix + name
        tag, classes = variants(section, name)
        if not classes:
            default = None if field.default is PydanticUndefined else field.default
            yield Known(path, default, field.description or "", only)
            continue
        if tag:
            names = " | ".join(f'"{value}"' for value in classes)
            yield Known(f"{path}.{tag}", getattr(field.default, tag), f"{field.description} {names}", only)
        for value, cls in classes.items():
            here = f"{path}.{tag} = {value}" if tag and len(classes) > 1 else ""
            for item in known(cls, path + ".", ", ".join(x for x in (only, here) if x)):
                if item.path != f"{path}.{tag}":
                    yield item


def overlay(section: type[Section], base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the settings of `top`; another variant, chosen in `top`, starts from its own defaults."""
    result = dict(base)
    for name, value in top.items():
        if name not in section.model_fields or not isinstance(value, Mapping):
            result[name] = value
            continue
        tag, classes = variants(section, name)
        if not classes:
            result[name] = value
            continue
        below = base.get(name)
        below = below if isinstance(below, Mapping) else {}
        chosen = value.get(tag, below.get(tag, "")) if tag else ""
        cls = classes.get(chosen) if isinstance(chosen, str) else None
        if cls is None:
            result[name] = {**below, **value}
        elif tag and below.get(tag) != chosen:
            result[name] = overlay(cls, {tag: chosen, **defaults(cls)}, value)
        else:
            result[name] = overlay(cls, below, value)
    return result


def defaults(section: type[Section]) -> dict[str, Any]:
    """The default of every setting that has one, as nested tables."""
    result = {}
    for name, field in section.model_fields.items():
        if field.default is not PydanticUndefined:
            value = field.default
            result[name] = value.model_dump() if isinstance(value, Section) else value
    return result


def parse_override(text: str) -> dict[str, Any]:
    """`"a.b=0.5"` as `{"a": {"b": 0.5}}`. The value is TOML; what is not TOML is a string.

    Raises:
        SettingError: There is no `=`, or no name before it.
    """
    path, equals, value = text.partition("=")
    path = path.strip()
    if not equals or not path or not all(path.split(".")):
        raise SettingError(f"--set takes NAME=VALUE, for instance training.rounds=100, got {text!r}")
    try:
        parsed = tomllib.loads(f"value = {value.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    for part in reversed(path.split(".")):
        parsed = {part: parsed}
    return parsed


def validate(section: type[Section], values: Mapping[str, Any], source: str) -> Any:
    """The section with these values.

    Args:
        section: Its class.
        values: Nested tables.
        source: Where the values come from, for the message.

    Raises:
        SettingError: Naming the first setting that is unknown (with the nearest known one) or breaks a rule.
    """
    try:
        return section.model_validate(values)
    except ValidationError as error:
        raise SettingError(f"{source}: {_explain(section, values, error.errors())}") from None


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one table with dotted names."""
    result = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            result.update(flat(value, f"{prefix}{name}."))
        else:
            result[prefix + name] = value
    return result


def nearest(path: str, candidates: Sequence[str]) -> str:
    """The candidate that looks most like `path`, of which the last part counts as much as the whole."""

    def likeness(candidate: str) -> float:
        whole = difflib.SequenceMatcher(None, path, candidate).ratio()
        last = difflib.SequenceMatcher(None, path.rpartition(".")[2], candidate.rpartition(".")[2]).ratio()
        return whole + last

    return max(candidates, key=likeness)


def unknown(section: type[Section], path: str) -> str:
    """What to say about a setting that does not exist."""
    names = list(dict.fromkeys(item.path for item in known(section)))
    if path in names:
        item = next(item for item in known(section) if item.path == path)
        return f"setting {path} exists only with {item.only}"
    return f"there is no setting {path}; the nearest one is {nearest(path, names)}"


def _explain(section: type[Section], values: Mapping[str, Any], errors: Sequence[ErrorDetails]) -> str:
    names = {item.path for item in known(section)}
    error = errors[0]
    path = _path(values, error["loc"], names)
    if error["type"] == "extra_forbidden":
        value = error["input"]
        while isinstance(value, Mapping) and len(value) == 1:
            ((name, value),) = value.items()
            path += f".{name}"
        return unknown(section, path)
    if error["type"] == "missing":
        return f"setting {path} is missing, and has no default"
    if error["type"].startswith("union_tag"):
        tag = str(error.get("ctx", {}).get("discriminator", "")).strip("'")
        expected = error.get("ctx", {}).get("expected_tags", "given")
        value = error["input"].get(tag) if isinstance(error["input"], Mapping) else error["input"]
        return f"{path}.{tag} must be one of {expected}, got {value!r}"
    if error["type"] == "value_error":
        return f"{path}: {error['ctx']['error']}" if path else str(error["ctx"]["error"])
    # What may be one thing or another has an error for each.
    same = [e["msg"] for e in errors if _path(values, e["loc"], names) == path]
    rule = " or ".join(message.removeprefix("Input should be ") for message in dict.fromkeys(same))
    return f"{path} must be {rule}, got {error['input']!r}"


def _path(values: Any, location: Sequence[Any], names: Collection[str]) -> str:
    """The dotted path of an error, without the chosen variants and types that pydantic puts in it."""
    parts: list[str] = []
    node = values
    for part in location:
        if isinstance(node, Mapping) and part not in node and part in node.values():
            continue
        if ".".join(parts) in names:
            break
        parts.append(str(part))
        node = node.get(part) if isinstance(node, Mapping) else None
    return ".".join(parts)


def _is_section(cls: Any) -> bool:
    return isinstance(cls, type) and issubclass(cls, Section)
