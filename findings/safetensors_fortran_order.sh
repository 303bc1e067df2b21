#!/usr/bin/env bash
# safetensors writes the memory of a NumPy array as it lies, and the shape as if it lay in C order. An array in Fortran
# order, which `np.asfortranarray`, `.T` of a saved transpose or `np.linalg` return, is loaded with its elements
# permuted and without a message. A square matrix of parameters looks plausible afterwards.
#
# Who meets it: who saves parameters that a solver returned. Instead: `np.ascontiguousarray(x)` before `save_file`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet safetensors==0.8.0 numpy==2.4.6

cat > "$folder/show.py" <<'PYTHON'
from importlib.metadata import version

import numpy as np
from safetensors.numpy import load, save

print("safetensors", version("safetensors"), "numpy", version("numpy"))
array = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
print("saved, and expected back:", array.tolist())
print("loaded:", load(save({"array": array}))["array"].tolist())
PYTHON

cat > "$folder/expected" <<'TEXT'
safetensors 0.8.0 numpy 2.4.6
saved, and expected back: [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
loaded: [[0.0, 3.0, 1.0], [4.0, 2.0, 5.0]]
TEXT

"$folder/venv/bin/python" "$folder/show.py" | tee "$folder/seen"
diff "$folder/expected" "$folder/seen" || { echo "The output has changed." >&2; exit 1; }
