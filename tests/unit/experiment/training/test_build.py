"""Where training starts, whichever parameters the algorithm makes global."""

import jax
import numpy as np
import pytest

from fedrecon.core._model import leaves_of
from fedrecon.errors import RunError
from fedrecon.experiment import config as configs
from fedrecon.experiment.storage.checkpoint import Checkpoints
from fedrecon.experiment.storage.run_folder import CHECKPOINTS
from fedrecon.experiment.training.build import _settings, spec_of, task_of

SMALL = [
    "data.clients=20",
    "data.items=5",
    "model.factors=2",
    "model.user_penalty=0",
    "model.user_bias_penalty=0",
    "training.clients_per_round=1",
]


def spec(*more):
    config = configs.load(None, [*SMALL, *more])
    return spec_of(config, task_of(config))


@pytest.mark.parametrize("name", ["fedrecon", "fedavg", "finetuning", "maml", "local_only", "centralized"])
@pytest.mark.parametrize("source", ["file", "run"])
def test_training_starts_from_the_parameters_that_the_algorithm_shares(name, source, tmp_path):
    chosen = f"algorithm.name={name}"
    state = jax.jit(spec(chosen).algorithm.init)(jax.random.key(7))
    if source == "file":
        path = tmp_path / "start.npz"
        np.savez(path, **leaves_of(state.global_params))
    else:
        path = tmp_path
        Checkpoints(path / CHECKPOINTS).save(1, {"state": state}, {})
    found = spec(chosen, f'training.initial_global_params="{path}"').initial_global_params
    assert jax.tree.structure(found) == jax.tree.structure(state.global_params)
    jax.tree.map(np.testing.assert_array_equal, found, state.global_params)


@pytest.mark.parametrize("kind", [np.int32, np.float16])
def test_parameters_of_another_type_are_refused(kind, tmp_path):
    leaves = leaves_of(
        jax.jit(spec("algorithm.name=fedrecon").algorithm.init)(jax.random.key(7)).global_params
    )
    path = tmp_path / "start.npz"
    np.savez(path, **{name: np.asarray(x).astype(kind) for name, x in leaves.items()})
    with pytest.raises(RunError, match=f"must be of type float32, got {np.dtype(kind)}"):
        spec("algorithm.name=fedrecon", f'training.initial_global_params="{path}"')


def test_settings_that_earlier_versions_lacked_are_written_only_where_they_are_set():
    movielens = ["task=movielens", "data.path=x"]
    config = configs.load(None, movielens)
    assert "accuracy_within" not in _settings(config)["model"]
    changed = configs.load(None, [*movielens, "model.accuracy_within=2.0"])
    assert _settings(changed)["model"]["accuracy_within"] == 2.0
