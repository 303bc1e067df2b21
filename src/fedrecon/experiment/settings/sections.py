"""The machinery of settings: sections, defaults, variants, overrides, and errors that name the setting."""

import difflib
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails, PydanticUndefined

from fedrecon.errors import parsing_error


class SettingError(ValueError):
    """A setting that is unknown, missing or out of its range."""


_INT64 = range(-(2**63), 2**63)


class FaultySettingError(ValueError):
    """Raised by a validator of a section as a whole, to name the setting of the section that breaks a rule.

    Attributes:
        name: The name of the setting in its section.
    """

    def __init__(self, name: str, message: str):
        super().__init__(message)
        self.name = name


class Section(BaseModel):
    """A table of settings. Unknown names, and values of another type, are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True)


def setting(default: Any, description: str, **rules: Any) -> Any:
    """A setting of a section.

    Args:
        default: The default; `...` if the setting must be given. A mutable default may be shared, since
            sections are frozen.
        description: The meaning of the setting, as `fedrecon settings` prints it.
        **rules: Rules for the value that pydantic's `Field` knows, such as `gt=0`.
    """
    return Field(default, description=description, **rules)


class SettingInfo(NamedTuple):
    """What a schema tells about a setting.

    Attributes:
        path: The dotted name of the setting, for instance `"training.rounds"`.
        default: The default of the setting; None if it must be given.
        description: The meaning of the setting.
        only: The choice under which alone the setting exists, for instance `"algorithm.name = maml"`; `""` if
            it always exists.
    """

    path: str
    default: Any
    description: str
    only: str


def variants(section: type[Section], name: str) -> tuple[str, dict[str, type[Section]]]:
    """The classes that a subsection may have.

    Args:
        section: The section that has the subsection.
        name: The name of the subsection.

    Returns:
        The name of the setting in the subsection that chooses the class, and the classes by the value of that
        setting. `("", {})` if `name` is a setting and no subsection; `("", {"": cls})` if there is one class.
    """
    field = section.model_fields[name]
    classes = [c for c in get_args(field.annotation) or (field.annotation,) if _is_section(c)]
    if not classes:
        return "", {}
    tag = field.discriminator
    if not isinstance(tag, str):
        return "", {"": classes[0]}
    return tag, {cls.model_fields[tag].default: cls for cls in classes}


def all_settings(section: type[Section], prefix: str = "", only: str = "") -> Iterator[SettingInfo]:
    """Every setting of a section and of all variants of its subsections.

    Args:
        section: The class of the section.
        prefix: The dotted name of the section with a dot behind it; `""`, the default, for the whole schema.
        only: The choice under which alone the section exists; `""`, the default, if it always does.
    """
    for name, field in section.model_fields.items():
        path = prefix + name
        tag, classes = variants(section, name)
        if not classes:
            default = None if field.default is PydanticUndefined else field.default
            yield SettingInfo(path, default, field.description or "", only)
            continue
        if tag:
            names = " | ".join(f'"{value}"' for value in classes)
            text = f"{field.description} {names}"
            yield SettingInfo(f"{path}.{tag}", getattr(field.default, tag), text, only)
        for value, cls in classes.items():
            here = f"{path}.{tag} = {value}" if tag and len(classes) > 1 else ""
            for item in all_settings(cls, path + ".", ", ".join(x for x in (only, here) if x)):
                if item.path != f"{path}.{tag}":
                    yield item


def overlay(section: type[Section], base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """Nested tables of settings with some of them replaced.

    Where `top` chooses another variant of a subsection, that subsection starts from the variant's defaults.

    Args:
        section: The class of the section that the tables describe.
        base: All settings as nested tables.
        top: The settings that replace those of `base`.
    """
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
    """The text `"a.b=0.5"` as `{"a": {"b": 0.5}}`. A value that is not TOML is taken as a string.

    Raises:
        SettingError: There is no `=`, or no name before it.
    """
    path, equals, value = text.partition("=")
    path = path.strip()
    if not equals or not path or not all(path.split(".")):
        raise SettingError(f"--set takes NAME=VALUE, for instance training.rounds=100, got {text!r}")
    try:
        parsed = parse_toml(f"value = {value.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    except ValueError as error:
        raise SettingError(f"--set {path}: {error}") from None
    for part in reversed(path.split(".")):
        parsed = {part: parsed}
    return parsed


def parse_toml(text: str) -> dict[str, Any]:
    """The content of a TOML file.

    Raises:
        ValueError: The text is no TOML, is nested too deeply, or has a whole number that does not fit in 64
            bits. The message says which.
    """
    try:
        content = tomllib.loads(text)
        _check_whole_numbers(content)
        return content
    except tomllib.TOMLDecodeError:
        raise
    except RecursionError:
        raise ValueError("its tables or lists are nested too deeply") from None
    except ValueError as error:
        raise ValueError(parsing_error(error)) from None


def _check_whole_numbers(content: dict[str, Any]) -> None:
    """Refuses whole numbers that TOML does not have; NumPy's messages about them would name nothing."""
    waiting: list[Any] = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, int) and value not in _INT64:
            raise ValueError(f"a whole number must fit in 64 bits, got {str(value)[:30]}")


def validate(section: type[Section], values: Mapping[str, Any], source: str) -> Any:
    """The section with these values.

    Args:
        section: The class of the section.
        values: The settings of the section as nested tables.
        source: Where the values come from, for the message.

    Raises:
        SettingError: Naming the first setting that is unknown (with the nearest known one) or breaks a rule.
    """
    try:
        return section.model_validate(values)
    except ValidationError as error:
        raise SettingError(f"{source}: {_explain(section, values, error.errors())}") from None


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one table with dotted names, each of which gets `prefix` before it."""
    result = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            result.update(flat(value, f"{prefix}{name}."))
        else:
            result[prefix + name] = value
    return result


def nearest(path: str, candidates: Sequence[str]) -> str:
    """The candidate that looks most like `path`; likeness of the last part counts as much as of the whole."""

    def likeness(candidate: str) -> float:
        whole = difflib.SequenceMatcher(None, path, candidate).ratio()
        last = difflib.SequenceMatcher(None, path.rpartition(".")[2], candidate.rpartition(".")[2]).ratio()
        return whole + last

    return max(candidates, key=likeness)


def unknown(section: type[Section], path: str) -> str:
    """The message about a setting that does not exist, or not under the present choices."""
    names = list(dict.fromkeys(item.path for item in all_settings(section)))
    if path in names:
        item = next(item for item in all_settings(section) if item.path == path)
        return f"setting {path} exists only with {item.only}"
    return f"there is no setting {path}; the nearest one is {nearest(path, names)}"


def _explain(section: type[Section], values: Mapping[str, Any], errors: Sequence[ErrorDetails]) -> str:
    """The message about the first error that pydantic found."""
    names = {item.path for item in all_settings(section)}
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
        if isinstance(fault := error["ctx"]["error"], FaultySettingError):
            return f"{path}.{fault.name} {fault}" if path else f"{fault.name} {fault}"
        return f"{path}: {error['ctx']['error']}" if path else str(error["ctx"]["error"])
    # A setting of a union type has an error for each of the types.
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
