import dataclasses
import json
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from full_size_chain import drawn_benchmark_weights

from ssd34.core.labels import COCO_LABELS
from ssd34.core.postprocess import MLPERF, ZOO
from ssd34.core.preprocess import preprocess, resize
from ssd34.core.spec import named_spec
from ssd34.deploy.graph.builder import (
    find_newest_opset,
    find_onnx_release,
    list_opsets,
    save_model,
)
from ssd34.deploy.graph.export import ExportOptions, make_network_model, make_onnx_model
from ssd34.deploy.graph.read import read_network
from ssd34.deploy.search.bench import Bench
from ssd34.errors import CheckpointError, ModelError, OptionError
from ssd34.files.checkpoint import Checkpoint
from ssd34.images.read import read_image
from ssd34.network.pretrained import convert_benchmark_weights
from ssd34.runtime.detector import Detector
from tests.conftest import EXAMPLES, TINY_LABELS
from tests.support.cli import invoke
from tests.support.plain_runs import assert_all_close, plain_session, torch_outputs
from tests.support.refusals import refused


def run_raw(model, image):
    return plain_session(model).run(["loc", "conf"], {"image": image})


def pictures(size, names=("astronaut", "chelsea", "coffee")):
    return np.concatenate([preprocess(read_image(EXAMPLES / f"{n}.jpg"), size) for n in names])


IR_VERSIONS = {10: 5, 11: 6, 12: 7, 13: 7, 17: 8}
"""From the table in ONNX's own versioning document."""


@pytest.mark.parametrize("opset", [10, 11, 12, 13, 17, find_newest_opset()])
def test_raw_outputs_equal_torch_at_every_opset_and_batch(tiny_checkpoint, opset):
    """Of normalised pictures, and of their bytes."""
    options = ExportOptions(opset=opset, policy=None, batch=None)
    model = make_onnx_model(tiny_checkpoint, options)
    assert model.opset_import[0].version == opset
    if opset in IR_VERSIONS:
        assert model.ir_version == IR_VERSIONS[opset]
    images = pictures(64)
    expected = torch_outputs(tiny_checkpoint, images)
    runner = plain_session(model)
    for batch in (images, images[:1]):
        found = runner.run(["loc", "conf"], {"image": batch})
        assert_all_close(found, [array[: len(batch)] for array in expected], atol=1e-4)
    names = ("astronaut", "chelsea", "coffee")
    raw = np.stack([resize(read_image(EXAMPLES / f"{n}.jpg"), 64) for n in names])
    of_bytes = make_onnx_model(tiny_checkpoint, dataclasses.replace(options, image_input="uint8"))
    assert_all_close(run_raw(of_bytes, raw), expected, atol=2e-4)


@pytest.mark.parametrize(
    ("weight_format", "share", "error"), [("float16", 0.52, 1e-3), ("int8", 0.27, 0.02)]
)
def test_smaller_weight_formats(tiny_checkpoint, weight_format, share, error):
    images = pictures(64)
    model = make_onnx_model(tiny_checkpoint, ExportOptions(policy=None, batch=None))
    small = make_onnx_model(
        tiny_checkpoint, ExportOptions(policy=None, batch=None, weight_format=weight_format)
    )
    assert small.ByteSize() < share * model.ByteSize()
    exact, stored = (run_raw(m, images) for m in (model, small))
    for a, b in zip(exact, stored, strict=True):
        assert 0 < np.abs(a - b).mean() < error * np.abs(a).max()


def test_nodes_are_named_after_modules_and_metadata_travels(tiny_checkpoint):
    model = make_onnx_model(tiny_checkpoint, ExportOptions())
    names = {node.name for node in model.graph.node}
    assert {"backbone.layer3.0.conv1", "extras.0.conv2", "heads.loc.0", "tail.nms"} <= names
    assert "" not in names
    assert not [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    metadata = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert metadata["ssd34.labels"] == TINY_LABELS.to_dict()
    assert metadata["ssd34.spec"]["name"] == "tiny"
    assert [i.name for i in model.graph.input] == ["image"]
    assert [o.name for o in model.graph.output] == ["bboxes", "labels", "scores"]
    onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)


def test_the_published_network():
    """The published files' size; and with drawn weights, on a smaller picture, equal to torch."""
    spec = named_spec("ssd1200-resnet34")
    _, weights = convert_benchmark_weights(drawn_benchmark_weights(spec), source="x", spec=spec)
    checkpoint = Checkpoint(spec=spec, labels=COCO_LABELS, weights=weights)
    for opset, size in {10: 80_363_696, 12: 80_366_315}.items():
        model = make_onnx_model(checkpoint, ExportOptions(opset=opset))
        assert abs(model.ByteSize() / size - 1) < 0.01
    smaller = dataclasses.replace(checkpoint, spec=spec.at_size(400))
    assert len(smaller.spec.feature_sizes) == len(spec.feature_sizes)
    model = make_onnx_model(smaller, ExportOptions(policy=None))
    image = pictures(400, ("coffee",))
    assert_all_close(run_raw(model, image), torch_outputs(smaller, image), atol=1e-3)


def test_what_cannot_be_written_is_refused(tiny_checkpoint, tmp_path):
    newer = list_opsets()[-1] + 1
    for make, *facts in (
        (lambda: ExportOptions(opset=9), 9, 10),
        (lambda: ExportOptions(opset=newer), newer, 10),
        (lambda: ExportOptions(policy=MLPERF), "mlperf", "--tail none"),
        (lambda: ExportOptions(weight_format="int4"), "int4"),
        (lambda: ExportOptions(opset=10, batch=2), 10, 11),
        (lambda: ExportOptions(batch=0), 1),
        (lambda: ExportOptions(batch=10**20), 10**20),
        (lambda: ExportOptions(image_input="jpeg"), "jpeg"),
    ):
        with refused(OptionError, *facts):
            make_onnx_model(tiny_checkpoint, make())
    without = {k: v for k, v in tiny_checkpoint.weights.items() if k != "heads.loc.1.weight"}
    broken = Checkpoint(spec=tiny_checkpoint.spec, labels=TINY_LABELS, weights=without)
    with refused(CheckpointError, "heads.loc.1.weight"):
        make_onnx_model(broken, ExportOptions())
    model = make_onnx_model(tiny_checkpoint, ExportOptions())
    model.graph.node[3].input[0] = "nowhere"
    with pytest.raises(onnx.checker.ValidationError, match="nowhere"):
        save_model(model, tmp_path / "broken.onnx")
    assert list(tmp_path.iterdir()) == []


def sorted_detections(boxes, labels, scores):
    """Rows in an order that near-equal scores cannot change."""
    order = np.lexsort((*np.round(boxes, 3).T, labels))
    return boxes[order], labels[order], scores[order]


@pytest.mark.parametrize(("opset", "batch"), [(11, 3), (13, None)])
def test_a_tail_for_several_pictures_treats_each_alone(tiny_checkpoint, opset, batch):
    policy = ZOO.replace(score_threshold=0.4)
    images = pictures(64)
    single = plain_session(
        make_onnx_model(tiny_checkpoint, ExportOptions(opset=opset, policy=policy))
    )
    several = plain_session(
        make_onnx_model(tiny_checkpoint, ExportOptions(opset=opset, policy=policy, batch=batch))
    )
    outputs = several.run(["bboxes", "labels", "scores"], {"image": images})
    assert outputs[0].shape == (3, 200, 4)
    counts = set()
    for number, image in enumerate(images):
        boxes, labels, scores = (part[number] for part in outputs)
        alone = single.run(["bboxes", "labels", "scores"], {"image": image[None]})
        expected = [part[0] for part in alone]
        count = len(expected[2])
        counts.add(count)
        assert (np.diff(scores) <= 0).all()
        assert not scores[count:].any()
        assert not labels[count:].any()
        assert not boxes[count:].any()
        found = sorted_detections(boxes[:count], labels[:count], scores[:count])
        assert_all_close(found, sorted_detections(*expected), atol=1e-5)
    assert len(counts) > 1


def test_the_detector_runs_every_kind_of_file(tiny_checkpoint, tmp_path):
    policy = ZOO.replace(score_threshold=0.4)
    kinds = {
        "published": ExportOptions(policy=policy),
        "bytes": ExportOptions(policy=policy, image_input="uint8"),
        "two": ExportOptions(policy=policy, batch=2),
        "many": ExportOptions(policy=policy, batch=None, image_input="uint8"),
        "raw": ExportOptions(policy=None, batch=None),
        "raw-bytes": ExportOptions(policy=None, image_input="uint8"),
    }
    found = {}
    for name, options in kinds.items():
        save_model(make_onnx_model(tiny_checkpoint, options), tmp_path / f"{name}.onnx")
        own = policy if options.policy is None else None
        detector = Detector.load(tmp_path / f"{name}.onnx", policy=own)
        found[name] = detector.detect(EXAMPLES / "chelsea.jpg", score=0)
    assert len(found["published"]) > 0
    expected = sorted_detections(
        found["published"].boxes, found["published"].labels, found["published"].scores
    )
    for name, detections in found.items():
        ours = sorted_detections(detections.boxes, detections.labels, detections.scores)
        assert len(ours[2]) == len(expected[2]), name
        np.testing.assert_allclose(ours[0], expected[0], atol=0.05)
        np.testing.assert_allclose(ours[2], expected[2], atol=1e-4)


@pytest.mark.parametrize("image_input", ["float32", "uint8"])
@pytest.mark.parametrize("source_input", ["float32", "uint8"])
def test_a_file_exported_again_is_the_same_network(
    tiny_checkpoint, tmp_path, source_input, image_input
):
    """From a file with a tail of its own, to raw outputs."""
    source = tmp_path / "source.onnx"
    save_model(make_onnx_model(tiny_checkpoint, ExportOptions(image_input=source_input)), source)
    options = ExportOptions(opset=13, policy=None, batch=None, image_input=image_input)
    models = [
        make_network_model(read_network(source), options),
        make_onnx_model(tiny_checkpoint, options),
    ]
    # One naming, and where no weight is divided and multiplied again, one file.
    names = [[(n.op_type, n.name, *n.output) for n in model.graph.node] for model in models]
    assert names[0] == names[1]
    if source_input == "float32":
        assert models[0].SerializeToString() == models[1].SerializeToString()
    pixels = resize(read_image(EXAMPLES / "chelsea.jpg"), 64)
    image = pixels[None] if image_input == "uint8" else preprocess(pixels, 64)
    assert_all_close(*(run_raw(model, image) for model in models), atol=1e-4)


@pytest.mark.parametrize("image_input", ["float32", "uint8"])
def test_the_gate_measures_against_the_exported_file(tiny_model, tmp_path, image_input):
    exported = tmp_path / "exported.onnx"
    invoke("export", tiny_model, exported, "--input", image_input)
    files = ExportOptions(policy=ZOO, image_input=image_input)
    nothing: Any = None
    baseline = Bench(read_network(tiny_model), nothing, nothing, files, tmp_path)._float.session
    assert baseline.path.read_bytes() == exported.read_bytes()


def test_the_embedded_model_is_exported_with_another_policy(tmp_path):
    """Lower scores come in; what the file's own policy finds is found with the same scores."""
    found = []
    for policy in ("best", "zoo"):
        output = tmp_path / f"{policy}.onnx"
        invoke("export", "default-float", output, "--policy", policy, "--weights", "int8")
        found.append(Detector.load(output).detect(EXAMPLES / "astronaut.jpg", score=0))
    best, zoo = found
    assert len(best) > len(zoo) and best.scores.min() < 0.05
    assert best.names[0] == zoo.names[0] == "person"
    assert best.scores[0] == pytest.approx(zoo.scores[0], abs=1e-4)
    np.testing.assert_allclose(best.boxes[0], zoo.boxes[0], atol=0.1)


@pytest.mark.parametrize(
    ("source", "output", "error", "facts"),
    [
        ("default", "a.onnx", ModelError, ["default"]),
        ("default-float", "a.txt", OptionError, ["a.txt", ".onnx"]),
        ("default-float", "a", OptionError, [".onnx"]),
        ("gone.onnx", "a.onnx", ModelError, ["gone.onnx"]),
        ("gone.safetensors", "a.onnx", CheckpointError, ["gone.safetensors"]),
        ("gone", "a.onnx", ModelError, ["gone", "default-float"]),
        (str(EXAMPLES / "coffee.jpg"), "a.onnx", ModelError, ["coffee.jpg"]),
    ],
)
def test_what_cannot_be_exported(tmp_path, source, output, error, facts):
    with refused(error, *facts):
        invoke("export", source, tmp_path / output)
    assert list(tmp_path.iterdir()) == []


def test_export_over_its_own_source_is_refused(tiny_model, tmp_path):
    file = tmp_path / "m.onnx"
    file.write_bytes(tiny_model.read_bytes())
    with refused(OptionError, file):
        invoke("export", file, file)
    assert file.read_bytes() == tiny_model.read_bytes()


def test_the_releases_of_opsets():
    assert [find_onnx_release(opset) for opset in (10, 12, 999)] == ["1.5", "1.7", "unknown"]


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
