import numpy as np
import pytest

from ssd34.core.preprocess import preprocess
from ssd34.runtime.timing import NodeTime, compute_tail_share, measure_node_times
from tests.support.engines import EACH_ENGINE


@pytest.mark.parametrize(
    ("nodes", "share"),
    [([("Conv", 6), ("Relu", 2), ("Softmax", 1), ("NonMaxSuppression", 1)], 0.2),
     # The softmax may come before the last convolution.
     ([("Conv", 6), ("Softmax", 1), ("QLinearConv", 2), ("TopK", 1)], 0.2),
     # What comes before the first one prepares the input.
     ([("Cast", 5), ("Transpose", 3), ("Conv", 2)], 0),
     ([("Softmax", 5)], 0), ([("Conv", 0)], None), ([], None)],
)  # fmt: skip
def test_share_of_tail(nodes, share):
    nodes = [NodeTime(f"node{k}", *node) for k, node in enumerate(nodes)]
    assert compute_tail_share(nodes) == (None if share is None else pytest.approx(share))


@pytest.mark.parametrize("engine", EACH_ENGINE)
def test_the_engines_own_profiles(engine, tiny_model, tiny_raw_model):
    tensor = preprocess(np.zeros((64, 64, 3), np.uint8), 64)
    share, raw = (
        compute_tail_share(measure_node_times(path, engine, tensor, threads=1))
        for path in (tiny_model, tiny_raw_model)
    )
    assert share is not None and raw is not None
    assert 0 <= raw < share < 1
