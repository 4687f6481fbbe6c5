import importlib.util

import numpy as np
import pytest

from ssd34.core.preprocess import preprocess
from ssd34.runtime.node_times import NodeTime, measure_tail_share, share_of_tail

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="openvino is not installed"
)


@pytest.mark.parametrize(
    ("nodes", "share"),
    [
        ([("Conv", 6), ("Relu", 2), ("Softmax", 1), ("NonMaxSuppression", 1)], 0.2),
        # The softmax may come before the last convolution.
        ([("Conv", 6), ("Softmax", 1), ("QLinearConv", 2), ("TopK", 1)], 0.2),
        # What comes before the first one prepares the input.
        ([("Cast", 5), ("Transpose", 3), ("Conv", 2)], 0),
        ([("Softmax", 5)], 0),
        ([("Conv", 0)], None),
        ([], None),
    ],
)
def test_share_of_tail(nodes, share):
    nodes = [NodeTime(f"node{k}", *node) for k, node in enumerate(nodes)]
    assert share_of_tail(nodes) == (None if share is None else pytest.approx(share))


@pytest.mark.parametrize("engine", ["onnxruntime", pytest.param("openvino", marks=needs_openvino)])
def test_the_engines_own_profiles(engine, tiny_model, tiny_raw_model):
    tensor = preprocess(np.zeros((64, 64, 3), np.uint8), 64)
    share = measure_tail_share(tiny_model, engine, tensor, threads=1)
    raw = measure_tail_share(tiny_raw_model, engine, tensor, threads=1)
    assert share is not None and raw is not None
    assert 0 <= raw < share < 1
