"""The tail alone: leaving boxes without a chance out changes no bit of any detection; and a file
without its tail."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from ssd34.core.default_boxes import default_boxes_cxcywh
from ssd34.core.labels import COCO_LABELS
from ssd34.core.postprocess import BEST, ZOO, postprocess
from ssd34.core.preprocess import preprocess
from ssd34.core.spec import named_spec
from ssd34.deploy.graph import tail
from ssd34.deploy.graph.builder import (
    OLDEST,
    GraphBuilder,
    find_newest_opset,
    finish_model,
    save_model,
)
from ssd34.deploy.graph.export import ExportOptions, make_onnx_model
from ssd34.deploy.graph.tail import cut_tail
from ssd34.images.read import read_image
from ssd34.runtime.session import Session
from ssd34.zoo.names import model_path
from tests.conftest import EXAMPLES, TINY_LABELS, tiny_spec
from tests.support.plain_runs import assert_all_close, plain_session

OPSETS = (10, 12, 13, find_newest_opset())


def run(loc, conf, *, spec, policy, opset):
    builder = GraphBuilder(opset=opset)
    tail.add_tail(builder, loc="loc", conf="conf", spec=spec, policy=policy)

    def port(name, kind, *shape):
        return helper.make_tensor_value_info(name, kind, shape)

    inputs = [
        port("loc", TensorProto.FLOAT, *loc.shape),
        port("conf", TensorProto.FLOAT, *conf.shape),
    ]
    outputs = [
        port("bboxes", TensorProto.FLOAT, 1, "n", 4),
        port("labels", TensorProto.INT64, 1, "n"),
        port("scores", TensorProto.FLOAT, 1, "n"),
    ]
    labels = COCO_LABELS if spec.num_classes == 80 else TINY_LABELS
    model = finish_model(builder, inputs=inputs, outputs=outputs, spec=spec, labels=labels)
    found = plain_session(model).run(["bboxes", "labels", "scores"], {"loc": loc, "conf": conf})
    return [np.asarray(array) for array in found]


def drawn(spec, *, objects, seed=0):
    """Raw outputs with so many boxes that look like an object, among those that do not."""
    generator = np.random.default_rng(seed)
    boxes, channels = spec.num_default_boxes, spec.num_channels
    conf = generator.normal(0, 1, (1, channels, boxes)).astype(np.float32)
    conf[:, 0] += 20
    for box in generator.choice(boxes, objects, replace=False):
        conf[0, generator.integers(1, channels), box] = generator.normal(20, 3)
    return generator.normal(0, 1, (1, 4, boxes)).astype(np.float32), conf


@pytest.fixture(scope="module")
def real():
    """Raw outputs of the embedded float network for a picture."""
    session = plain_session(cut_tail(onnx.load(model_path("default-float"))))
    image = preprocess(read_image(EXAMPLES / "coffee.jpg"), 300)
    return session.run(["loc", "conf"], {"image": image})


def both_ways(monkeypatch, outputs, **options):
    """With all boxes, and with the promising ones only."""
    left_out = run(*outputs, **options)
    with monkeypatch.context() as patch:
        patch.setattr(tail, "promising_margin", lambda _: None)
        return run(*outputs, **options), left_out


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("policy", [ZOO, BEST, ZOO.replace(score_threshold=0.15)])
def test_a_real_pictures_detections_are_the_same_bit_for_bit(monkeypatch, real, policy, opset):
    spec = named_spec("ssd300-resnet34")
    whole, left_out = both_ways(monkeypatch, real, spec=spec, policy=policy, opset=opset)
    assert whole[2].size > 0
    assert_all_close(whole, left_out, atol=0)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("objects", [0, 1, 2, 17, 60])
def test_any_number_of_promising_boxes(monkeypatch, objects, opset):
    spec = tiny_spec()
    outputs = drawn(spec, objects=objects)
    whole, left_out = both_ways(monkeypatch, outputs, spec=spec, policy=ZOO, opset=opset)
    assert_all_close(whole, left_out, atol=0)
    expected = postprocess(
        outputs[0][0], outputs[1][0], default_boxes_cxcywh=default_boxes_cxcywh(spec), policy=ZOO
    )
    boxes, labels, scores = (array[0] for array in left_out)
    assert (labels.dtype, boxes.dtype, scores.dtype) == (np.int64, np.float32, np.float32)
    np.testing.assert_allclose(boxes, expected.boxes, atol=1e-5)
    np.testing.assert_array_equal(labels, expected.labels)
    np.testing.assert_allclose(scores, expected.scores, atol=1e-6)


def test_scores_beside_the_threshold_are_decided_by_the_softmax_alone(monkeypatch):
    spec = tiny_spec()
    loc, conf = drawn(spec, objects=0)
    conf[0] = -50
    margin = np.log(0.05 / 0.95)
    conf[0, 0] = 0
    conf[0, 1] = margin + np.linspace(-1e-5, 1e-5, conf.shape[2])
    policy = ZOO.replace(iou_threshold=1.0)
    whole, left_out = both_ways(monkeypatch, (loc, conf), spec=spec, policy=policy, opset=13)
    assert whole[2].size > 0
    np.testing.assert_array_equal(whole[2], left_out[2])


def test_a_threshold_of_zero_leaves_nothing_out():
    spec = tiny_spec()
    loc, conf = drawn(spec, objects=3)
    policy = ZOO.replace(score_threshold=0.0, max_detections=100_000, iou_threshold=1.0)
    *_, scores = run(loc, conf, spec=spec, policy=policy, opset=13)
    assert scores.size == spec.num_classes * min(spec.num_default_boxes, 200)


@pytest.mark.parametrize(
    ("opset", "batch"), [(OLDEST, 1), *((find_newest_opset(), batch) for batch in (1, 2, None))]
)
@pytest.mark.parametrize("image_input", ["float32", "uint8"])
def test_cut_off_it_leaves_the_network_that_was_exported_without_a_tail(
    tiny_checkpoint, tmp_path, opset, batch, image_input
):
    common = {"opset": opset, "batch": batch, "image_input": image_input}
    tailed = make_onnx_model(tiny_checkpoint, ExportOptions(policy=ZOO, **common))
    before = tailed.SerializeToString()
    cut = cut_tail(tailed)
    assert tailed.SerializeToString() == before
    onnx.checker.check_model(cut, full_check=True)
    raw = make_onnx_model(tiny_checkpoint, ExportOptions(policy=None, **common))
    assert [output.name for output in cut.graph.output] == ["loc", "conf"]
    assert not any(node.op_type == "NonMaxSuppression" for node in cut.graph.node)
    assert {t.name for t in cut.graph.initializer} == {t.name for t in raw.graph.initializer}
    sessions = []
    for name, model in (("cut", cut), ("raw", raw)):
        save_model(model, tmp_path / f"{name}.onnx")
        sessions.append(Session(tmp_path / f"{name}.onnx", threads=1))
    assert sessions[0].raw and sessions[0].batch == sessions[1].batch
    image = np.random.default_rng(0).integers(0, 256, (70, 50, 3)).astype(np.uint8)
    assert_all_close(*(s.compute([s.prepare(image)])[0] for s in sessions), atol=0)
