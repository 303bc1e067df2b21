#!/usr/bin/env bash
# ONNX Runtime fuses a Transpose that feeds a MatMul into one product. If the other factor is a vector, the fused product is
# another one: it multiplies by the matrix as if it had been reshaped instead of transposed. This happens at the default
# optimisation level (extended and above); without optimisation, and at the basic level, the result is right.
#
# Who meets it: who exports Xᵀy, the right side of a least-squares problem. Instead: write yX, or make y a matrix of
# one column.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6

cat > "$folder/show.py" <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

print("onnxruntime", onnxruntime.__version__, "onnx", onnx.__version__)
X = np.arange(6, dtype=np.float32).reshape(3, 2)
y = np.array([1, 2, 3], np.float32)

info = helper.make_tensor_value_info
graph = helper.make_graph(
    [
        helper.make_node("Transpose", ["X"], ["Xt"], perm=[1, 0]),
        helper.make_node("MatMul", ["Xt", "y"], ["product"]),
    ],
    "product",
    [info("X", TensorProto.FLOAT, [3, 2]), info("y", TensorProto.FLOAT, [3])],
    [info("product", TensorProto.FLOAT, [2])],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
onnx.checker.check_model(model, full_check=True)

print("expected:", (X.T @ y).tolist())
for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    print(f"{level}:", session.run(None, {"X": X, "y": y})[0].tolist())
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
print("default:", session.run(None, {"X": X, "y": y})[0].tolist())
PYTHON

cat > "$folder/expected" <<'TEXT'
onnxruntime 1.32.0 onnx 1.23.2
expected: [16.0, 22.0]
ORT_DISABLE_ALL: [16.0, 22.0]
ORT_ENABLE_BASIC: [16.0, 22.0]
ORT_ENABLE_EXTENDED: [8.0, 26.0]
ORT_ENABLE_ALL: [8.0, 26.0]
default: [8.0, 26.0]
TEXT

"$folder/venv/bin/python" "$folder/show.py" | tee "$folder/seen"
diff "$folder/expected" "$folder/seen" || { echo "The output has changed." >&2; exit 1; }
