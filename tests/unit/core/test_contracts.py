"""The records are constructed by keyword, and each of their functions has a contract that one can read."""

import ast
import dataclasses
import inspect
import typing

import pytest

from fedrecon import Algorithm, Model, algorithms, core
from fedrecon.core import Objective, _types

CONTRACTS = {
    Algorithm: ("init", "init_client_state", "client_update", "server_update", "personalize"),
    Model: ("init_global", "init_local", "loss", "metrics", "predict", "penalty", "loss_and_metrics"),
    Objective: ("fn", "metrics", "penalty", "both"),
}


@pytest.mark.parametrize("record", CONTRACTS, ids=lambda record: record.__name__)
def test_each_function_of_a_record_has_a_documented_protocol_that_is_public(record):
    types = {field.name: field.type for field in dataclasses.fields(record)}
    for name in CONTRACTS[record]:
        (protocol,) = {types[name], *typing.get_args(types[name])} & {
            getattr(package, x) for package in (algorithms, core) for x in package.__all__ if x.endswith("Fn")
        }
        assert protocol.__doc__ and protocol.__call__.__doc__, name


@pytest.mark.parametrize("record", [Algorithm, Model])
def test_records_take_keywords_only(record):
    with pytest.raises(TypeError, match="positional"):
        record(lambda key: ())


def test_each_type_of_annotations_is_explained_below_its_definition():
    body = ast.parse(inspect.getsource(_types)).body
    aliases = [i for i, node in enumerate(body) if isinstance(node, ast.AnnAssign)]
    assert len(aliases) >= 10
    for i in aliases:
        text = body[i + 1].value.value
        assert isinstance(text, str) and text.endswith("."), ast.unparse(body[i])
