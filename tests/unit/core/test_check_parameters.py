"""Parameters are arrays of floating-point numbers; mutable state among them is refused by its name."""

from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from fedrecon.core._check_parameters import check_model_parameters
from fedrecon.core._mean import Mean
from fedrecon.core._model import Model, Table, fully_global, personal_copy, without_tables
from fedrecon.core._partition import is_local, partition, with_local

W, LOCAL = jnp.ones(2), is_local("l")
ITEMS = Table("item", ("item",))


def loss(params: Any, batch: Any, key: Any = None) -> Mean:
    return Mean.of(batch["x"])


def partitioned(params: Any, local: Any = LOCAL, **others: Any) -> Model:
    return partition(lambda key: {"l": W, **params}, loss, local=local, **others)


def plain(params: Any, local: Any = W, **others: Any) -> Model:
    return Model(
        init_global=lambda key: params,
        init_local=lambda g, key: local,
        loss=lambda g, x, batch, key: Mean.of(batch["x"]),
        metrics=lambda g, x, batch: {},
        **others,
    )


def plain_below(params: Any) -> Model:
    return plain({"net": [params]})


MAKERS = [
    partitioned,
    plain,
    plain_below,
    lambda params: plain(W, params),
    lambda params: fully_global(plain(params)),
]


@pytest.mark.parametrize("make", MAKERS, ids=["partition", "global", "below", "local", "view"])
@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"params": {"w": W}, "batch_stats": {"mean": W}}, "mutable collection '.*batch_stats'"),
        ({"params": {"w": W}, "cache": {"k": W}}, "mutable collection '.*cache'"),
        (MappingProxyType({"params": {"w": W}, "intermediates": W}), "mutable collection '.*intermediates'"),
        ({"w": jnp.zeros((), int)}, "'.*w' is of int32"),
        ({"w": jnp.ones(2, bool)}, "'.*w' is of bool"),
        ({"w": jax.random.key(0)}, "'.*w' is of key"),
    ],
    ids=["statistics", "cache", "intermediates", "integers", "booleans", "key"],
)
def test_state_is_refused_wherever_a_model_comes_from(make, params, message):
    if isinstance(params, MappingProxyType):
        params = dict(params)
    with pytest.raises(ValueError, match=message):
        check_model_parameters(make(params))


SPECTRAL = {"params": {"w": W}, "spectral": {"u": W}}


@pytest.mark.parametrize("make", [*MAKERS[:3], MAKERS[4]], ids=["partition", "global", "below", "view"])
def test_another_collection_beside_linens_parameters_is_refused_by_its_name(make):
    with pytest.raises(ValueError, match=r"the collection '.*spectral' beside '.*params'.*with `frozen`"):
        check_model_parameters(make(SPECTRAL))


@pytest.mark.parametrize(
    "model",
    [
        lambda: partitioned(SPECTRAL, frozen=("spectral",)),
        lambda: partitioned(SPECTRAL, local=is_local("l", "spectral")),
        lambda: partitioned(
            {**SPECTRAL, "params": {"w": W, "v": W}}, local=is_local("params/v", "spectral", "l")
        ),
        lambda: partitioned(SPECTRAL, local=lambda path: "params" not in path),
        lambda: partitioned(
            {"params": {"w": W}, "item": jnp.ones((3, 2))}, tables=(Table("item", ("item",)),)
        ),
        lambda: partitioned({"params": {"w": W}, "batch_stats": {"mean": W}}, frozen=("batch_stats",)),
        lambda: partitioned({"net": {"params": {"w": W}}, "own": W}),
        lambda: partitioned({"params": W, "own": W}),
        lambda: plain(SPECTRAL, frozen=("0/spectral",)),
        lambda: plain(W, SPECTRAL),
        lambda: plain(W, frozen=("1",)),
    ],
)
def test_what_is_declared_passes_in_all_views(model):
    made = model()
    for view in (made, without_tables(made), fully_global(made), personal_copy(fully_global(made))):
        check_model_parameters(view)
    check_model_parameters(with_local(fully_global(made), ("0/1",)))


def test_frozen_names_that_no_leaf_has_are_refused():
    with pytest.raises(
        ValueError, match=r"frozen names the path 'spectrl', but .*; did you mean 'spectral/u'"
    ):
        partitioned(SPECTRAL, frozen=("spectrl",))
    with pytest.raises(ValueError, match=r"frozen names the path '0/spectrl', .*did you mean '0/spectral/u'"):
        check_model_parameters(plain(SPECTRAL, frozen=("0/spectrl",)))


def test_variables_of_flax_that_are_no_parameters_are_refused_unless_declared():
    nnx = pytest.importorskip("flax.nnx", reason="Flax is not installed")

    class Average(nnx.Variable):
        """A kind of one's own."""

    def init(key):
        return {"l": W, "net": {"w": nnx.Param(W), "average": Average(W)}}

    with pytest.raises(ValueError, match=r"'net/average' of the type Average, which is no kind of nnx.Param"):
        partition(init, loss, local=is_local("l"))
    partition(init, loss, local=is_local("l"), frozen=("net/average",))
