"""Imports point only downwards, form no circle, and the core names only jax, optax, numpy and jaxtyping."""

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

# From the lowest to the highest. A part is a module or a package of `fedrecon`; parts of one layer do not
# know each other.
LAYERS = (
    ("errors", "tags"),
    ("stats", "devices", "draws", "linear", "gathering", "packing", "best"),
    ("model", "data"),
    ("rows", "steps", "optimizers", "folding", "ranking", "pooling", "compilation"),
    ("step_rows",),
    ("solver", "partitions", "lookups"),
    ("newton",),
    ("algorithm",),
    ("algorithms", "privacy", "federation", "adapters"),
    ("checks", "cohort", "conversions", "rounds"),
    ("tasks", "deployment", "ondevice", "simulation", "evaluation", "personalization"),
    ("experiment",),
    ("__main__",),
)
HEIGHT = {part: height for height, layer in enumerate(LAYERS) for part in layer}
NOT_CORE = {"adapters", "conversions", "deployment", "experiment", "ondevice", "tasks", "__main__"}
CORE_MAY_IMPORT = {"jax", "jaxtyping", "numpy", "optax"}
CORE_MAY_IMPORT_IN_FUNCTIONS = CORE_MAY_IMPORT | {"pyarrow"}
IMPORTERS = {"import_module", "__import__"}
STRANGERS = "tasks"  # its packages share a layer and a folder, nothing else


class Import(NamedTuple):
    importer: str  # dotted, without the package's own name; "" is the package itself
    target: str  # likewise where inside, else the full name
    inside: bool
    deferred: bool  # in a function, or for type checkers only
    line: int


def imports_in(root: Path) -> Iterator[Import]:
    """All imports of the package at `root`."""
    paths = {_dotted(path.relative_to(root)): path for path in sorted(root.rglob("*.py"))}
    for importer, path in paths.items():
        # What `from . import x` starts from.
        here = importer if path.name == "__init__.py" else importer.rpartition(".")[0]
        for node, deferred in _walk(ast.parse(path.read_text()), False):
            for name in _imported(node, root.name, here, paths):
                inside = name.split(".")[0] == root.name
                target = name.partition(".")[2] if inside else name
                yield Import(importer, target, inside, deferred, getattr(node, "lineno", 0))


def _dotted(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _walk(node: ast.AST, deferred: bool) -> Iterator[tuple[ast.AST, bool]]:
    yield node, deferred
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        deferred = True
    if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        for_checkers = node.body
    else:
        for_checkers = []
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, deferred or child in for_checkers)


def _imported(node: ast.AST, package: str, here: str, modules: dict[str, Path]) -> Iterator[str]:
    """Full names of the modules that one statement imports."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            anchor = [package, *filter(None, here.split("."))]
            base = ".".join(filter(None, [*anchor[: len(anchor) - node.level + 1], base]))
        for alias in node.names:
            child = f"{base}.{alias.name}"
            yield child if child.partition(".")[2] in modules and base.split(".")[0] == package else base
    elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in IMPORTERS:
        yield from (str(name.value) for name in node.args[:1] if isinstance(name, ast.Constant))


def violations(root: Path) -> list[str]:
    """One line for each import of the package at `root` that breaks a rule, and one for a circle."""
    # The package itself only hands out names, and does so on their first use.
    imports = [one for one in imports_in(root) if one.importer]
    found = [f"{one.importer}, line {one.line}: {reason}" for one in imports if (reason := _broken_rule(one))]
    graph: dict[str, set[str]] = {}
    for one in imports:
        if one.inside:
            graph.setdefault(one.importer, set()).add(one.target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found.append("a circle: " + " <- ".join(error.args[1]))
    return found


def _broken_rule(one: Import) -> str | None:
    part = one.importer.split(".")[0]
    if part not in HEIGHT:
        return f"{part} has no layer"
    if not one.inside:
        return _broken_outside_rule(one, part)
    if not one.target:
        return "imports the public names instead of the module that defines them"
    target = one.target.split(".")[0]
    if target not in HEIGHT:
        return f"imports {target}, which has no layer"
    if target == part == STRANGERS:
        mine, other = (name.split(".")[1:2] for name in (one.importer, one.target))
        return f"{part} are strangers to each other, imports {one.target}" if mine != other else None
    if target != part and HEIGHT[target] >= HEIGHT[part]:
        return f"imports {target}, which is not below {part}"
    return None


def _broken_outside_rule(one: Import, part: str) -> str | None:
    library = one.target.split(".")[0]
    if part in NOT_CORE or library in sys.stdlib_module_names:
        return None
    allowed = CORE_MAY_IMPORT_IN_FUNCTIONS if one.deferred else CORE_MAY_IMPORT
    return None if library in allowed else f"the core may not import {library} here"


def test_layers_hold(repository):
    assert violations(repository / "src/fedrecon") == []


def test_every_module_is_read(repository):
    importers = {one.importer for one in imports_in(repository / "src/fedrecon")}
    assert {"stats", "solver", "simulation", "federation.clients", "experiment.cli"} <= importers


NOT_BELOW = "which is not below"
OUTSIDE = "the core may not import"
UNLAWFUL = [
    ("stats", "import fedrecon.model", f"imports model, {NOT_BELOW} stats"),
    ("stats", "from fedrecon.model import Model", NOT_BELOW),
    ("stats", "from . import model", NOT_BELOW),
    ("stats", "from .model import Model", NOT_BELOW),
    ("stats", "def f():\n    from .model import Model", NOT_BELOW),
    ("stats", "if TYPE_CHECKING:\n    from .model import Model", NOT_BELOW),
    ("stats", "import importlib\nimportlib.import_module('fedrecon.model')", NOT_BELOW),
    ("model", "from .data import Examples", f"imports data, {NOT_BELOW} model"),
    ("algorithms/fedavg", "from ..simulation import Simulation", f"imports simulation, {NOT_BELOW}"),
    ("algorithms/fedavg", "from .. import simulation", f"imports simulation, {NOT_BELOW}"),
    ("algorithms/__init__", "from ..simulation import Simulation", f"imports simulation, {NOT_BELOW}"),
    ("solver", "from fedrecon import Model", "imports the public names instead of the module"),
    ("solver", "import fedrecon", "imports the public names instead of the module"),
    ("novelty", "import fedrecon.model", "novelty has no layer"),
    ("solver", "from .novelty import Model", "imports novelty, which has no layer"),
    ("tasks/next_word/data", "from ..movielens import data", "strangers to each other"),
    ("tasks/next_word/data", "from fedrecon.tasks.movielens.data import x", "strangers to each other"),
    ("tasks/__init__", "from .movielens import data", "strangers to each other"),
    ("solver", "import flax.nnx", f"{OUTSIDE} flax"),
    ("solver", "def f():\n    import flax", f"{OUTSIDE} flax"),
    ("federation/clients", "import pyarrow as pa", f"{OUTSIDE} pyarrow"),
    ("federation/clients", "try:\n    import pyarrow\nexcept ImportError:\n    pass", f"{OUTSIDE} pyarrow"),
    ("algorithms/fedavg", "from .other import x", "a circle: "),
    ("algorithms/fedavg", "def f():\n    from .other import x", "a circle: "),
]
LAWFUL = [
    ("solver", "import math\nimport jax.numpy as jnp\nimport optax\nfrom jaxtyping import Array"),
    ("solver", "from .model import Model\nfrom . import stats, data\nimport fedrecon.errors"),
    ("federation/clients", "def f():\n    import pyarrow as pa"),
    ("federation/clients", "if TYPE_CHECKING:\n    import pyarrow as pa"),
    (
        "tasks/movielens/task",
        "import pydantic\nfrom .data import x\nfrom fedrecon.tasks.movielens import data",
    ),
    ("experiment/run", "from ..tasks.movielens import data\nfrom ..tasks.next_word import data as words"),
    ("__init__", "import fedrecon.simulation"),
]


@pytest.mark.parametrize(("module", "code", "message"), UNLAWFUL)
def test_violation_is_found(tmp_path, module, code, message):
    found = violations(_tree(tmp_path, module, code))
    assert len(found) == 1
    assert message in found[0]


@pytest.mark.parametrize(("module", "code"), LAWFUL)
def test_allowed_import_is_left_alone(tmp_path, module, code):
    assert violations(_tree(tmp_path, module, code)) == []


def _tree(folder: Path, module: str, code: str) -> Path:
    """A package that keeps the rules, but for `code` in `module`."""
    lawful = {
        "__init__": "",
        "errors": "",
        "stats": "import jax",
        "model": "from .errors import Wrong",
        "data": "",
        "solver": "from .model import Model",
        "simulation": "",
        "algorithms/__init__": "",
        "algorithms/other": "from .fedavg import fedavg",
        "tasks/__init__": "",
        "tasks/movielens/__init__": "",
        "tasks/movielens/data": "import pyarrow",
        "tasks/next_word/__init__": "",
    }
    root = folder / "fedrecon"
    for name, text in {**lawful, module: code}.items():
        path = root / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root
