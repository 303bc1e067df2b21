"""Imports point only downwards, form no circle, and the core names only jax, optax, numpy and jaxtyping."""

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

# From the lowest to the highest. A part is a package or a module of `fedrecon`; parts of one layer do not
# know each other.
LAYERS = (
    ("errors", "_files", "_safe_text"),
    ("core",),
    ("_kernels", "data"),
    ("solvers", "datasets"),
    ("algorithms",),
    ("privacy",),
    ("simulation", "models"),
    ("runs",),
    ("evaluation", "serving"),
    ("deployment", "export"),
    ("experiment",),
    ("sampling", "splits", "__main__"),  # names for users only
)
HEIGHT = {part: height for height, layer in enumerate(LAYERS) for part in layer}
# The same for the parts of one package, which is as large as several others.
EXPERIMENT_LAYERS = (
    ("settings",),
    ("storage",),
    ("tasks", "tracking", "distributed", "reporting", "console"),
    ("config",),
    ("training",),
    ("serving",),
    ("analysis", "sweep", "deploying"),
    ("cli",),
)
EXPERIMENT_HEIGHT = {part: height for height, layer in enumerate(EXPERIMENT_LAYERS) for part in layer}
NOT_CORE = {"datasets", "deployment", "experiment", "export", "__main__"}
CORE_MAY_IMPORT = {"jax", "jaxtyping", "lazy_loader", "numpy", "optax"}
CORE_MAY_IMPORT_IN_FUNCTIONS = CORE_MAY_IMPORT | {"pyarrow"}
MAY_IMPORT_BESIDES = {
    "_files": {"filelock"},  # locks of the operating system
    "data._cache": {"platformdirs"},  # where the platform keeps caches
}
MAY_IMPORT_IN_FUNCTIONS_BESIDES = {
    "privacy": {"dp_accounting", "jax_privacy", "scipy"},  # extras; what takes long to import
    "algorithms": {"cloudpickle"},  # where somebody pickles one
}
IMPORTERS = {"import_module", "__import__"}
STRANGERS = "datasets"  # its packages share a layer and a folder, nothing else


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
    if target == part == "experiment":
        return _broken_experiment_rule(*(name.split(".")[1:2] for name in (one.importer, one.target)))
    if target != part and HEIGHT[target] >= HEIGHT[part]:
        return f"imports {target}, which is not below {part}"
    return None


def _broken_experiment_rule(mine: list[str], other: list[str]) -> str | None:
    unknown = [name for name in mine + other if name not in EXPERIMENT_HEIGHT]
    if unknown:
        return f"experiment.{unknown[0]} has no layer"
    if mine and other and mine != other and EXPERIMENT_HEIGHT[other[0]] >= EXPERIMENT_HEIGHT[mine[0]]:
        return f"imports experiment.{other[0]}, which is not below experiment.{mine[0]}"
    return None


def _broken_outside_rule(one: Import, part: str) -> str | None:
    library = one.target.split(".")[0]
    if part in NOT_CORE or library in sys.stdlib_module_names:
        return None
    allowed = CORE_MAY_IMPORT_IN_FUNCTIONS if one.deferred else CORE_MAY_IMPORT
    allowed = allowed | MAY_IMPORT_BESIDES.get(one.importer, set())
    if one.deferred:
        allowed = allowed | MAY_IMPORT_IN_FUNCTIONS_BESIDES.get(part, set())
    return None if library in allowed else f"the core may not import {library} here"


def test_layers_hold(repository):
    assert violations(repository / "src/fedrecon") == []


def test_every_module_is_read(repository):
    importers = {one.importer for one in imports_in(repository / "src/fedrecon")}
    assert {"core._mean", "solvers._gradient", "data._clients", "experiment.cli.main"} <= importers


NOT_BELOW = "which is not below"
OUTSIDE = "the core may not import"
UNLAWFUL = [
    ("core/_mean", "import fedrecon.data._clients", f"imports data, {NOT_BELOW} core"),
    ("core/_mean", "from fedrecon.data._clients import Clients", NOT_BELOW),
    ("core/_mean", "from ..data import _clients", NOT_BELOW),
    ("core/_mean", "from ..data._clients import Clients", NOT_BELOW),
    ("core/_mean", "from fedrecon.data import Clients", NOT_BELOW),
    ("core/_mean", "def f():\n    from ..data._clients import Clients", NOT_BELOW),
    ("core/_mean", "if TYPE_CHECKING:\n    from ..data._clients import Clients", NOT_BELOW),
    ("core/_mean", "import importlib\nimportlib.import_module('fedrecon.data._clients')", NOT_BELOW),
    ("_kernels/rows", "from fedrecon.data._clients import Clients", f"imports data, {NOT_BELOW} _kernels"),
    ("algorithms/_fedavg", "from .. import simulation", f"imports simulation, {NOT_BELOW}"),
    ("algorithms/_fedavg", "from ..simulation import Simulation", f"imports simulation, {NOT_BELOW}"),
    ("algorithms/__init__", "from ..simulation import Simulation", f"imports simulation, {NOT_BELOW}"),
    ("solvers/_gradient", "from fedrecon import Model", "imports the public names instead of the module"),
    ("solvers/_gradient", "import fedrecon", "imports the public names instead of the module"),
    ("novelty", "import fedrecon.core._model", "novelty has no layer"),
    ("solvers/_gradient", "from ..novelty import Model", "imports novelty, which has no layer"),
    ("datasets/text/_load", "from ..ratings import _load", "strangers to each other"),
    ("datasets/text/_load", "from fedrecon.datasets.ratings._load import x", "strangers to each other"),
    ("datasets/__init__", "from .ratings import _load", "strangers to each other"),
    ("solvers/_gradient", "import flax.nnx", f"{OUTSIDE} flax"),
    ("solvers/_gradient", "def f():\n    import flax", f"{OUTSIDE} flax"),
    ("data/_clients", "import pyarrow as pa", f"{OUTSIDE} pyarrow"),
    ("data/_clients", "try:\n    import pyarrow\nexcept ImportError:\n    pass", f"{OUTSIDE} pyarrow"),
    ("data/_clients", "import platformdirs", f"{OUTSIDE} platformdirs"),
    ("experiment/config", "from .training.train import x", f"imports experiment.training, {NOT_BELOW}"),
    ("experiment/config", "def f():\n    from .training.train import x", NOT_BELOW),
    ("experiment/tasks/mine", "from ..tracking import x", f"imports experiment.tracking, {NOT_BELOW}"),
    ("experiment/tasks/mine", "from ..novelty import x", "experiment.novelty has no layer"),
    ("experiment/novelty/mine", "from ..tasks import x", "experiment.novelty has no layer"),
    ("algorithms/_fedavg", "from ._other import x", "a circle: "),
    ("algorithms/_fedavg", "def f():\n    from ._other import x", "a circle: "),
]
LAWFUL = [
    ("solvers/_gradient", "import math\nimport jax.numpy as jnp\nimport optax\nfrom jaxtyping import Array"),
    ("solvers/_gradient", "from ..core._model import x\nfrom ..core import _mean\nimport fedrecon.errors"),
    ("data/_clients", "def f():\n    import pyarrow as pa"),
    ("data/_clients", "if TYPE_CHECKING:\n    import pyarrow as pa"),
    ("data/_cache", "from platformdirs import user_cache_path"),
    ("datasets/ratings/_prepare", "import pydantic\nfrom ._load import x\nfrom ...data import _clients"),
    (
        "experiment/training/train",
        "from ...datasets.ratings import _load\nfrom ...datasets.text import _load as words",
    ),
    ("experiment/training/train", "from ..config import x\nfrom . import loop\nfrom ..settings import y"),
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
        "core/__init__": "import lazy_loader",
        "core/_mean": "import jax",
        "core/_model": "from ..errors import Wrong",
        "data/__init__": "",
        "data/_clients": "",
        "solvers/__init__": "",
        "solvers/_gradient": "from ..core._model import Model",
        "simulation/__init__": "",
        "simulation/_simulation": "",
        "algorithms/__init__": "",
        "algorithms/_other": "from ._fedavg import fedavg",
        "experiment/__init__": "",
        "experiment/config": "",
        "experiment/novelty/__init__": "",
        "experiment/settings/__init__": "",
        "experiment/tasks/__init__": "",
        "experiment/tracking/__init__": "",
        "experiment/training/__init__": "",
        "experiment/training/loop": "",
        "experiment/training/train": "",
        "datasets/__init__": "",
        "datasets/ratings/__init__": "",
        "datasets/ratings/_load": "import pyarrow",
        "datasets/text/__init__": "",
    }
    root = folder / "fedrecon"
    for name, text in {**lawful, module: code}.items():
        path = root / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root
