"""An int8 ONNX file computed with NumPy integers, from nothing but the file."""

from __future__ import annotations

import numpy as np
from onnx import helper, numpy_helper


def constants_of(model):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def quantized(real, scale, zero_point):
    steps = np.rint(real / np.float64(scale)) + int(zero_point)
    return np.clip(steps, 0, 255).astype(np.uint8)


def integer_node(node, inputs):
    """One QLinearConv, QLinearAdd or MaxPool of bytes.

    Args:
        node: the operator.
        inputs: its inputs' values, tensors and constants.
    """
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "QLinearAdd":
        a, a_scale, a_zero, b, b_scale, b_zero, scale, zero = inputs
        real = np.float64(a_scale) * (a.astype(np.int64) - int(a_zero))
        real = real + np.float64(b_scale) * (b.astype(np.int64) - int(b_zero))
        return quantized(real, scale, zero)
    if node.op_type == "MaxPool":
        return windows(inputs[0], attributes, fill=0).max(axis=(-2, -1))
    x, x_scale, x_zero, weight, w_scale, w_zero, scale, zero, bias = inputs
    assert weight.dtype == np.int8
    assert not np.any(w_zero)
    assert (x.dtype, bias.dtype) == (np.uint8, np.int32)
    seen = windows(x.astype(np.int64) - int(x_zero), attributes, fill=0)
    # float64 holds these integers exactly, and multiplies them fast.
    total = np.tensordot(seen.astype(np.float64), weight.astype(np.float64), ((1, 4, 5), (1, 2, 3)))
    total = total.transpose(0, 3, 1, 2).astype(np.int64)
    total += bias.astype(np.int64).reshape(-1, 1, 1)
    assert np.abs(total).max() < 2**31
    factor = np.broadcast_to(w_scale, len(weight)).astype(np.float64) * np.float64(x_scale)
    return quantized(total * factor.reshape(-1, 1, 1), scale, zero)


def windows(x, attributes, *, fill):
    """(N, C, H, W) to (N, C, H', W', K, K)."""
    kernel = attributes["kernel_shape"][0]
    top, left, bottom, right = attributes["pads"]
    around = ((0, 0), (0, 0), (top, bottom), (left, right))
    padded = np.pad(x, around, constant_values=fill)
    seen = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(2, 3))
    stride = attributes["strides"][0]
    return seen[:, :, ::stride, ::stride]
