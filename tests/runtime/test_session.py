import json
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from ssd34.core.contract import find_detection_faults
from ssd34.core.labels import COCO_LABELS
from ssd34.core.preprocess import preprocess
from ssd34.core.spec import named_spec
from ssd34.errors import ModelError, OptionError
from ssd34.runtime.session import Session
from tests.conftest import TINY_LABELS, tiny_spec
from tests.support.engines import EACH_ENGINE
from tests.support.pictures import noise
from tests.support.plain_runs import assert_all_close, plain_session
from tests.support.refusals import refused
from tests.support.small_models import (
    METADATA,
    metadata_of,
    raw_outputs,
    small_model,
    write_small_model,
)

FOUND = {
    "bboxes": np.array([[[-0.05, 0.1, 0.5, 1.1], [0.2, 0.2, 0.4, 0.4]]], np.float32),
    "labels": np.array([[2, 3]]),
    "scores": np.array([[0.9, 0.5]], np.float32),
}
PUBLISHED = {"image": [1, 3, 1200, 1200]}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.onnx"


def tiny_input():
    return preprocess(noise(50, 70, seed=3), 64)


@pytest.mark.parametrize("kind", ["tiny_model", "tiny_raw_model"])
def test_our_own_files(kind, request, monkeypatch):
    monkeypatch.setattr("ssd34.runtime.session.thread_budget", lambda: 3)
    path = request.getfixturevalue(kind)
    session = Session(path)
    assert session.path == path and session.raw == (kind == "tiny_raw_model")
    assert session.spec == tiny_spec() and session.labels == TINY_LABELS
    assert session.threads == 3
    of_numpy: Any = np.int64(2)
    assert Session(path, threads=2).threads == Session(path, threads=of_numpy).threads == 2


def test_detections_are_those_of_onnx_runtime(tiny_model):
    outputs = ["bboxes", "labels", "scores"]
    expected = plain_session(tiny_model).run(outputs, {"image": tiny_input()})
    boxes, labels, scores = Session(tiny_model).compute([tiny_input()])[0]
    assert len(scores) > 0
    assert boxes.shape == (len(scores), 4) and labels.shape == scores.shape
    assert [a.dtype.name for a in (boxes, labels, scores)] == ["float32", "int64", "float32"]
    assert set(labels.tolist()) <= {1, 2, 3}
    assert_all_close((boxes, labels, scores), (array[0] for array in expected), atol=1e-5)


@pytest.mark.parametrize("threads", [0, -1, "x", 1.5, 1025])
def test_threads_that_are_no_number_of_them(tiny_model, threads):
    with refused(OptionError, threads):
        Session(tiny_model, threads=threads)


def test_published_file_without_metadata(path):
    session = Session(write_small_model(path, FOUND, inputs=PUBLISHED, metadata={}))
    assert session.spec == named_spec("ssd1200-resnet34")
    assert session.labels == COCO_LABELS and not session.raw


def test_the_order_and_number_of_outputs_does_not_matter(path):
    outputs = {**dict(reversed(FOUND.items())), "extra": np.zeros(3, np.float32)}
    (found,) = Session(write_small_model(path, outputs)).compute([tiny_input()])
    # Boxes that reach a little over the edge are left as they are.
    assert_all_close(found, (values[0] for values in FOUND.values()), atol=0)


def without_shapes(model):
    """The same; how many dimensions its outputs have is known only when it runs."""
    graph = model.graph
    for node, port in zip(list(graph.node), graph.output, strict=True):
        shape = np.array(numpy_helper.to_array(node.attribute[0].t).shape)
        for name, values in (("shape", shape), ("all", shape > 0)):
            graph.initializer.append(numpy_helper.from_array(values, f"{port.name}.{name}"))
        node.output[0], computed = f"{port.name}.values", f"{port.name}.computed"
        inputs = [f"{port.name}.shape", f"{port.name}.all"]
        graph.node.append(helper.make_node("Compress", inputs, [computed]))
        graph.node.append(helper.make_node("Reshape", [node.output[0], computed], [port.name]))
        port.type.tensor_type.ClearField("shape")
    return model


@pytest.mark.parametrize("engine", EACH_ENGINE)
@pytest.mark.parametrize("outputs", [FOUND, raw_outputs(tiny_spec())], ids=["picked", "raw"])
def test_outputs_of_which_no_shape_is_declared(path, outputs, engine):
    path.write_bytes(without_shapes(small_model(outputs)).SerializeToString())
    (found,) = Session(path, engine=engine).compute([tiny_input()])
    assert_all_close(found, (values[0] for values in outputs.values()), atol=0)


def test_what_is_no_onnx_file(path, tmp_path, tiny_model, tiny_file):
    for missing in (path, tmp_path):
        with refused(ModelError, missing):
            Session(missing)
    whole = tiny_model.read_bytes()
    for content in (b"", b"hello\nworld\n", b"\x08\x07", b"\xff" * 100, whole[: len(whole) // 2]):
        path.write_bytes(content)
        with refused(ModelError, path):
            Session(path)
    with refused(ModelError, tiny_file, "ssd34 export"):
        Session(tiny_file)


BOTH = {"ssd34.spec", "ssd34.labels"}
SPEC = tiny_spec().to_dict()


def image(*shape):
    return {"inputs": {"x": [*shape]}}


def metadata(**changes):
    return {"metadata": METADATA | {f"ssd34.{k}": v for k, v in changes.items()}}


def outputs(**changes):
    return {"outputs": FOUND | changes, "inputs": PUBLISHED, "metadata": {}}


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        ({"outputs": {"prob": np.zeros((1, 1000), np.float32)}, "metadata": {}}, ["prob", *FOUND]),
        *(({"outputs": {n: v for n, v in FOUND.items() if n != lacking}}, [lacking])
          for lacking in FOUND),
        # Without metadata, too: names alone do not make it the published network.
        (outputs(bboxes=np.zeros((1, 2, 5), np.float32)), ["bboxes", "[1, 2, 5]"]),
        (outputs(bboxes=np.zeros((2, 4), np.float32)), ["bboxes", "[2, 4]"]),
        (outputs(bboxes=np.zeros((1, 2, 4))), ["bboxes", "double"]),
        (outputs(labels=np.zeros((1, 2), np.float32)), ["labels", "float"]),
        (outputs(scores=np.zeros((1, 2, 1), np.float32)), ["scores", "[1, 2, 1]"]),
        *((image(*shape), [])
          for shape in ((1, 3, 64), (64,), (1, 3, 64, 64, 1), (1, 1, 64, 64), (1, 64, 64, 3),
                        (1, 3, 64, 32), (1, 3, "height", "width"), (1, 3, "side", "side"))),
        ({"inputs": {}}, []),
        ({"inputs": {"x": [1, 3, 64, 64], "sizes": [1, 2]}}, []),
        ({"kind": TensorProto.UINT8}, ["uint8"]),
        ({**image(1, 3, 300, 300), "metadata": {}}, ["300", "1200"]),
        (image(1, 3, 96, 96), ["64", "96"]),
        *((metadata(spec=spec), ["metadata"])
          for spec in ("not json", "[]", "null", "{}", '{"name": "x"}',
                       json.dumps(SPEC | {"backbone": "vgg"}), json.dumps(SPEC | {"color": 1}),
                       json.dumps(SPEC | {"image_size": "64"}),
                       json.dumps(SPEC | {"steps": [0, 8, 8, 8]}),
                       json.dumps(SPEC | {"scales": ["a"] * 5}))),
        *((metadata(labels=labels), ["metadata"])
          for labels in ("not json", "[]", '{"names": ["a", "a"], "category_ids": [1, 2]}',
                         '{"names": ["a"], "category_ids": ["x"]}', '{"names": ["a"]}', "{}")),
        # Half of the metadata does not make it the published network.
        *(({"inputs": PUBLISHED, "metadata": {key: METADATA[key] for key in BOTH - {lacking}}},
           [lacking]) for lacking in sorted(BOTH)),
        ({"metadata": metadata_of(tiny_spec(), COCO_LABELS)}, ["3 classes", "80 classes"]),
        ({"outputs": raw_outputs(tiny_spec().replace(num_classes=7))}, ["conf"]),
        ({"outputs": raw_outputs(tiny_spec().at_size(128))}, ["loc"]),
    ],
)  # fmt: skip
def test_models_of_others(path, options, facts):
    write_small_model(path, **{"outputs": FOUND, **options})
    with refused(ModelError, path, *facts):
        Session(path)


@pytest.mark.parametrize(
    ("name", "shape"), [("loc", (2, 4, 3)), ("conf", (2, 4, 3)), ("loc", (1, 4, 2))]
)
def test_raw_outputs_that_do_not_belong_together(tiny_raw_model, monkeypatch, name, shape):
    """An engine may compute what the file does not declare."""
    session = Session(tiny_raw_model)
    outputs = {"loc": np.zeros((1, 4, 3), np.float32), "conf": np.zeros((1, 4, 3), np.float32)}
    outputs[name] = np.zeros(shape, np.float32)
    monkeypatch.setattr(session.engine, "run", lambda names, _: [outputs[n] for n in names])
    with refused(ModelError, name, [*shape]):
        session.compute([np.zeros((1, 3, 64, 64), np.float32)])


def changed(values, place, value):
    """A copy with one value changed."""
    values = values.copy()
    values[place] = value
    return values


BOXES, RAW = FOUND["bboxes"], raw_outputs(tiny_spec())


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({"bboxes": np.zeros((1, 7, 4), np.float32)}, ["bboxes [1, 7, 4]", "labels [1, 2]"]),
        ({"labels": np.ones((1, 3), np.int64)}, ["labels [1, 3]"]),
        ({k: np.concatenate([v, v]) for k, v in FOUND.items()}, ["1 picture"]),
        ({"bboxes": changed(BOXES, (0, 1, 2), np.nan)}, ["box", "nan"]),
        ({"bboxes": changed(BOXES, (0, 0, 3), np.inf)}, ["box", "inf"]),
        ({"bboxes": changed(BOXES, (0, 0, 0), -np.inf)}, ["box", "-inf"]),
        ({"bboxes": BOXES * np.float32(64)}, ["box", "70.4"]),
        ({"bboxes": changed(BOXES, (0, 1), (10, 20, 200, 250))}, ["box", "250"]),
        ({"bboxes": np.full((1, 2, 4), [4, 5, 8, 9], np.float32)}, ["box", "9"]),
        ({"bboxes": BOXES[..., [2, 1, 0, 3]]}, ["box", "-0.05"]),
        *(({"labels": np.array([[label, 3]])}, ["label", label]) for label in (4, 91, 0, -1)),
        *(({"scores": np.array([[score, 0.5]], np.float32)}, ["score", score])
          for score in (np.nan, np.inf, 90, -0.5)),
        *(({name: changed(RAW[name], (0, 3, 17), value)}, [name, f"{value:g}"])
          for name in RAW for value in (np.nan, np.inf, -np.inf, 3e7)),
        ({"conf": changed(RAW["conf"], (0, 1), 1)}, ["probabilities"]),
    ],
)  # fmt: skip
def test_values_that_are_no_detections(path, changes, facts):
    session = Session(write_small_model(path, (RAW if changes.keys() & RAW else FOUND) | changes))
    with refused(ModelError, path, *facts):
        session.compute([tiny_input()])


def test_an_untrained_network_is_no_fault():
    """Its boxes scatter: some centres lie several pictures away, most near the picture."""
    boxes = np.array([[0.1, 0.1, 0.5, 0.5], [0, 0, 3, 1], [-9, -6, 3, 3], [0, 0, 90, 1]])
    for count, faults in ((3, 0), (4, 1)):
        found = find_detection_faults(
            boxes[None, :count], np.ones((1, count)), np.full((1, count), 0.1),
            pictures=1, num_classes=3,
        )  # fmt: skip
        assert len(found) == faults


@pytest.mark.parametrize("box", [[np.inf] * 4, [-np.inf, 0, np.inf, 1], [np.nan, 0, 1, 1]])
def test_boxes_that_are_not_finite_are_one_fault_and_no_warning(box):
    (fault,) = find_detection_faults(
        np.array([[box]], np.float32), np.ones((1, 1)), np.ones((1, 1)), pictures=1, num_classes=3
    )
    assert f"{box[0]:g}" in fault
