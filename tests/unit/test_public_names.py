"""The names of `fedrecon`: all there, documented, and loaded only when used."""

import ast
import importlib
import json
import pkgutil

import pytest

import fedrecon


def test_at_most_forty_names():
    assert len(fedrecon.__all__) <= 40
    assert fedrecon.__all__ == sorted(set(fedrecon.__all__))


@pytest.mark.parametrize("name", fedrecon.__all__)
def test_name_resolves_to_something_documented_by_its_own_module(name):
    value = getattr(fedrecon, name)
    assert value is getattr(importlib.import_module(f"fedrecon.{fedrecon._MODULE_OF[name]}"), name)
    own_docstring = vars(value).get("__doc__") if isinstance(value, type) else value.__doc__
    assert own_docstring
    assert not own_docstring.startswith(f"{name}("), "the docstring that a dataclass makes of its fields"


def test_type_checkers_see_the_same_names(repository):
    tree = ast.parse((repository / "src/fedrecon/__init__.py").read_text())
    seen = {
        alias.name: node.module.removeprefix("fedrecon.")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("fedrecon.")
        for alias in node.names
    }
    assert seen == fedrecon._MODULE_OF
    assert sorted(seen) == fedrecon.__all__


def test_no_name_is_hidden_by_a_submodule():
    # Importing `fedrecon.partition`, were there such a module, would put it in the function's place.
    submodules = {module.name for module in pkgutil.iter_modules(fedrecon.__path__)}
    assert not submodules & set(fedrecon.__all__)


def test_names_stay_after_every_module_is_imported(run_python):
    code = """
import importlib, json, fedrecon
for module in sorted(set(fedrecon._MODULE_OF.values())):
    importlib.import_module(f"fedrecon.{module}")
print(json.dumps([name for name in fedrecon.__all__ if type(getattr(fedrecon, name)).__name__ == "module"]))
"""
    assert json.loads(run_python(code)) == []


def test_unknown_name_is_refused_by_name():
    with pytest.raises(AttributeError, match="module 'fedrecon' has no attribute 'Modell'"):
        _ = fedrecon.Modell


def test_dir_lists_all_names():
    assert set(fedrecon.__all__) <= set(dir(fedrecon))


@pytest.mark.parametrize("module", ["fedrecon", "fedrecon.experiment.cli.main", "fedrecon.experiment.config"])
def test_import_loads_nothing_heavy(module, run_python):
    heavy = ["jax", "jaxtyping", "matplotlib", "numpy", "optax", "orbax", "pandas", "pyarrow"]
    code = f"import json, sys, {module}\nprint(json.dumps([name for name in {heavy} if name in sys.modules]))"
    assert json.loads(run_python(code)) == []


def test_star_import_brings_all_names(run_python):
    code = "from fedrecon import *\nimport fedrecon as package\nassert set(package.__all__) <= set(globals())"
    assert run_python(code) == ""
