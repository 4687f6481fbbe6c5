import onnx
import pytest
from onnx import numpy_helper

from ssd34.machine import describe_cpu
from ssd34.runtime import onnxruntime_engine
from ssd34.runtime.libraries import PROBE, int8_saturates
from ssd34.runtime.onnxruntime_engine import session_options

PRECISE = "session.x64quantprecision"


def test_the_probe_is_what_it_says():
    model = onnx.load_from_string(PROBE)
    onnx.checker.check_model(model, full_check=True)
    (node,) = model.graph.node
    values = {c.name: numpy_helper.to_array(c) for c in model.graph.initializer}
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = node.input
    assert node.op_type == "QLinearConv" and x == model.graph.input[0].name
    assert values[w].shape == (4, 4, 1, 1) and (values[w] == 127).all()
    assert values[x_zero] == values[w_zero] == values[y_zero] == 0
    exact = 4 * 255 * 127 * values[x_scale] * values[w_scale] / values[y_scale]
    assert exact == 255


@pytest.mark.skipif(
    not (describe_cpu().features or {}).get("vnni"),
    reason="this processor is not known to have VNNI",
)
def test_vnni_does_not_saturate():
    assert not int8_saturates()


@pytest.mark.parametrize("saturates", [True, False])
def test_the_slow_way_is_taken_only_where_the_fast_one_is_wrong(saturates, monkeypatch):
    monkeypatch.setattr(onnxruntime_engine, "int8_saturates", lambda: saturates)
    options = session_options(1)
    if saturates:
        assert options.get_session_config_entry(PRECISE) == "1"
    else:
        with pytest.raises(RuntimeError):
            options.get_session_config_entry(PRECISE)
