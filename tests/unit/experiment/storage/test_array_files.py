"""Files of named arrays."""

import jax.numpy as jnp
import numpy as np

from fedrecon.experiment.storage.array_files import write_arrays


def test_numpy_reads_arrays_of_any_name(tmp_path):
    arrays = {"file": np.arange(3), "item/factors": np.ones((2, 2), np.float32), "args": np.zeros(())}
    write_arrays(tmp_path / "arrays.npz", arrays)
    with np.load(tmp_path / "arrays.npz", allow_pickle=False) as read:
        assert set(read) == set(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(read[name], array, strict=True)


def test_parameters_of_low_precision_are_read_as_what_they_are(tmp_path):
    from fedrecon.core._mean import Mean
    from fedrecon.core._model import Model
    from fedrecon.experiment.training.build import global_params_at

    params = {"file": jnp.arange(4, dtype=jnp.bfloat16) / 3}
    model = Model(
        init_global=lambda key: params,
        init_local=lambda params, key: {},
        loss=lambda params, local, batch, key: Mean.of(batch["x"]),
        metrics=lambda params, local, batch: {},
    )
    write_arrays(tmp_path / "start.npz", {name: np.asarray(x) for name, x in params.items()})
    read = global_params_at(tmp_path / "start.npz", model)
    assert read["file"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(read["file"], np.asarray(params["file"]))
