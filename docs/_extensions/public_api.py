"""The API reference: an entry for every public name, generated from the `__all__` of the public packages.

A public package is one with a stub of lazy names (`__init__.pyi`), or a public module with an `__all__`. An
object that several packages export has its full entry in the package in which it is defined, and a short one
that points there in the others. A public name without an entry is a warning, hence an error of the build.
"""

import ast
import importlib
import inspect
import types
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

import fedrecon

logger = logging.getLogger(__name__)
# What a reader meets first comes first.
FIRST = ("fedrecon", "fedrecon.algorithms", "fedrecon.solvers", "fedrecon.splits", "fedrecon.sampling")


@dataclass(frozen=True)
class Entry:
    """A public name.

    Attributes:
        package: The package that exports it.
        name: Its name there.
        value: The object.
        home: The package of its full entry.
    """

    package: str
    name: str
    value: Any
    home: str

    @property
    def path(self) -> str:
        return f"{self.package}.{self.name}"

    @property
    def kind(self) -> str:
        """The directive's name, without `py:` or `auto`; `data` is the alias of a type."""
        if getattr(self.value, "__name__", None) != self.name:
            return "data"
        if isinstance(self.value, type):
            return "exception" if issubclass(self.value, BaseException) else "class"
        return "function"

    @property
    def role(self) -> str:
        return {"exception": "exc", "function": "func"}.get(self.kind, self.kind)


def public_packages() -> list[str]:
    """The dotted names of the public packages and modules, those that a reader meets first at the front."""
    root = Path(fedrecon.__path__[0])
    stubs = (".".join(p.parent.relative_to(root.parent).parts) for p in root.rglob("__init__.pyi"))
    modules = (f"fedrecon.{p.stem}" for p in root.glob("[a-z]*.py"))
    names = sorted({*stubs, *(m for m in modules if hasattr(importlib.import_module(m), "__all__"))})
    return [*FIRST, *(name for name in names if name not in FIRST)]


def public_entries() -> list[Entry]:
    """Every public name of every public package that is not itself a package."""
    packages = public_packages()
    exported: list[tuple[str, str, Any]] = []
    for package in packages:
        module = importlib.import_module(package)
        for name in module.__all__:
            value = getattr(module, name)
            if not isinstance(value, types.ModuleType):
                exported.append((package, name, value))
    return [Entry(p, n, v, _home(n, v, p, exported)) for p, n, v in exported]


def _home(name: str, value: Any, package: str, exported: list[tuple[str, str, Any]]) -> str:
    """The package in which an object is defined; otherwise the first one that exports it."""
    candidates = [p for p, n, v in exported if n == name and v is value]
    module = getattr(value, "__module__", None) or ""
    inside = [p for p in candidates if module.startswith(p + ".") and p != "fedrecon"]
    # `fedrecon.sampling` and `fedrecon.splits` are the names under which users look for what they export.
    by_subject = [p for p in candidates if p in ("fedrecon.sampling", "fedrecon.splits")]
    return (by_subject or sorted(inside, key=len, reverse=True) or candidates)[0]


def _page(package: str, entries: list[Entry]) -> str:
    summary, rest = _package_docstring(package)
    text = [f"# `{package}`", "", summary, "", rest, "", f"```{{py:module}} {package}", "```", ""]
    for entry in entries:
        text += [*_entry(entry), ""]
    return "\n".join(text)


def _table(packages: list[str]) -> str:
    rows = (f"| [`{p}`](_generated/api/{p}.md) | {_package_docstring(p)[0]} |\n" for p in packages)
    return "| package | what it has |\n|---|---|\n" + "".join(rows)


def _package_docstring(package: str) -> tuple[str, str]:
    """The first sentence of a package's docstring, and the rest."""
    summary, _, rest = inspect.cleandoc(importlib.import_module(package).__doc__ or "").partition("\n\n")
    if not summary:
        logger.warning("public package %s has no docstring", package)
    return summary.replace("\n", " "), rest


def _entry(entry: Entry) -> list[str]:
    if entry.home != entry.package:
        return [
            f"```{{py:{entry.kind}}} {entry.name}{_signature(entry)}",
            "",
            f"The same object as {{py:{entry.role}}}`{entry.home}.{entry.name}`. {_first_sentence(entry)}",
            "```",
        ]
    if entry.kind == "data":
        return [
            f"```{{py:data}} {entry.name}",
            f":canonical: {_source_module(entry)}.{entry.name}",
            "",
            _alias_docstring(entry),
            "```",
        ]
    text = ["```{eval-rst}", f".. auto{entry.kind}:: {entry.path}"]
    if entry.kind in ("class", "exception"):
        text += ["   :members:", "   :undoc-members:", "   :special-members: __call__"]
    return [*text, "```"]


def _signature(entry: Entry) -> str:
    if entry.kind != "function":
        return ""
    return f"({', '.join(inspect.signature(entry.value).parameters)})"


def _first_sentence(entry: Entry) -> str:
    if entry.kind == "data":
        return ""
    return (inspect.getdoc(entry.value) or "").partition("\n\n")[0].replace("\n", " ")


def _source_module(entry: Entry) -> str:
    """The private module from which the stub of a package takes a name."""
    stub = Path(importlib.import_module(entry.package).__path__[0]) / "__init__.pyi"
    for node in ast.parse(stub.read_text()).body:
        if isinstance(node, ast.ImportFrom) and entry.name in {alias.name for alias in node.names}:
            return f"{entry.package}.{node.module}"
    raise LookupError(f"{stub} does not import {entry.name}")


def _alias_docstring(entry: Entry) -> str:
    """The string below the definition of an alias, which is its documentation."""
    path = Path(str(importlib.import_module(_source_module(entry)).__file__))
    body = ast.parse(path.read_text()).body
    for definition, below in pairwise(body):
        target = getattr(definition, "target", None) or getattr(definition, "targets", [None])[0]
        if getattr(target, "id", None) == entry.name and isinstance(below, ast.Expr):
            return str(ast.literal_eval(below.value))
    logger.warning("%s: no string below %s says what it is", path, entry.name)
    return ""


def _write(app: Sphinx) -> None:
    folder = Path(app.srcdir) / "_generated" / "api"
    folder.mkdir(parents=True, exist_ok=True)
    entries = public_entries()
    pages = {f"{p}.md": _page(p, [e for e in entries if e.package == p]) for p in public_packages()}
    for old in folder.glob("*.md"):
        if old.name not in pages:
            old.unlink()
    for name, text in pages.items():
        page = folder / name
        if not page.exists() or page.read_text() != text:
            page.write_text(text)
    (folder.parent / "packages.txt").write_text(_table(public_packages()))


def _resolve_private_paths(
    app: Sphinx, env: BuildEnvironment, node: nodes.Element, contnode: nodes.Node
) -> nodes.Node | None:
    """Links a type that autodoc names by its private module to the entry of its public name."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py":
        return None
    public = _public_paths(app).get(target) or _public_paths(app).get(target.rpartition(".")[2])
    if public is None or public == target:
        return None
    domain = env.domains.python_domain
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", public, node, contnode)


def _public_paths(app: Sphinx) -> dict[str, str]:
    """From the private path of an object, and from its bare name, to the path of its full entry."""
    paths: dict[str, str] | None = getattr(app, "_fedrecon_public_paths", None)
    if paths is None:
        paths = {}
        for entry in public_entries():
            paths[f"{getattr(entry.value, '__module__', '')}.{entry.name}"] = f"{entry.home}.{entry.name}"
            paths.setdefault(entry.name, f"{entry.home}.{entry.name}")
        app._fedrecon_public_paths = paths  # type: ignore[attr-defined]
    return paths


def _check(app: Sphinx, env: BuildEnvironment) -> None:
    """Warns of every public name that has no entry."""
    documented = env.domains.python_domain.objects
    for entry in public_entries():
        if entry.path not in documented:
            logger.warning("public name %s has no entry in the API reference", entry.path)


def _skip_fields(app: Sphinx, what: str, name: str, value: Any, skip: bool, options: object) -> bool | None:
    """Leaves out fields of records as entries of their own: the class's docstring describes them all."""
    is_code = isinstance(value, property | staticmethod | classmethod) or callable(value)
    return skip if is_code else True


def setup(app: Sphinx) -> dict[str, bool]:
    """Writes the pages before Sphinx looks for sources, and compares names and entries when all are read."""
    app.connect("builder-inited", _write)
    app.connect("missing-reference", _resolve_private_paths)
    app.connect("autodoc-skip-member", _skip_fields)
    app.connect("env-check-consistency", _check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
