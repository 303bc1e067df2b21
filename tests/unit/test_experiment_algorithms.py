"""Every algorithm can be named in an experiment, and is built from its settings."""

import pytest
from tests.small import rating_model

from fedrecon.experiment import config as configs
from fedrecon.experiment.settings import variants

NAMES = sorted(variants(configs.Config, "algorithm")[1])
# Those that are made of one of the library's algorithms by fine-tuning what it learned.
TUNED = {"finetuned_fedrecon": "finetuning"}


@pytest.mark.parametrize("name", NAMES)
def test_an_algorithm_by_its_name(name):
    algorithm = configs.load(None, [f"algorithm.name={name}"]).algorithm.build(rating_model())
    assert algorithm.name == TUNED.get(name, name)


def test_settings_reach_the_algorithm():
    given = ["name=finetuning", "part=['0/item/bias']", "tune.epochs=7", "client_weight=uniform"]
    config = configs.load(None, [f"algorithm.{x}" for x in given])
    made = config.algorithm.build(rating_model()).hyperparameters
    assert made["part"] == ("0/item/bias",)
    assert made["tune"].epochs == 7
    assert made["trained"].name == "fedavg"
    assert made["trained"].hyperparameters["client_weight"].__name__ == "uniform"
