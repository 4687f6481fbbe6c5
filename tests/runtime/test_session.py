import json

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from ssd34.core.contract import detection_faults
from ssd34.core.labels import COCO_LABELS
from ssd34.core.preprocess import preprocess
from ssd34.core.spec import named_spec
from ssd34.errors import ModelError, OptionError
from ssd34.machine import thread_budget
from ssd34.runtime.session import Session
from tests.conftest import TINY_LABELS, tiny_spec

FOUND = {
    "bboxes": np.array([[[-0.05, 0.1, 0.5, 1.1], [0.2, 0.2, 0.4, 0.4]]], np.float32),
    "labels": np.array([[2, 3]]),
    "scores": np.array([[0.9, 0.5]], np.float32),
}
DETECTIONS = {
    "bboxes": np.zeros((1, 2, 4), np.float32),
    "labels": np.ones((1, 2), np.int64),
    "scores": np.zeros((1, 2), np.float32),
}


def raw_outputs(spec):
    return {
        "loc": np.zeros((1, 4, spec.num_default_boxes), np.float32),
        "conf": np.zeros((1, spec.num_channels, spec.num_default_boxes), np.float32),
    }


def metadata_of(spec, labels):
    return {
        "ssd34.spec": json.dumps(spec.to_dict()),
        "ssd34.labels": json.dumps(labels.to_dict()),
    }


def onnx_file(path, *, inputs, outputs, metadata=None, elem_type=TensorProto.FLOAT):
    """A model with constant outputs that takes inputs and does not look at them."""
    nodes = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))
        for name, value in outputs.items()
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(n, elem_type, shape) for n, shape in inputs.items()],
        [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
            )
            for name, value in outputs.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=7)
    helper.set_model_props(model, metadata or {})
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def refused(path, **options):
    with pytest.raises(ModelError) as caught:
        Session(path, **options)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert str(path) in message
    return message


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.onnx"


@pytest.fixture
def tiny_metadata():
    return metadata_of(tiny_spec(), TINY_LABELS)


def tiny_input():
    pixels = np.random.default_rng(3).integers(0, 256, (50, 70, 3)).astype(np.uint8)
    return preprocess(pixels, 64)


# --- our own files --------------------------------------------------------------------------


def test_model_with_a_tail(tiny_model):
    session = Session(tiny_model)
    assert not session.raw
    assert session.path == tiny_model
    assert session.spec == tiny_spec() and session.labels == TINY_LABELS


def test_raw_model(tiny_raw_model):
    session = Session(tiny_raw_model)
    assert session.raw
    assert session.spec == tiny_spec() and session.labels == TINY_LABELS


def test_detections_are_those_of_onnx_runtime(tiny_model):
    plain = onnxruntime.InferenceSession(tiny_model, providers=["CPUExecutionProvider"])
    expected = plain.run(["bboxes", "labels", "scores"], {plain.get_inputs()[0].name: tiny_input()})
    boxes, labels, scores = Session(tiny_model).run_detections(tiny_input())[0]
    assert len(scores) > 0
    assert boxes.shape == (len(scores), 4) and boxes.dtype == np.float32
    assert labels.shape == scores.shape and labels.dtype == np.int64
    assert scores.dtype == np.float32
    assert set(labels.tolist()) <= {1, 2, 3}
    np.testing.assert_allclose(boxes, expected[0][0], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(labels, expected[1][0])
    np.testing.assert_allclose(scores, expected[2][0], rtol=1e-5, atol=1e-6)


def test_raw_outputs_take_several_pictures_at_once(tiny_raw_model):
    session = Session(tiny_raw_model)
    spec = session.spec
    one, other = tiny_input(), tiny_input()[..., ::-1].copy()
    loc, conf = session.run_raw(np.concatenate([one, other]))
    assert loc.shape == (2, 4, spec.num_default_boxes)
    assert conf.shape == (2, 4, spec.num_default_boxes)
    for k, image in enumerate((one, other)):
        alone_loc, alone_conf = session.run_raw(image)
        np.testing.assert_allclose(loc[k], alone_loc[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(conf[k], alone_conf[0], rtol=1e-4, atol=1e-5)


def test_threads(tiny_model):
    assert Session(tiny_model, threads=2).threads == 2
    assert Session(tiny_model).threads == thread_budget()


@pytest.mark.parametrize("threads", [0, -1, "x", 1.5])
def test_threads_that_are_no_number_of_them(tiny_model, threads):
    with pytest.raises(OptionError, match="expected a whole number of 1 or more"):
        Session(tiny_model, threads=threads)


def test_published_file_without_metadata(path):
    onnx_file(path, inputs={"image": [1, 3, 1200, 1200]}, outputs=DETECTIONS)
    session = Session(path)
    assert session.spec == named_spec("ssd1200-resnet34")
    assert session.labels == COCO_LABELS and not session.raw


def test_the_order_and_number_of_outputs_does_not_matter(path, tiny_metadata):
    outputs = {
        "scores": np.array([[0.75, 0.5]], np.float32),
        "extra": np.zeros(3, np.float32),
        "labels": np.array([[2, 3]]),
        "bboxes": np.array([[[0, 0, 1, 1], [0, 0, 0.5, 0.5]]], np.float32),
    }
    onnx_file(path, inputs={"x": [1, 3, 64, 64]}, outputs=outputs, metadata=tiny_metadata)
    boxes, labels, scores = Session(path).run_detections(tiny_input())[0]
    assert boxes.tolist() == [[0, 0, 1, 1], [0, 0, 0.5, 0.5]]
    assert labels.tolist() == [2, 3] and scores.tolist() == [0.75, 0.5]


# --- files that are no models ---------------------------------------------------------------


def test_missing_file(path):
    assert "no such model file" in refused(path)


def test_folder(tmp_path):
    refused(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello\nworld\n", b"\x08\x07", b"\xff" * 100])
def test_file_that_is_no_onnx(path, content):
    path.write_bytes(content)
    assert "not an ONNX file" in refused(path)


def test_truncated_model(path, tiny_model):
    content = tiny_model.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    message = refused(path)
    assert "not an ONNX file" in message and "export" in message


# --- models of others -----------------------------------------------------------------------


def test_classifier(path):
    onnx_file(
        path, inputs={"data": [1, 3, 224, 224]}, outputs={"prob": np.zeros((1, 1000), np.float32)}
    )
    message = refused(path)
    assert "not an SSD detector" in message
    assert "prob" in message and "bboxes, labels, scores" in message


@pytest.mark.parametrize("lacking", DETECTIONS)
def test_detector_that_lacks_an_output(path, tiny_metadata, lacking):
    outputs = {name: value for name, value in DETECTIONS.items() if name != lacking}
    onnx_file(path, inputs={"x": [1, 3, 64, 64]}, outputs=outputs, metadata=tiny_metadata)
    assert "not an SSD detector" in refused(path)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("bboxes", np.zeros((1, 2, 5), np.float32)),
        ("bboxes", np.zeros((2, 4), np.float32)),
        ("bboxes", np.zeros((1, 2, 4), np.float64)),
        ("labels", np.zeros((1, 2), np.float32)),
        ("scores", np.zeros((1, 2, 1), np.float32)),
    ],
)
def test_detections_of_another_form(path, name, values):
    """Of a file without metadata, too: its names alone do not make it the published network."""
    onnx_file(path, inputs={"image": [1, 3, 1200, 1200]}, outputs=DETECTIONS | {name: values})
    message = refused(path)
    assert f"output {name}" in message and "expected" in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bboxes": np.zeros((1, 7, 4), np.float32)}, r"bboxes \[1, 7, 4\], labels \[1, 2\]"),
        ({"labels": np.ones((1, 3), np.int64)}, r"labels \[1, 3\]"),
        ({k: np.concatenate([v, v]) for k, v in DETECTIONS.items()}, "for 1 picture"),
        ({"scores": np.ones((1, 2), np.float32), "labels": np.array([[1, 91]])}, "label 91"),
    ],
)
def test_detections_that_do_not_belong_together(path, tiny_metadata, changes, message):
    outputs = DETECTIONS | changes
    onnx_file(path, inputs={"x": [1, 3, 64, 64]}, outputs=outputs, metadata=tiny_metadata)
    with pytest.raises(ModelError, match=message):
        Session(path).run_detections(tiny_input())


@pytest.mark.parametrize(
    "shape",
    [
        [1, 3, 64],
        [64],
        [1, 3, 64, 64, 1],
        [1, 1, 64, 64],
        [1, 64, 64, 3],
        [1, 3, 64, 32],
        [1, 3, "height", "width"],
        [1, 3, "side", "side"],
    ],
)
def test_input_of_another_shape(path, tiny_metadata, shape):
    onnx_file(path, inputs={"x": shape}, outputs=DETECTIONS, metadata=tiny_metadata)
    assert "not an SSD detector" in refused(path)


@pytest.mark.parametrize("inputs", [{}, {"x": [1, 3, 64, 64], "sizes": [1, 2]}])
def test_none_or_two_inputs(path, tiny_metadata, inputs):
    onnx_file(path, inputs=inputs, outputs=DETECTIONS, metadata=tiny_metadata)
    assert "not an SSD detector" in refused(path)


def test_input_of_bytes(path, tiny_metadata):
    onnx_file(
        path,
        inputs={"x": [1, 3, 64, 64]},
        outputs=DETECTIONS,
        metadata=tiny_metadata,
        elem_type=TensorProto.UINT8,
    )
    assert "uint8" in refused(path)


def test_unknown_size_without_metadata(path):
    onnx_file(path, inputs={"x": [1, 3, 300, 300]}, outputs=DETECTIONS)
    message = refused(path)
    assert "without ssd34 metadata" in message and "300" in message and "1200" in message


@pytest.mark.parametrize(
    "changes",
    [
        {"ssd34.spec": "not json"},
        {"ssd34.spec": "[]"},
        {"ssd34.spec": "null"},
        {"ssd34.spec": "{}"},
        {"ssd34.spec": '{"name": "x"}'},
        {"ssd34.spec": json.dumps(tiny_spec().to_dict() | {"backbone": "vgg"})},
        {"ssd34.spec": json.dumps(tiny_spec().to_dict() | {"color": 1})},
        {"ssd34.spec": json.dumps(tiny_spec().to_dict() | {"image_size": "64"})},
        {"ssd34.labels": "not json"},
        {"ssd34.labels": "[]"},
        {"ssd34.labels": '{"names": ["a", "a"], "category_ids": [1, 2]}'},
        {"ssd34.labels": '{"names": ["a"], "category_ids": ["x"]}'},
        {"ssd34.labels": '{"names": ["a"]}'},
        {"ssd34.labels": "{}"},
    ],
)
def test_broken_metadata(path, tiny_metadata, changes):
    onnx_file(
        path,
        inputs={"x": [1, 3, 64, 64]},
        outputs=DETECTIONS,
        metadata=tiny_metadata | changes,
    )
    assert "broken ssd34 metadata" in refused(path)


@pytest.mark.parametrize("lacking", ["ssd34.spec", "ssd34.labels"])
def test_half_of_the_metadata_does_not_make_it_the_published_network(path, tiny_metadata, lacking):
    half = {key: value for key, value in tiny_metadata.items() if key != lacking}
    onnx_file(path, inputs={"x": [1, 3, 1200, 1200]}, outputs=DETECTIONS, metadata=half)
    message = refused(path)
    assert "broken ssd34 metadata" in message and lacking in message and str(path) in message


def test_metadata_of_another_size(path, tiny_metadata):
    onnx_file(path, inputs={"x": [1, 3, 96, 96]}, outputs=DETECTIONS, metadata=tiny_metadata)
    message = refused(path)
    assert "64" in message and "96" in message


def test_metadata_with_another_number_of_classes(path):
    metadata = metadata_of(tiny_spec(), COCO_LABELS)
    onnx_file(path, inputs={"x": [1, 3, 64, 64]}, outputs=DETECTIONS, metadata=metadata)
    message = refused(path)
    assert "3 classes" in message and "80 classes" in message


def test_raw_outputs_that_fit_the_metadata(path, tiny_metadata):
    onnx_file(
        path,
        inputs={"x": [1, 3, 64, 64]},
        outputs=raw_outputs(tiny_spec()),
        metadata=tiny_metadata,
    )
    assert Session(path).raw


@pytest.mark.parametrize(
    "spec",
    [tiny_spec().replace(num_classes=7), tiny_spec().at_size(128)],
    ids=["channels", "boxes"],
)
def test_raw_outputs_that_do_not_fit_the_metadata(path, tiny_metadata, spec):
    onnx_file(path, inputs={"x": [1, 3, 64, 64]}, outputs=raw_outputs(spec), metadata=tiny_metadata)
    refused(path)


def test_a_checkpoint_is_told_from_an_onnx_file(tiny_checkpoint, tmp_path):
    tiny_checkpoint.save(tmp_path / "tiny.safetensors")
    with pytest.raises(ModelError, match="a checkpoint; make an ONNX file of it first"):
        Session(tmp_path / "tiny.safetensors")


@pytest.mark.parametrize(
    ("name", "shape"), [("loc", (2, 4, 3)), ("conf", (2, 4, 3)), ("loc", (1, 4, 2))]
)
def test_raw_outputs_that_do_not_belong_together(tiny_raw_model, monkeypatch, name, shape):
    """An engine may compute what the file does not declare."""
    session = Session(tiny_raw_model)
    outputs = {"loc": np.zeros((1, 4, 3), np.float32), "conf": np.zeros((1, 4, 3), np.float32)}
    outputs[name] = np.zeros(shape, np.float32)
    monkeypatch.setattr(session.engine, "run", lambda names, _: [outputs[n] for n in names])
    with pytest.raises(ModelError, match=rf"gave .*{name} \[{shape[0]}.* for 1 picture"):
        session.run_raw(np.zeros((1, 3, 64, 64), np.float32))


# --- values that a file gives ---------------------------------------------------------------


def changed(values, place, value):
    """A copy with one value changed."""
    values = values.copy()
    values[place] = value
    return values


def gives(path, outputs, metadata):
    """The error of a file whose outputs are these."""
    onnx_file(path, inputs={"x": [1, 3, 64, 64]}, outputs=outputs, metadata=metadata)
    session = Session(path)
    with pytest.raises(ModelError) as caught:
        (session.run_raw if session.raw else session.run_detections)(tiny_input())
    message = str(caught.value)
    assert str(path) in message and len(message.splitlines()) == 1
    return message


def test_boxes_that_reach_a_little_over_the_edge(path, tiny_metadata):
    onnx_file(path, inputs={"x": [1, 3, 64, 64]}, outputs=FOUND, metadata=tiny_metadata)
    ((boxes, labels, scores),) = Session(path).run_detections(tiny_input())
    np.testing.assert_array_equal(boxes, FOUND["bboxes"][0])
    assert labels.tolist() == [2, 3] and len(scores) == 2


@pytest.mark.parametrize(
    ("name", "values", "shown"),
    [
        ("bboxes", changed(FOUND["bboxes"], (0, 1, 2), np.nan), "nan"),
        ("bboxes", changed(FOUND["bboxes"], (0, 0, 3), np.inf), "inf"),
        ("bboxes", changed(FOUND["bboxes"], (0, 0, 0), -np.inf), "-inf"),
        ("bboxes", FOUND["bboxes"] * np.float32(64), "70.4"),
        ("bboxes", changed(FOUND["bboxes"], (0, 1), (10, 20, 200, 250)), "250"),
        ("bboxes", np.full((1, 2, 4), [4, 5, 8, 9], np.float32), "9"),
        ("bboxes", FOUND["bboxes"][..., [2, 1, 0, 3]], "-0.05"),
        ("labels", np.array([[2, 4]]), "4"),
        ("labels", np.array([[0, 3]]), "0"),
        ("labels", np.array([[-1, 3]]), "-1"),
        ("scores", np.array([[0.9, np.nan]], np.float32), "nan"),
        ("scores", np.array([[np.inf, 0.5]], np.float32), "inf"),
        ("scores", np.array([[90, 50]], np.float32), "90"),
        ("scores", np.array([[0.9, -0.5]], np.float32), "-0.5"),
    ],
)
def test_values_that_are_no_detections(path, tiny_metadata, name, values, shown):
    message = gives(path, FOUND | {name: values}, tiny_metadata)
    word = {"bboxes": "box", "labels": "label", "scores": "score"}[name]
    assert word in message and shown in message and "expected" in message


@pytest.mark.parametrize("name", ["loc", "conf"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e7])
def test_values_that_are_no_raw_outputs(path, tiny_metadata, name, value):
    outputs = raw_outputs(tiny_spec())
    outputs[name] = changed(outputs[name], (0, 3, 17), value)
    message = gives(path, outputs, tiny_metadata)
    assert name in message and f"{value:g}" in message and "expected" in message


def test_probabilities_in_place_of_logits(path, tiny_metadata):
    outputs = raw_outputs(tiny_spec())
    outputs["conf"][:, 1] = 1
    assert "probabilities" in gives(path, outputs, tiny_metadata)


def test_an_untrained_network_is_no_fault():
    """Its boxes scatter: some centres lie several pictures away, most near the picture."""
    boxes = np.array([[0.1, 0.1, 0.5, 0.5], [0, 0, 3, 1], [-9, -6, 3, 3], [0, 0, 90, 1]])
    for count, faults in ((3, 0), (4, 1)):
        found = detection_faults(
            boxes[None, :count], np.ones((1, count)), np.full((1, count), 0.1),
            pictures=1, num_classes=3,
        )  # fmt: skip
        assert len(found) == faults


@pytest.mark.parametrize("box", [[np.inf] * 4, [-np.inf, 0, np.inf, 1], [np.nan, 0, 1, 1]])
def test_boxes_that_are_not_finite_are_one_fault_and_no_warning(box):
    (fault,) = detection_faults(
        np.array([[box]], np.float32), np.ones((1, 1)), np.ones((1, 1)), pictures=1, num_classes=3
    )
    assert f"{box[0]:g}" in fault
