"""Every algorithm can be named in an experiment, and is built from its settings."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from tests.small import rating_model

from fedrecon.experiment import config as configs
from fedrecon.experiment.settings.sections import variants

NAMES = sorted(variants(configs.Config, "algorithm")[1])
# Those that are made of one of the library's algorithms by fine-tuning what it learned.
TUNED = {"finetuned_fedrecon": "finetuning"}


@pytest.mark.parametrize("name", NAMES)
def test_an_algorithm_by_its_name(name):
    model = replace(rating_model(), penalty=lambda global_params, local_params: 0.0)
    task = SimpleNamespace(model=model, num_clients=3, served=lambda algorithm: algorithm)
    algorithm = configs.load(None, [f"algorithm.name={name}"]).algorithm.build_for(task)
    assert algorithm.name == TUNED.get(name, name)


def test_every_algorithm_is_in_the_documentation(repository):
    rows = (repository / "docs/algorithms.md").read_text().splitlines()
    assert sorted(row.split("`")[1] for row in rows if row.startswith("| `")) == NAMES


def test_settings_reach_the_algorithm():
    given = ["name=finetuning", "part=['0/item/bias']", "tune.epochs=7", "client_weight=uniform"]
    config = configs.load(None, [f"algorithm.{x}" for x in given])
    made = config.algorithm.build(rating_model()).hyperparameters
    assert made["part"] == ("0/item/bias",)
    assert made["tune"].epochs == 7
    assert made["trained"].name == "fedavg"
    assert made["trained"].hyperparameters["client_weight"].__name__ == "uniform"


@pytest.mark.parametrize(("name", "part"), [("fedper", "head"), ("fedrep", "head"), ("lg_fedavg", "body")])
def test_the_local_part_is_named_by_paths(name, part):
    for given, wanted in (("[]", None), ("['0/item', '1']", ("0/item", "1"))):
        overrides = [f"algorithm.name={name}", f"algorithm.{part}={given}"]
        if wanted is None:
            made = configs.load(None, overrides).algorithm.build(rating_model())
            assert made.hyperparameters[part] is None
        else:
            with pytest.raises(ValueError, match="part must leave a leaf to federate"):
                configs.load(None, overrides).algorithm.build(rating_model())
