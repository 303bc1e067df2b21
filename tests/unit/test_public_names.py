"""The public names: all there, documented, callable after any import, and loaded only when used."""

import ast
import importlib
import json
import pkgutil
import types
from pathlib import Path

import pytest

import fedrecon
from fedrecon.core import _types

# What stood at the top of the package in version 0.1.0, and stays there.
TOP = [
    "Algorithm",
    "AlternateBatches",
    "AlternateExamples",
    "Broadcast",
    "ByTime",
    "Clients",
    "Evaluation",
    "Examples",
    "Fraction",
    "HalfBatches",
    "Mean",
    "Model",
    "Newton",
    "NoSplit",
    "Passes",
    "Personalization",
    "Poisson",
    "RandomFraction",
    "Result",
    "Round",
    "ServerState",
    "Simulation",
    "Solver",
    "Table",
    "TopK",
    "Uniform",
    "Update",
    "Weighted",
    "evaluate",
    "fedavg",
    "fedrecon",
    "finetuning",
    "full_gradient",
    "is_local",
    "local_only",
    "optimizer",
    "partition",
    "train",
]
NAMESPACES = sorted(n for n in fedrecon.__all__ if isinstance(getattr(fedrecon, n), types.ModuleType))
ALIASES = {("fedrecon.core", name) for name in vars(_types)["__annotations__"]}


def packages() -> list[str]:
    """The dotted names of all public packages: those with a stub of names."""
    root = Path(fedrecon.__path__[0])
    stubs = (path.parent.relative_to(root.parent).parts for path in root.rglob("__init__.pyi"))
    return sorted(".".join(parts) for parts in stubs)


def names() -> list[tuple[str, str]]:
    """Pairs of a public package and one of its names that is no package."""
    values = [(p, n, getattr(importlib.import_module(p), n)) for p in packages() for n in _all(p)]
    return [(p, n) for p, n, value in values if not isinstance(value, types.ModuleType)]


def _all(package: str) -> list[str]:
    return list(importlib.import_module(package).__all__)


def test_names_of_the_first_version_stay_at_the_top():
    assert set(TOP) <= set(fedrecon.__all__)
    assert len(fedrecon.__all__) - len(NAMESPACES) <= 42


def test_namespaces_are_there():
    expected = {"algorithms", "core", "data", "datasets", "evaluation", "models", "sampling", "serving"}
    assert expected | {"simulation", "solvers", "splits"} <= set(NAMESPACES)


@pytest.mark.parametrize(("package", "name"), sorted({*names()} - ALIASES))
def test_name_is_documented(package, name):
    value = getattr(importlib.import_module(package), name)
    own_docstring = vars(value).get("__doc__") if isinstance(value, type) else value.__doc__
    assert own_docstring
    assert not own_docstring.startswith(f"{name}("), "the docstring that a dataclass makes of its fields"


@pytest.mark.parametrize("package", packages())
def test_stub_lists_each_name_once_and_in_order(package):
    module = importlib.import_module(package)
    tree = ast.parse(Path(module.__file__).with_suffix(".pyi").read_text())
    imported = [x.asname or x.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for x in n.names]
    listed = next(ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign))
    assert sorted(imported) == sorted(listed) == sorted(module.__all__)
    assert len(set(imported)) == len(imported)


@pytest.mark.parametrize("package", packages())
def test_modules_below_a_public_package_are_private(package):
    # A submodule called like a function of its package would replace it as soon as somebody imports it.
    module = importlib.import_module(package)
    inside = {module.name for module in pkgutil.iter_modules(module.__path__)}
    if package == "fedrecon":
        assert {name for name in inside if not name.startswith("_")} <= {*NAMESPACES, "errors", "experiment"}
    else:
        assert {name for name in inside if not name.startswith("_")} <= set(module.__all__)


def test_every_algorithm_is_public(repository):
    modules = {p.stem for p in (repository / "src/fedrecon/algorithms").glob("_[a-z]*.py")}
    helpers = {"_base", "_building_blocks", "_refitting"}
    assert {f"_{name}" for name in fedrecon.algorithms.__all__} >= modules - helpers


def test_names_stay_after_every_module_is_imported(run_python):
    code = f"""
import importlib, json, pkgutil, types, fedrecon
optional = ("mlflow", "tensorboard", "wandb", "flower_client", "flower_server")
optional += tuple(f"nvflare_engine.{{name}}" for name in ("controller", "executor", "submit"))
for module in pkgutil.walk_packages(fedrecon.__path__, "fedrecon."):
    if not module.name.endswith((".__main__", *optional)):
        importlib.import_module(module.name)
wrong = []
for package, name in {names()!r}:
    value = getattr(importlib.import_module(package), name)
    if isinstance(value, types.ModuleType):
        wrong.append((package, name))
    elif isinstance(value, types.FunctionType) and not callable(value):
        wrong.append((package, name))
print(json.dumps(wrong))
"""
    assert json.loads(run_python(code)) == []


def test_unknown_name_is_refused_by_name():
    with pytest.raises(AttributeError, match="fedrecon attribute Modell"):
        _ = fedrecon.Modell


def test_dir_lists_all_names():
    assert set(fedrecon.__all__) <= set(dir(fedrecon))


@pytest.mark.parametrize(
    "module",
    ["fedrecon", "fedrecon.algorithms", "fedrecon.experiment.cli.main", "fedrecon.experiment.config"],
)
def test_import_loads_nothing_heavy(module, run_python):
    heavy = ["jax", "jaxtyping", "matplotlib", "numpy", "optax", "orbax", "pandas", "pyarrow"]
    code = f"import json, sys, {module}\nprint(json.dumps([name for name in {heavy} if name in sys.modules]))"
    assert json.loads(run_python(code)) == []


def test_star_import_brings_all_names(run_python):
    code = "from fedrecon import *\nimport fedrecon as package\nassert set(package.__all__) <= set(globals())"
    assert run_python(code) == ""
