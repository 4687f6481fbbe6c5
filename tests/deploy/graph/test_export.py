import json
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner

from ssd34.cli.app import commands
from ssd34.core.default_boxes import default_boxes_cxcywh
from ssd34.core.postprocess import MLPERF, ZOO, postprocess
from ssd34.core.preprocess import preprocess, resize
from ssd34.core.spec import named_spec
from ssd34.deploy.graph.builder import save_model
from ssd34.deploy.graph.export import ExportOptions, network_model, onnx_model
from ssd34.deploy.graph.opsets import newest_opset
from ssd34.deploy.graph.read import read_network
from ssd34.deploy.search.bench import Bench
from ssd34.errors import CheckpointError, ModelError, OptionError
from ssd34.files.checkpoint import Checkpoint
from ssd34.images.read import read_image
from ssd34.network.pretrained import weights_from_benchmark
from ssd34.network.ssd import SSD, load_weights
from ssd34.runtime.detector import Detector
from tests.conftest import EXAMPLES, TINY_LABELS
from tests.support.golden import drawn_benchmark_weights


def session(model):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def torch_outputs(checkpoint, images):
    network = SSD(checkpoint.spec).eval()
    load_weights(network, checkpoint.weights, source="x")
    with torch.no_grad():
        loc, conf = network(torch.from_numpy(images))
    return loc.numpy(), conf.numpy()


def pictures(size, names=("astronaut", "chelsea", "coffee")):
    return np.concatenate([preprocess(read_image(EXAMPLES / f"{n}.jpg"), size) for n in names])


IR_VERSIONS = {10: 5, 11: 6, 12: 7, 13: 7, 14: 7, 15: 8, 16: 8, 17: 8, 18: 8, 19: 9, 20: 9, 21: 10}
"""From the table in ONNX's own versioning document."""


@pytest.mark.parametrize("opset", [*range(10, 18), 20, newest_opset()])
def test_raw_outputs_equal_torch_at_every_opset_and_batch(tiny_checkpoint, opset):
    model = onnx_model(tiny_checkpoint, ExportOptions(opset=opset, policy=None, batch=None))
    assert model.opset_import[0].version == opset
    if opset in IR_VERSIONS:
        assert model.ir_version == IR_VERSIONS[opset]
    images = pictures(64)
    expected = torch_outputs(tiny_checkpoint, images)
    runner = session(model)
    for batch in (images, images[:1]):
        for ours, theirs in zip(
            runner.run(["loc", "conf"], {"image": batch}), expected, strict=True
        ):
            np.testing.assert_allclose(ours, theirs[: len(batch)], atol=1e-4, rtol=0)


def sorted_detections(boxes, labels, scores):
    """Rows in an order that near-equal scores cannot change."""
    order = np.lexsort((*np.round(boxes, 3).T, labels))
    return boxes[order], labels[order], scores[order]


@pytest.mark.parametrize("opset", [10, 12, 13, newest_opset()])
def test_the_graphs_tail_equals_the_policy_in_numpy(tiny_checkpoint, opset):
    # Fewer than the limit of 200, so that no near-tie decides who is in.
    policy = ZOO.replace(score_threshold=0.4)
    runner = session(onnx_model(tiny_checkpoint, ExportOptions(opset=opset, policy=policy)))
    defaults = default_boxes_cxcywh(tiny_checkpoint.spec)
    for image in pictures(64)[:, None]:
        loc, conf = torch_outputs(tiny_checkpoint, image)
        expected = postprocess(loc[0], conf[0], default_boxes_cxcywh=defaults, policy=policy)
        assert 0 < len(expected.scores) < 200
        boxes, labels, scores = runner.run(["bboxes", "labels", "scores"], {"image": image})
        assert boxes.shape == (1, len(expected.scores), 4)
        assert (labels.dtype, boxes.dtype, scores.dtype) == (np.int64, np.float32, np.float32)
        assert (np.diff(scores[0]) <= 0).all()
        for ours, theirs in zip(
            sorted_detections(boxes[0], labels[0], scores[0]),
            sorted_detections(*expected),
            strict=True,
        ):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_the_tail_keeps_the_best_two_hundred(tiny_checkpoint):
    runner = session(onnx_model(tiny_checkpoint, ExportOptions()))
    image = pictures(64, ("coffee",))
    loc, conf = torch_outputs(tiny_checkpoint, image)
    defaults = default_boxes_cxcywh(tiny_checkpoint.spec)
    expected = postprocess(loc[0], conf[0], default_boxes_cxcywh=defaults, policy=ZOO)
    scores = runner.run(["scores"], {"image": image})[0][0]
    assert len(expected.scores) == len(scores) == 200
    np.testing.assert_allclose(scores, expected.scores, atol=1e-5)


def test_nothing_found_is_an_empty_answer(tiny_checkpoint):
    policy = ZOO.replace(score_threshold=0.9999)
    for opset in (10, 17):
        runner = session(onnx_model(tiny_checkpoint, ExportOptions(opset=opset, policy=policy)))
        boxes, labels, scores = runner.run(
            ["bboxes", "labels", "scores"], {"image": pictures(64, ("coffee",))}
        )
        assert (boxes.shape, labels.shape, scores.shape) == ((1, 0, 4), (1, 0), (1, 0))


@pytest.mark.parametrize(
    ("weight_format", "share", "error"), [("float16", 0.52, 1e-3), ("int8", 0.27, 0.02)]
)
def test_smaller_weight_formats(tiny_checkpoint, weight_format, share, error):
    images = pictures(64)
    model = onnx_model(tiny_checkpoint, ExportOptions(policy=None, batch=None))
    small = onnx_model(
        tiny_checkpoint, ExportOptions(policy=None, batch=None, weight_format=weight_format)
    )
    assert small.ByteSize() < share * model.ByteSize()
    exact, stored = (session(m).run(["loc", "conf"], {"image": images}) for m in (model, small))
    for a, b in zip(exact, stored, strict=True):
        assert 0 < np.abs(a - b).mean() < error * np.abs(a).max()


def test_nodes_are_named_after_modules_and_metadata_travels(tiny_checkpoint):
    model = onnx_model(tiny_checkpoint, ExportOptions())
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


def test_the_published_network_at_full_size():
    """Drawn weights, 1200 pixels, opset 12: size of the published file, equal to torch."""
    spec = named_spec("ssd1200-resnet34")
    _, weights = weights_from_benchmark(drawn_benchmark_weights(spec), source="x", spec=spec)
    from ssd34.core.labels import COCO_LABELS

    checkpoint = Checkpoint(spec=spec, labels=COCO_LABELS, weights=weights)
    published_bytes = {10: 80_363_696, 12: 80_366_315}
    for opset, size in published_bytes.items():
        model = onnx_model(checkpoint, ExportOptions(opset=opset))
        assert abs(model.ByteSize() / size - 1) < 0.01
        assert {10: 5, 12: 7}[opset] == model.ir_version
    raw = session(onnx_model(checkpoint, ExportOptions(policy=None)))
    image = pictures(1200, ("coffee",))
    for ours, theirs in zip(
        raw.run(["loc", "conf"], {"image": image}), torch_outputs(checkpoint, image), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-3, rtol=0)


def test_what_cannot_be_written_is_refused(tiny_checkpoint):
    with pytest.raises(OptionError, match="unknown opset 9; expected 10 to "):
        onnx_model(tiny_checkpoint, ExportOptions(opset=9))
    with pytest.raises(OptionError, match=r"'mlperf' cannot be expressed.*--tail none"):
        onnx_model(tiny_checkpoint, ExportOptions(policy=MLPERF))
    with pytest.raises(OptionError, match="unknown weight format 'int4'"):
        onnx_model(tiny_checkpoint, ExportOptions(weight_format="int4"))
    without = {k: v for k, v in tiny_checkpoint.weights.items() if k != "heads.loc.1.weight"}
    broken = Checkpoint(spec=tiny_checkpoint.spec, labels=TINY_LABELS, weights=without)
    with pytest.raises(CheckpointError, match=r"lacks the array heads\.loc\.1\.weight"):
        onnx_model(broken, ExportOptions())


@pytest.mark.parametrize("opset", [10, 12, 17])
def test_bytes_input_gives_the_same_raw_outputs(tiny_checkpoint, opset):
    images = pictures(64)
    options = ExportOptions(opset=opset, policy=None, batch=None, image_input="uint8")
    model = onnx_model(tiny_checkpoint, options)
    raw = np.stack(
        [resize(read_image(EXAMPLES / f"{n}.jpg"), 64) for n in ("astronaut", "chelsea", "coffee")]
    )
    for ours, theirs in zip(
        session(model).run(["loc", "conf"], {"image": raw}),
        torch_outputs(tiny_checkpoint, images),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, atol=2e-4, rtol=0)


@pytest.mark.parametrize("opset", [11, 12, 13, 17])
@pytest.mark.parametrize("batch", [3, None])
def test_a_tail_for_several_pictures_treats_each_alone(tiny_checkpoint, opset, batch):
    policy = ZOO.replace(score_threshold=0.4)
    images = pictures(64)
    single = session(onnx_model(tiny_checkpoint, ExportOptions(opset=opset, policy=policy)))
    several = session(
        onnx_model(tiny_checkpoint, ExportOptions(opset=opset, policy=policy, batch=batch))
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
        for ours, theirs in zip(
            sorted_detections(boxes[:count], labels[:count], scores[:count]),
            sorted_detections(*expected),
            strict=True,
        ):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)
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
        save_model(onnx_model(tiny_checkpoint, options), tmp_path / f"{name}.onnx")
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
    save_model(onnx_model(tiny_checkpoint, ExportOptions(image_input=source_input)), source)
    options = ExportOptions(opset=13, policy=None, batch=None, image_input=image_input)
    models = [network_model(read_network(source), options), onnx_model(tiny_checkpoint, options)]
    # One naming, and where no weight is divided and multiplied again, one file.
    names = [[(n.op_type, n.name, *n.output) for n in model.graph.node] for model in models]
    assert names[0] == names[1]
    if source_input == "float32":
        assert models[0].SerializeToString() == models[1].SerializeToString()
    again, direct = map(session, models)
    pixels = resize(read_image(EXAMPLES / "chelsea.jpg"), 64)
    image = pixels[None] if image_input == "uint8" else preprocess(pixels, 64)
    for ours, theirs in zip(*(r.run(["loc", "conf"], {"image": image}) for r in (again, direct)),
                            strict=True):  # fmt: skip
        np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("image_input", ["float32", "uint8"])
def test_the_gate_measures_against_the_exported_file(tiny_model, tmp_path, image_input):
    exported, baseline = tmp_path / "exported.onnx", tmp_path / "baseline.onnx"
    arguments = ["export", str(tiny_model), str(exported), "--input", image_input]
    CliRunner().invoke(commands, arguments, catch_exceptions=False)
    files = ExportOptions(policy=ZOO, image_input=image_input)
    nothing: Any = None
    with Bench(read_network(tiny_model), nothing, nothing, files=files) as bench:
        bench.write_float(baseline)
    assert baseline.read_bytes() == exported.read_bytes()


def test_a_broken_graph_is_not_saved(tiny_checkpoint, tmp_path):
    model = onnx_model(tiny_checkpoint, ExportOptions())
    model.graph.node[3].input[0] = "nowhere"
    with pytest.raises(onnx.checker.ValidationError, match="nowhere"):
        save_model(model, tmp_path / "broken.onnx")
    assert list(tmp_path.iterdir()) == []


def test_the_embedded_model_is_exported_with_another_policy(tmp_path):
    """Lower scores come in; what the file's own policy finds is found with the same scores."""
    output = tmp_path / "best.onnx"
    arguments = ["export", "default-float", str(output), "--policy", "best", "--weights", "int8"]
    result = CliRunner().invoke(commands, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    picture = EXAMPLES / "astronaut.jpg"
    best = Detector.load(output).detect(picture, score=0)
    zoo = Detector.load("default-float").detect(picture, score=0)
    assert len(best) > len(zoo) and best.scores.min() < 0.05
    assert best.names[0] == zoo.names[0] == "person"
    assert best.scores[0] == pytest.approx(zoo.scores[0], abs=1e-4)
    np.testing.assert_allclose(best.boxes[0], zoo.boxes[0], atol=0.1)


@pytest.mark.parametrize(
    ("source", "output", "error", "message"),
    [
        ("default", "a.onnx", ModelError, "is quantized already .* give the float file"),
        ("default-float", "a.txt", OptionError, r"a\.txt: expected a name that ends in \.onnx"),
        ("default-float", "a", OptionError, r"a: expected a name that ends in \.onnx"),
        ("gone.onnx", "a.onnx", ModelError, "no such model"),
        ("gone.safetensors", "a.onnx", CheckpointError, "no such checkpoint"),
        ("gone", "a.onnx", ModelError, "no such model; expected .* default-float"),
        (str(EXAMPLES / "coffee.jpg"), "a.onnx", ModelError, "coffee.jpg"),
    ],
)
def test_what_cannot_be_exported(tmp_path, source, output, error, message):
    with pytest.raises(error, match=message):
        CliRunner().invoke(
            commands, ["export", source, str(tmp_path / output)], catch_exceptions=False
        )
    assert list(tmp_path.iterdir()) == []


def test_export_over_its_own_source_is_refused(tiny_model, tmp_path):
    file = tmp_path / "m.onnx"
    file.write_bytes(tiny_model.read_bytes())
    with pytest.raises(OptionError, match="not read here"):
        CliRunner().invoke(commands, ["export", str(file), str(file)], catch_exceptions=False)
    assert file.read_bytes() == tiny_model.read_bytes()


def test_batches_that_cannot_be(tiny_checkpoint):
    with pytest.raises(OptionError, match=r"needs opset 11 or newer, got 10"):
        onnx_model(tiny_checkpoint, ExportOptions(opset=10, batch=2))
    with pytest.raises(OptionError, match=r"batch of 1 or more"):
        ExportOptions(batch=0)
    with pytest.raises(OptionError, match=r"unknown input 'jpeg'"):
        ExportOptions(image_input="jpeg")
