import onnx
import onnxruntime
import pytest

from ssd34.deploy.graph.builder import (
    check_opset,
    find_ir_version,
    find_newest_opset,
    find_onnx_release,
    list_opsets,
)
from ssd34.errors import OptionError
from tests.support.refusals import refused


def test_the_published_files_versions():
    assert (find_ir_version(10), find_onnx_release(10)) == (5, "1.5")
    assert (find_ir_version(12), find_onnx_release(12)) == (7, "1.7")
    assert find_onnx_release(999) == "unknown"


def test_the_newest_is_the_newest_that_loads(monkeypatch):
    assert find_newest_opset() <= onnx.defs.onnx_opset_version()
    loaded = onnxruntime.InferenceSession

    def older(model, *rest, **more):
        version = onnx.load_model_from_string(model).opset_import[0].version
        if version > 16:
            raise RuntimeError(f"opset {version} is not supported")
        return loaded(model, *rest, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", older)
    assert find_newest_opset() == 16


@pytest.mark.parametrize("opset", [0, 9, -1, onnx.defs.onnx_opset_version() + 1])
def test_others_are_refused(opset):
    with refused(OptionError, opset, 10):
        check_opset(opset)
    assert all(known >= 10 for known in list_opsets())
