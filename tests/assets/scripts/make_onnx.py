#!/usr/bin/env python3
"""A small convolutional network as ONNX, and what ONNX's own reference evaluator computes with it.

usage: make_onnx.py OUT_DIR

Writes OUT_DIR/digits.onnx (opset 18, seeded random weights; nothing is learnt) and OUT_DIR/goldens.safetensors:
  image   [3, 1, 8, 8]  input
  logits  [3, 10]       output, computed in f64
"""
import pathlib, sys
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from safetensors.numpy import save_file

out = pathlib.Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)
rng = np.random.default_rng(11)


def normal(*shape, scale):
    return (rng.standard_normal(shape) * scale).astype(np.float32)


def batch_norm(name, channels):
    """Scale, bias, running mean and running variance, none of them near the values a layer starts with."""
    return {
        f"{name}.scale": rng.uniform(0.5, 2.0, channels).astype(np.float32),
        f"{name}.bias": normal(channels, scale=0.5),
        f"{name}.mean": normal(channels, scale=0.5),
        f"{name}.var": rng.uniform(0.3, 3.0, channels).astype(np.float32),
    }


weights = {
    "conv1.weight": normal(8, 1, 3, 3, scale=0.5),
    "conv1.bias": normal(8, scale=0.3),
    **batch_norm("bn1", 8),
    "conv2.weight": normal(16, 8, 3, 3, scale=0.2),
    "conv2.bias": normal(16, scale=0.3),
    **batch_norm("bn2", 16),
}
# Square: a matrix that is transposed once too often fits all the same, but its output does not.
for layer in range(1, 5):
    weights[f"fc{layer}.weight"] = normal(64, 64, scale=0.18)
    weights[f"fc{layer}.bias"] = normal(64, scale=0.2)
weights["head.weight"] = normal(10, 64, scale=0.2)
weights["head.bias"] = normal(10, scale=0.2)


def conv(name, x, y):
    return helper.make_node("Conv", [x, f"{name}.weight", f"{name}.bias"], [y], name, kernel_shape=[3, 3], pads=[1] * 4)


def norm(name, x, y):
    inputs = [x] + [f"{name}.{part}" for part in ("scale", "bias", "mean", "var")]
    return helper.make_node("BatchNormalization", inputs, [y], name, epsilon=1e-5)


def pool(x, y):
    return helper.make_node("MaxPool", [x], [y], kernel_shape=[2, 2], strides=[2, 2])


def gemm(name, x, y):
    # The factors are their defaults, written out as exporters do: without them burn-onnx makes no `Linear` of it.
    inputs = [x, f"{name}.weight", f"{name}.bias"]
    return helper.make_node("Gemm", inputs, [y], name, alpha=1.0, beta=1.0, transB=1)


def relu(x, y):
    return helper.make_node("Relu", [x], [y])


nodes = [
    conv("conv1", "image", "c1"), norm("bn1", "c1", "n1"), relu("n1", "r1"), pool("r1", "p1"),
    conv("conv2", "p1", "c2"), norm("bn2", "c2", "n2"), relu("n2", "r2"), pool("r2", "p2"),
    helper.make_node("Flatten", ["p2"], ["f"], axis=1),
]
for layer, x in enumerate(["f", "h1", "h2", "h3"], 1):
    nodes += [gemm(f"fc{layer}", x, f"g{layer}"), relu(f"g{layer}", f"h{layer}")]
nodes.append(gemm("head", "h4", "logits"))


def model(dtype):
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        nodes, "digits",
        [helper.make_tensor_value_info("image", kind, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", kind, ["batch", 10])],
        [numpy_helper.from_array(value.astype(dtype), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


onnx.save(model(np.float32), out / "digits.onnx")
image = normal(3, 1, 8, 8, scale=1.0)
(exact,) = ReferenceEvaluator(model(np.float64)).run(None, {"image": image.astype(np.float64)})
(single,) = ReferenceEvaluator(model(np.float32)).run(None, {"image": image})
print("f32 and f64 differ by", abs(exact - single).max())
print(exact.round(3))
save_file({"image": image, "logits": exact.astype(np.float32)}, out / "goldens.safetensors")
