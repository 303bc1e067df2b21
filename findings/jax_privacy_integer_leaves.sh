#!/usr/bin/env bash
# `clip_pytree` takes the norm over all leaves of a pytree, whole numbers included. A step count or the counter of a random
# generator beside the parameters therefore counts in the norm, so that the parameters are clipped too much, and is set to
# 0 itself whenever anything is clipped. The bound on the norm holds, so that privacy is not affected; accuracy is.
#
# Who meets it: who clips a whole client state or an optimiser's state. Instead: clip the floating-point leaves only.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax-privacy==2.0.0 jax==0.10.2

cat > "$folder/show.py" <<'PYTHON'
from importlib.metadata import version

import jax.numpy as jnp
from jax_privacy.clipping import clip_pytree

print("jax-privacy", version("jax-privacy"), "jax", version("jax"))
update = {"weights": jnp.array([3.0, 4.0]), "step": jnp.array(12)}
clipped, norm = clip_pytree(update, clip_norm=10.0)
print("expected: norm 5.0, below the clipping norm of 10, so that nothing changes")
print(f"norm {norm:.1f}")
print("weights", [round(float(x), 3) for x in clipped["weights"]], "step", int(clipped["step"]))
PYTHON

cat > "$folder/expected" <<'TEXT'
jax-privacy 2.0.0 jax 0.10.2
expected: norm 5.0, below the clipping norm of 10, so that nothing changes
norm 13.0
weights [2.308, 3.077] step 0
TEXT

JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/show.py" | tee "$folder/seen"
diff "$folder/expected" "$folder/seen" || { echo "The output has changed." >&2; exit 1; }
