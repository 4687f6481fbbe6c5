"""Weights read back from ONNX files; ONNX Runtime says what the file computes."""

import numpy as np
import onnx
import pytest

from ssd34.core.preprocess import MEAN, STD
from ssd34.deploy.graph.builder import save_model
from ssd34.deploy.graph.export import ExportOptions, make_onnx_model
from ssd34.network.pretrained import has_unfolded_norm
from ssd34.runtime.session import Session
from ssd34.workflows.training.runs import read_onnx_checkpoint
from ssd34.zoo.names import model_path
from tests.conftest import TINY_LABELS, drawn_checkpoint, tiny_spec
from tests.support.plain_runs import assert_all_close, plain_session, torch_outputs


@pytest.mark.parametrize("weight_format", ["float32", "float16", "int8"])
@pytest.mark.parametrize("image_input", ["float32", "uint8"])
@pytest.mark.parametrize("head_norm", [True, False])
def test_torch_computes_what_the_file_does(tmp_path, weight_format, image_input, head_norm):
    spec = tiny_spec().replace(head_norm=head_norm)
    options = ExportOptions(
        policy=None, image_input=image_input, weight_format=weight_format, opset=13
    )
    path = tmp_path / "tiny.onnx"
    save_model(make_onnx_model(drawn_checkpoint(spec, TINY_LABELS), options), path)
    back = read_onnx_checkpoint(path)
    assert (back.spec, back.labels) == (spec, TINY_LABELS)
    pixels = np.random.default_rng(1).integers(0, 256, (1, 64, 64, 3)).astype(np.uint8)
    normal = ((pixels / 255 - MEAN) / STD).astype(np.float32).transpose(0, 3, 1, 2).copy()
    (expected,) = Session(path).compute([pixels if image_input == "uint8" else normal])
    found = (output[0] for output in torch_outputs(back, normal))
    assert_all_close(found, expected, atol=2e-4)


def test_the_embedded_default_comes_back(tmp_path):
    """Its int8 weights give the same raw outputs in torch as in the file, but for the offset of the
    scores, which only files have; the file itself ends behind its own selection, so its graph is
    cut at the network's outputs."""
    path = model_path("default-float")
    checkpoint = read_onnx_checkpoint(path)
    assert len(checkpoint.labels) == 80
    assert has_unfolded_norm(checkpoint.weights, "backbone.")
    assert has_unfolded_norm(checkpoint.weights, "extras.")
    onnx.utils.extract_model(
        str(path), str(tmp_path / "raw.onnx"), ["image"], ["tail.loc", "tail.conf"],
        check_model=False,
    )  # fmt: skip
    image = np.random.default_rng(2).normal(size=(1, 3, 300, 300)).astype(np.float32)
    expected = plain_session(tmp_path / "raw.onnx").run(None, {"image": image})
    assert checkpoint.score_calibration is not None
    loc, conf = torch_outputs(checkpoint, image)
    conf[:, 0] += checkpoint.score_calibration.background_offset
    assert_all_close((loc, conf), expected, atol=2e-4)
