import numpy as np
import onnx
import pytest

from ssd34.core.postprocess import ZOO
from ssd34.deploy.graph.builder import save_model
from ssd34.deploy.graph.export import ExportOptions, onnx_model
from ssd34.deploy.graph.opsets import OLDEST, newest_opset
from ssd34.deploy.graph.tail import without_tail
from ssd34.errors import ModelError
from ssd34.runtime.session import Session
from tests.support.plain_runs import assert_all_close


@pytest.mark.parametrize(
    ("opset", "batch"), [(OLDEST, 1), *((newest_opset(), batch) for batch in (1, 2, None))]
)
@pytest.mark.parametrize("image_input", ["float32", "uint8"])
def test_it_is_the_network_that_was_exported_without_a_tail(
    tiny_checkpoint, tmp_path, opset, batch, image_input
):
    common = {"opset": opset, "batch": batch, "image_input": image_input}
    tailed = onnx_model(tiny_checkpoint, ExportOptions(policy=ZOO, **common))
    before = tailed.SerializeToString()
    cut = without_tail(tailed)
    assert tailed.SerializeToString() == before
    onnx.checker.check_model(cut, full_check=True)
    raw = onnx_model(tiny_checkpoint, ExportOptions(policy=None, **common))
    assert [output.name for output in cut.graph.output] == ["loc", "conf"]
    assert not any(node.op_type == "NonMaxSuppression" for node in cut.graph.node)
    assert {t.name for t in cut.graph.initializer} == {t.name for t in raw.graph.initializer}
    sessions = []
    for name, model in (("cut", cut), ("raw", raw)):
        save_model(model, tmp_path / f"{name}.onnx")
        sessions.append(Session(tmp_path / f"{name}.onnx", threads=1))
    assert sessions[0].raw and sessions[0].batch == sessions[1].batch
    image = np.random.default_rng(0).integers(0, 256, (70, 50, 3)).astype(np.uint8)
    assert_all_close(*(s.run_raw(s.input_for(image)) for s in sessions), atol=0)


def test_another_tail_is_named(tiny_raw_model):
    with pytest.raises(ModelError, match="--tail none"):
        without_tail(onnx.load(tiny_raw_model))
