"""Good files pass, and every kind of damage is found and named.

Test data is recorded with ONNX Runtime and written with onnx's own helpers, not with ours.
"""

import copy
import gzip
import hashlib
import json
import shutil
import tarfile

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from ssd34.cli.deploy.verify import verify_published
from ssd34.core.labels import COCO_LABELS
from ssd34.deploy.publish.verify import verify, verify_folder
from ssd34.errors import ModelError
from ssd34.files.download import PublishedFile
from ssd34.zoo.catalogue import PUBLISHED, PublishedModel
from ssd34.zoo.names import EMBEDDED, model_path
from tests.conftest import TINY_LABELS, tiny_spec

SET = "test_data_set_0"
STEPS = ("names", "shapes", "types", "values")
FOUND = {
    "bboxes": np.array([[[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1], [0, 0.5, 0.5, 1]]], np.float32),
    "labels": np.array([[1, 2, 1]]),
    "scores": np.array([[0.9, 0.8, 0.6]], np.float32),
}
METADATA = {
    "ssd34.spec": json.dumps(tiny_spec().to_dict()),
    "ssd34.labels": json.dumps(TINY_LABELS.to_dict()),
}


# --- files ----------------------------------------------------------------------------------


def save_tensor(path, name, values):
    path.write_bytes(numpy_helper.from_array(np.asarray(values), name).SerializeToString())


def save_data(folder, image, outputs, *, name=SET):
    """A folder of test data beside a model."""
    target = folder / name
    target.mkdir()
    save_tensor(target / "input_0.pb", "image", image)
    for number, (output, values) in enumerate(outputs.items()):
        save_tensor(target / f"output_{number}.pb", output, values)
    return target


def small_model(outputs=FOUND, *, shape=(1, 3, 64, 64), metadata=METADATA, free=True, nodes=()):
    """A detector that always finds the same, whatever the picture."""
    constants = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(values))
        for name, values in outputs.items()
    ]
    values = [
        helper.make_tensor_value_info(
            name,
            helper.np_dtype_to_tensor_dtype(array.dtype),
            ["n" if free and axis == 1 else size for axis, size in enumerate(array.shape)],
        )
        for name, array in outputs.items()
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)
    graph = helper.make_graph([*constants, *nodes], "small", [image], values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=7)
    helper.set_model_props(model, metadata)
    return model


PORTS = {
    "inputs": [{"name": "image", "shape": [1, 3, 64, 64], "type": "tensor(float)"}],
    "outputs": [
        {"name": "bboxes", "shape": [1, "n", 4], "type": "tensor(float)"},
        {"name": "labels", "shape": [1, "n"], "type": "tensor(int64)"},
        {"name": "scores", "shape": [1, "n"], "type": "tensor(float)"},
    ],
}
"""Of `small_model`, as a model zoo's manifest has them."""


def stated(path):
    return hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size


def manifest_of(model, archive=None):
    sha, size = stated(model)
    metadata = {
        "model_sha": sha,
        "model_bytes": size,
        "tags": ["vision"],
        "io_ports": copy.deepcopy(PORTS),
    }
    if archive:
        sha, size = stated(archive)
        metadata |= {
            "model_with_data_path": f"vision/ssd/model/{archive.name}",
            "model_with_data_sha": sha,
            "model_with_data_bytes": size,
        }
    other = {"model": "other", "model_path": "vision/other.onnx", "metadata": {}}
    entry = {"model": "SSD", "model_path": f"vision/ssd/model/{model.name}", "metadata": metadata}
    return [other, entry]


def packed(folder, archive):
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        tar.add(folder, folder.name)
    return archive


@pytest.fixture
def small(tmp_path):
    """A folder with a small model and test data that fits."""
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "small.onnx").write_bytes(small_model().SerializeToString())
    save_data(folder, np.zeros((1, 3, 64, 64), np.float32), FOUND)
    return folder


def recorded_beside(model, folder):
    """A copy of a model with what ONNX Runtime computes."""
    shutil.copy(model, folder)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    image = np.random.default_rng(5).normal(0, 1, (1, 3, 64, 64)).astype(np.float32)
    names = [output.name for output in session.get_outputs()]
    save_data(folder, image, dict(zip(names, session.run(names, {"image": image}), strict=True)))
    return folder


@pytest.fixture(scope="module")
def tiny(tiny_model, tmp_path_factory):
    return recorded_beside(tiny_model, tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def tiny_raw(tiny_raw_model, tmp_path_factory):
    return recorded_beside(tiny_raw_model, tmp_path_factory.mktemp("tiny-raw"))


def by_name(verification):
    """Result and detail of each check."""
    assert verification.passed is (False not in [c.passed for c in verification.checks])
    names = [check.name for check in verification.checks]
    assert len(set(names)) == len(names)
    return {check.name: (check.passed, check.detail) for check in verification.checks}


def only_failure(target, **options):
    """Name and detail of the check that failed, and those that were not run for it."""
    checks = by_name(verify(target, **options))
    ((name, detail),) = [(n, d) for n, (passed, d) in checks.items() if passed is False]
    skipped = [n for n, (_, d) in checks.items() if d.endswith((" failed", "broken files"))]
    return name, detail, skipped


def damaged(folder, number, change, *, kind="output", dtype=None):
    """Change the values of a tensor file."""
    path = folder / SET / f"{kind}_{number}.pb"
    tensor = onnx.load_tensor(path)
    values = numpy_helper.to_array(tensor).copy()
    save_tensor(path, tensor.name, np.asarray(change(values), dtype or values.dtype))


# --- good files -----------------------------------------------------------------------------


def test_a_folder_a_file_and_a_tarball(tiny, tmp_path):
    archive = packed(tiny, tmp_path / "tiny.tgz")
    for target in (tiny, tiny / "tiny.onnx", archive):
        verification = verify(target)
        checks = by_name(verification)
        assert verification.passed and verification.file == target
        assert [checks[f"{SET} {step}"][0] for step in STEPS] == [True] * 4
        assert checks["checksum"][0] is None  # there is no manifest
        assert "200 of 200 detections matched" in checks[f"{SET} values"][1]
        assert checks[f"{SET} values"][1].startswith("float: ")
        assert "lowest IoU 1.0000" in checks[f"{SET} values"][1]


def test_raw_outputs(tiny_raw):
    checks = by_name(verify(tiny_raw, threads=2))
    passed, detail = checks[f"{SET} values"]
    assert passed and detail.startswith("float: loc: largest difference")
    assert "conf: largest difference" in detail


def test_to_dict_is_json(small):
    values = json.loads(json.dumps(verify(small).to_dict()))
    assert values["passed"] is True and values["file"] == str(small)
    assert values["checks"][1] == {
        "name": "structure",
        "passed": True,
        "detail": "passes ONNX's full check",
    }


def test_with_a_manifest_everything_is_run(small, tmp_path):
    archive = packed(small, tmp_path / "small-12.tar.gz")
    manifest = tmp_path / "ONNX_HUB_MANIFEST.json"
    manifest.write_text(json.dumps(manifest_of(small / "small.onnx", archive)))
    checks = by_name(verify(archive))
    assert all(passed for passed, _ in checks.values())
    assert list(checks)[:5] == ["archive", "checksum", "structure", "ports", "manifest ports"]
    assert by_name(verify(small, manifest=manifest))["checksum"] == (True, checks["checksum"][1])
    shutil.copy(manifest, small)
    assert by_name(verify(small / "small.onnx"))["manifest ports"][0] is True


def test_several_data_sets(small):
    shutil.copytree(small / SET, small / "test_data_set_1")
    damaged(small, 2, lambda scores: scores - 0.1)
    checks = by_name(verify(small))
    assert checks[f"{SET} values"][0] is False
    assert checks["test_data_set_1 values"][0] is True


def test_the_order_of_detections_does_not_matter(small):
    for number in range(3):
        damaged(small, number, lambda values: values[:, ::-1])
    assert verify(small).passed


def test_files_without_names_inside(small):
    for path in (small / SET).iterdir():
        tensor = onnx.load_tensor(path)
        tensor.name = ""
        path.write_bytes(tensor.SerializeToString())
    assert verify(small).passed


def test_several_pictures_filled_up(small):
    """Files for a batch fill up with score and label 0."""
    batch = {name: np.concatenate([v, v[:, ::-1]]) for name, v in FOUND.items()}
    batch["scores"][0, 2] = batch["labels"][0, 2] = 0
    batch["bboxes"][0, 2] = 0
    model = small_model(batch, shape=(2, 3, 64, 64), free=False)
    (small / "small.onnx").write_bytes(model.SerializeToString())
    shutil.rmtree(small / SET)
    save_data(small, np.zeros((2, 3, 64, 64), np.float32), batch)
    checks = by_name(verify(small))
    detail = checks[f"{SET} values"][1]
    assert checks[f"{SET} values"][0] is True
    assert "picture 0: 2 of 2" in detail and "picture 1: 3 of 3" in detail
    damaged(small, 2, lambda scores: scores - [[0], [0.01]])
    name, detail, _ = only_failure(small)
    assert name == f"{SET} values" and detail.count("picture 1: ") == 3
    assert "picture 0" not in detail


# --- values ---------------------------------------------------------------------------------


def first(change):
    """Change the first detection."""

    def changed(values):
        values[0, 0] = change(values[0, 0])
        return values

    return changed


def values_failure(folder):
    name, detail, skipped = only_failure(folder)
    assert name == f"{SET} values" and skipped == []
    return detail.splitlines()


def test_a_score_off_by_a_hundredth(small):
    damaged(small, 2, first(lambda score: score - 0.01))
    (line,) = values_failure(small)
    assert line.startswith("label 1 score 0.8900 box [0.000 0.000 0.500 0.500]: score 0.9000")
    assert "differs by 0.01 > 0.001" in line


def test_a_score_off_by_less_than_the_tolerance(small):
    damaged(small, 2, first(lambda score: score - 0.0009))
    assert verify(small).passed


def test_a_moved_box(small):
    """0.5 wide, moved by 0.01: IoU 0.49 / 0.51 = 0.9608."""
    damaged(small, 0, first(lambda box: box + np.array([0.01, 0, 0.01, 0])))
    missing, extra = values_failure(small)
    assert missing.endswith("not found; best IoU with its label 0.9608")
    assert extra.endswith("found, but not recorded")


def test_a_changed_label(small):
    damaged(small, 1, first(lambda label: label + 2))
    missing, extra = values_failure(small)
    assert missing.startswith("label 3") and missing.endswith("with label 1 1.0000")
    assert extra.startswith("label 1 score 0.9000")


def test_a_label_that_the_file_does_not_have(small):
    damaged(small, 1, first(lambda _: 4))
    assert values_failure(small)[-1] == "recorded: label 4: expected 1 to 3"


def test_a_missing_and_an_extra_detection(small):
    for number in range(3):
        damaged(small, number, lambda values: values[:, 1:])
    (line,) = values_failure(small)
    assert line.startswith("label 1 score 0.9000") and line.endswith("found, but not recorded")
    for number in range(3):
        again = FOUND[("bboxes", "labels", "scores")[number]]
        damaged(small, number, lambda _, again=again: np.concatenate([again, again[:, :1]], 1))
    damaged(small, 0, lambda boxes: boxes + np.array([0, 0, 0, 0.5])[:, None])
    (line,) = values_failure(small)
    assert "not found" in line


def test_a_network_that_computes_something_else(tiny, tmp_path):
    """The weights of one convolution changed, far from the outputs."""
    folder = shutil.copytree(tiny, tmp_path / "tiny")
    model = onnx.load(folder / "tiny.onnx")
    weight = next(t for t in model.graph.initializer if t.name == "backbone.layer2.0.conv1.weight")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 1.2, weight.name))
    onnx.save(model, folder / "tiny.onnx")
    assert only_failure(folder)[0] == f"{SET} values"


def test_raw_values(tiny_raw, tmp_path):
    folder = shutil.copytree(tiny_raw, tmp_path / "raw")
    damaged(folder, 1, lambda conf: conf + 0.002 * (np.arange(conf.size) == 7).reshape(conf.shape))
    (line,) = values_failure(folder)
    assert line.startswith("conf: largest difference 0.002 ") and "at [0, 0, 7]; 1 of " in line


def quantized(model):
    """The same with the picture rounded to 8 bits."""
    scale = numpy_helper.from_array(np.array(0.04, np.float32), "scale")
    zero = numpy_helper.from_array(np.array(128, np.uint8), "zero")
    pair = [
        helper.make_node("QuantizeLinear", ["image", "scale", "zero"], ["bytes"], name="q"),
        helper.make_node("DequantizeLinear", ["bytes", "scale", "zero"], ["picture"], name="dq"),
    ]
    for node in model.graph.node:
        for k, name in enumerate(node.input):
            if name == "image":
                node.input[k] = "picture"
    nodes = [*pair, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend([scale, zero])
    return model


def test_quantized_networks_have_the_wider_tolerance(tiny_model, tmp_path):
    path = tmp_path / "tiny-int8.onnx"
    onnx.save(quantized(onnx.load(tiny_model)), path)
    folder = tmp_path / "int8"
    folder.mkdir()
    recorded_beside(path, folder)
    assert by_name(verify(folder))[f"{SET} values"][1].startswith("int8: 200 of 200")
    damaged(folder, 2, first(lambda score: score - 0.04))
    assert verify(folder).passed
    damaged(folder, 2, first(lambda score: score - 0.02))
    (line,) = values_failure(folder)
    assert "differs by 0.06 > 0.05" in line


def test_the_same_difference_is_too_much_for_float(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "tiny")
    damaged(folder, 2, first(lambda score: score - 0.04))
    assert "differs by 0.04 > 0.001" in values_failure(folder)[0]


# --- names, shapes, types -------------------------------------------------------------------


def test_a_renamed_output_in_the_test_data(small):
    path = small / SET / "output_0.pb"
    save_tensor(path, "boxes", FOUND["bboxes"])
    name, detail, skipped = only_failure(small)
    assert name == f"{SET} names"
    assert detail == "output_0.pb: is named boxes, the graph's output 0 is bboxes"
    assert skipped == [f"{SET} shapes", f"{SET} types", f"{SET} values"]


def test_a_renamed_output_in_the_graph(small):
    model = onnx.load(small / "small.onnx")
    model.graph.output[0].name = model.graph.node[0].output[0] = "boxes"
    onnx.save(model, small / "small.onnx")
    name, detail, skipped = only_failure(small)
    assert name == "ports" and skipped == [SET]
    assert detail == "outputs boxes, labels, scores: expected bboxes, labels, scores or loc, conf"


def test_files_in_another_order(small):
    save_tensor(small / SET / "output_0.pb", "scores", FOUND["scores"])
    save_tensor(small / SET / "output_2.pb", "bboxes", FOUND["bboxes"])
    name, detail, _ = only_failure(small)
    assert name == f"{SET} names" and len(detail.splitlines()) == 2


def test_too_few_and_too_many_files(small):
    save_tensor(small / SET / "output_3.pb", "more", FOUND["scores"])
    assert only_failure(small)[:2] == (
        f"{SET} names",
        "output_3.pb: the graph has only 3 outputs",
    )
    (small / SET / "output_3.pb").unlink()
    (small / SET / "output_2.pb").unlink()
    (small / SET / "input_0.pb").unlink()
    assert only_failure(small)[1].splitlines() == [
        "input_0.pb: missing, for the graph's input image",
        "output_2.pb: missing, for the graph's output scores",
    ]


@pytest.mark.parametrize(
    ("number", "kind", "change", "expected"),
    [
        (0, "output", lambda v: v[..., :3], "output_0.pb: has shape [1, 3, 3], the graph's bboxes"),
        (0, "output", lambda v: v[0], "output_0.pb: has shape [3, 4], the graph's bboxes"),
        (2, "output", lambda v: v[:, :2], "output_2.pb: n is 2, but 3 in output_0.pb"),
        (0, "input", lambda v: v[..., :32], "input_0.pb: has shape [1, 3, 64, 32], the graph's"),
    ],
)
def test_a_wrong_shape(small, number, kind, change, expected):
    damaged(small, number, change, kind=kind)
    name, detail, skipped = only_failure(small)
    assert name == f"{SET} shapes" and detail.startswith(expected)
    assert len(detail.splitlines()) == 1
    assert skipped == [f"{SET} types", f"{SET} values"]


@pytest.mark.parametrize(
    ("number", "kind", "dtype", "expected"),
    [
        (1, "output", np.int32, "output_1.pb: holds tensor(int32), the graph's labels is tensor"),
        (0, "input", np.float64, "input_0.pb: holds tensor(double), the graph's image is tensor"),
    ],
)
def test_a_wrong_type(small, number, kind, dtype, expected):
    damaged(small, number, lambda values: values, kind=kind, dtype=dtype)
    name, detail, skipped = only_failure(small)
    assert name == f"{SET} types" and detail.startswith(expected)
    assert skipped == [f"{SET} values"]


def test_a_truncated_tensor_file(small):
    path = small / SET / "output_2.pb"
    path.write_bytes(path.read_bytes()[:-2])
    name, detail, skipped = only_failure(small)
    assert name == f"{SET} files" and detail.startswith("output_2.pb: broken")
    assert skipped == [f"{SET} {step}" for step in STEPS]


# --- the ONNX file --------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 10, 0.5, -1])
def test_a_truncated_model(small, keep):
    path = small / "small.onnx"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep) if keep == 0.5 else keep])
    name, _, skipped = only_failure(small)
    assert name == "structure"
    assert skipped == ["ports", "manifest ports", "runtime", "test data"]


def test_a_graph_that_contradicts_itself(small):
    """Only the full check with shape inference finds it."""
    model = onnx.load(small / "small.onnx")
    model.graph.output[2].type.tensor_type.shape.dim[0].dim_value = 5
    onnx.save(model, small / "small.onnx")
    name, detail, _ = only_failure(small)
    assert name == "structure" and "5" in detail


def test_weights_in_other_files(small):
    model = onnx.load(small / "small.onnx")
    weight = TensorProto(name="w", dims=[2], data_type=TensorProto.FLOAT)
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../secret")
    model.graph.initializer.append(weight)
    (small / "small.onnx").write_bytes(model.SerializeToString())
    name, detail, _ = only_failure(small)
    assert name == "structure" and "weights in other files" in detail


def test_a_file_that_the_runtime_cannot_load(small):
    """Operators of others are no fault for ONNX's check."""
    node = helper.make_node("Magic", ["image"], ["m"], domain="example.magic")
    model = small_model(nodes=[node])
    model.opset_import.append(helper.make_opsetid("example.magic", 1))
    (small / "small.onnx").write_bytes(model.SerializeToString())
    name, detail, skipped = only_failure(small)
    assert name == "runtime" and "Magic" in detail and skipped == ["test data"]


def raw_outputs(spec):
    return {
        "loc": np.zeros((1, 4, spec.num_default_boxes), np.float32),
        "conf": np.zeros((1, spec.num_channels, spec.num_default_boxes), np.float32),
    }


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"shape": (1, 3, 96, 96)}, "input image tensor(float) [1, 3, 96, 96]: expected one of"),
        ({"shape": (1, 64, 64, 3)}, "input image tensor(float) [1, 64, 64, 3]: expected one of"),
        ({"metadata": {}}, "[N, 3, 1200, 1200]"),
        ({"metadata": METADATA | {"ssd34.spec": "{}"}}, "broken ssd34 metadata"),
        ({"metadata": {"ssd34.spec": METADATA["ssd34.spec"]}}, "broken ssd34 metadata"),
        (
            {"metadata": METADATA | {"ssd34.labels": json.dumps(COCO_LABELS.to_dict())}},
            "has 3 classes and 382 default boxes, and the metadata names 80",
        ),
        (
            {"outputs": FOUND | {"labels": FOUND["labels"].astype(np.int32)}},
            "output labels tensor(int32) [1, n]: expected tensor(int64) [?, ?]",
        ),
        (
            {"outputs": raw_outputs(tiny_spec().replace(num_classes=7)), "free": False},
            "output conf tensor(float) [1, 8, 382]: expected tensor(float) [?, 4, 382]",
        ),
        (
            {"outputs": raw_outputs(tiny_spec().at_size(128)), "free": False},
            "output loc tensor(float) [1, 4, 1528]: expected tensor(float) [?, 4, 382]",
        ),
    ],
)
def test_ports_that_do_not_fit_the_metadata(small, options, expected):
    (small / "small.onnx").write_bytes(small_model(**options).SerializeToString())
    name, detail, skipped = only_failure(small)
    assert name == "ports" and expected in detail
    assert skipped == [SET]


def test_pictures_of_bytes(small):
    model = small_model(shape=(1, 64, 64, 3))
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    (small / "small.onnx").write_bytes(model.SerializeToString())
    damaged(small, 0, lambda v: v.transpose(0, 2, 3, 1), kind="input", dtype=np.uint8)
    assert verify(small).passed


# --- test data that is not there ------------------------------------------------------------


def test_no_test_data(small):
    shutil.rmtree(small / SET)
    verification = verify(small)
    passed, detail = by_name(verification)["test data"]
    assert passed is None and verification.passed
    assert detail == "no test_data_set_* folder beside small.onnx: nothing was computed"
    assert only_failure(small, require_test_data=True)[:2] == ("test data", detail)


# --- manifests ------------------------------------------------------------------------------


def with_manifest(folder, change):
    """The manifest of a folder's model, with something changed."""
    entries = manifest_of(folder / "small.onnx")
    change(entries[1]["metadata"])
    (folder / "ONNX_HUB_MANIFEST.json").write_text(json.dumps(entries))


def port_change(kind, number, **changes):
    return lambda metadata: metadata["io_ports"][kind][number].update(changes)


@pytest.mark.parametrize(
    ("change", "name", "expected"),
    [
        (lambda m: m.update(model_sha="0" * 64), "checksum", "the manifest says " + "0" * 64),
        (lambda m: m.update(model_bytes=17), "checksum", "bytes, the manifest says 17"),
        (
            port_change("inputs", 0, shape=[1, 3, 300, 300]),
            "manifest ports",
            "input image tensor(float) [1, 3, 64, 64]: the manifest says tensor(float) "
            "[1, 3, 300, 300]",
        ),
        (
            port_change("outputs", 1, type="tensor(int32)"),
            "manifest ports",
            "output labels tensor(int64) [1, n]: the manifest says tensor(int32) [1, n]",
        ),
        (port_change("outputs", 0, shape=[1, 200, 4]), "manifest ports", "[1, 200, 4]"),
        (
            port_change("outputs", 0, name="boxes"),
            "manifest ports",
            "outputs bboxes, labels, scores: the manifest says boxes, labels, scores",
        ),
        (lambda m: m["io_ports"]["outputs"].pop(), "manifest ports", "says bboxes, labels"),
    ],
)
def test_a_manifest_that_says_otherwise(small, change, name, expected):
    with_manifest(small, change)
    failed, detail, skipped = only_failure(small)
    assert failed == name and expected in detail
    assert skipped == []  # the rest is run all the same


def test_names_of_free_dimensions_do_not_count(small):
    for shape in ([1, "nbox"], [1, None]):
        with_manifest(small, port_change("outputs", 1, shape=shape))
        assert verify(small).passed


def test_upper_case_checksums_are_good(small):
    with_manifest(small, lambda m: m.update(model_sha=m["model_sha"].upper()))
    assert by_name(verify(small))["checksum"][0] is True


def test_wrong_checksum_of_a_tarball(small, tmp_path):
    archive = packed(small, tmp_path / "small.tar.gz")
    entries = manifest_of(small / "small.onnx", archive)
    entries[1]["metadata"]["model_with_data_sha"] = "1" * 64
    manifest = tmp_path / "ONNX_HUB_MANIFEST.json"
    manifest.write_text(json.dumps(entries))
    name, detail, skipped = only_failure(archive)
    assert name == "archive" and "the manifest says " + "1" * 64 in detail and skipped == []


def test_a_tarball_that_was_cut_off(small, tmp_path):
    """A failure, with or without a manifest that knows its checksum."""
    archive = packed(small, tmp_path / "small.tar.gz")
    manifest = tmp_path / "m.json"
    manifest.write_text(json.dumps(manifest_of(small / "small.onnx", archive)))
    archive.write_bytes(archive.read_bytes()[:-100])
    checks = by_name(verify(archive, manifest=manifest))
    assert [name for name, (passed, _) in checks.items() if not passed] == ["archive", "contents"]
    name, detail, _ = only_failure(archive)
    assert name == "contents" and "not a whole gzipped tar archive" in detail
    assert detail.endswith("make it again")


def test_a_manifest_without_this_file(small):
    """Beside the file it says nothing; asked for, it has to know it."""
    manifest = small / "ONNX_HUB_MANIFEST.json"
    manifest.write_text("[]")
    assert by_name(verify(small))["checksum"] == (None, f"{manifest} has no entry for small.onnx")
    assert only_failure(small, manifest=manifest)[0] == "checksum"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "not JSON"),
        ("[" * 100000, "not JSON"),
        ("{}", "expected a list of entries"),
        ("[1]", "expected a list of entries"),
        ('[{"model_path": "a/small.onnx"}]', "broken entry for small.onnx: lacks 'metadata'"),
        ('[{"model_path": "a/small.onnx", "metadata": 3}]', "broken entry for small.onnx"),
        (
            '[{"model_path": "small.onnx", "metadata": {}}, {"model_path": "b/small.onnx"}]',
            "has 2 entries for small.onnx",
        ),
    ],
)
def test_broken_manifest(small, content, expected):
    (small / "ONNX_HUB_MANIFEST.json").write_text(content)
    with pytest.raises(ModelError) as caught:
        verify(small)
    assert expected in str(caught.value) and len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(model_sha="abc"),
        lambda m: m.update(model_sha=5),
        lambda m: m.update(model_bytes="5"),
        lambda m: m.pop("model_bytes"),
        lambda m: m.pop("io_ports"),
        lambda m: m.update(io_ports=[]),
        port_change("inputs", 0, shape=5),
        port_change("inputs", 0, shape=[1.5]),
        port_change("inputs", 0, name=None),
        lambda m: m.update(model_with_data_path="x"),
    ],
)
def test_broken_manifest_entry(small, change):
    with_manifest(small, change)
    with pytest.raises(ModelError, match=r"broken entry for small\.onnx"):
        verify(small)


def test_a_manifest_that_does_not_know_the_archive(small, tmp_path):
    archive = packed(small, tmp_path / "small.onnx.tar.gz")
    entries = manifest_of(small / "small.onnx")
    entries[1]["model_path"] = archive.name
    (tmp_path / "ONNX_HUB_MANIFEST.json").write_text(json.dumps(entries))
    name, detail, _ = only_failure(archive)
    assert name == "archive" and detail == "the manifest states nothing of the archive"


# --- nothing that could be verified ---------------------------------------------------------


def test_several_models_in_a_folder(small):
    shutil.copy(small / "small.onnx", small / "other.onnx")
    with pytest.raises(ModelError, match=r"expected one \.onnx file.*other\.onnx, small\.onnx"):
        verify(small)
    assert verify(small / "other.onnx").passed  # one of them can be named


def test_no_model(tmp_path):
    with pytest.raises(ModelError, match=r"expected one \.onnx file in it, found none"):
        verify(tmp_path)
    archive = packed(tmp_path, tmp_path / "a.tar.gz")
    with pytest.raises(ModelError, match=r"a\.tar\.gz: expected one \.onnx file in it, found none"):
        verify(archive)
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    with pytest.raises(ModelError, match=r"notes\.txt: expected an \.onnx file, a folder"):
        verify(text)


def test_hidden_files_are_no_models(small):
    """As another system's archiver leaves them."""
    (small / "._small.onnx").write_bytes(b"?")
    assert verify(small).passed


def test_an_archive_that_should_not_be_unpacked(small, tmp_path):
    archive = tmp_path / "a.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(small / "small.onnx", "../small.onnx")
    with pytest.raises(ModelError, match="leads out of the folder"):
        verify(archive)
    archive.write_bytes(gzip.compress(b"no tar"))
    assert "not a whole gzipped tar archive" in only_failure(archive)[1]


# --- several files --------------------------------------------------------------------------


def published_folder(small, tmp_path):
    """Two files with their archives and a manifest, as `package` leaves them."""
    folder = tmp_path / "published"
    folder.mkdir()
    entries = []
    for name in ("a", "b"):
        model = folder / f"{name}.onnx"
        shutil.copy(small / "small.onnx", model)
        archive = packed(small, folder / f"{name}.tar.gz")
        [_, entry] = manifest_of(model, archive)
        entry["model_path"] = model.name
        entry["metadata"]["model_with_data_path"] = archive.name
        entries.append(entry)
    (folder / "ONNX_HUB_MANIFEST.json").write_text(json.dumps(entries))
    return folder


def failures(found):
    return [(v.file.name, c.name) for v in found for c in v.checks if c.passed is False]


def test_a_folder_with_a_manifest_is_verified_whole(small, tmp_path):
    folder = published_folder(small, tmp_path)
    found = verify_folder(folder, require_test_data=True)
    assert [v.file.name for v in found] == ["a.onnx", "b.onnx"] and failures(found) == []
    for verification in found:
        names = [check.name for check in verification.checks if check.passed]
        assert {"file", "archive", "checksum", "manifest ports", f"{SET} values"} <= set(names)


def test_what_is_wrong_in_a_folder_with_a_manifest(small, tmp_path):
    folder = published_folder(small, tmp_path)
    other = onnx.load(folder / "a.onnx")
    other.doc_string = "changed"
    onnx.save(other, folder / "a.onnx")
    (folder / "b.tar.gz").unlink()
    shutil.copy(small / "small.onnx", folder / "stray.onnx")
    found = verify_folder(folder)
    assert failures(found) == [("a.onnx", "file"), ("b.onnx", "b.tar.gz")]
    assert found[2].file.name == "stray.onnx"
    (folder / "b.onnx").unlink()
    assert failures(verify_folder(folder))[1:] == [("b.onnx", "b.onnx"), ("b.onnx", "b.tar.gz")]


def test_entries_of_a_zoos_manifest_that_lie_elsewhere_are_passed_over(small):
    (small / "ONNX_HUB_MANIFEST.json").write_text(json.dumps(manifest_of(small / "small.onnx")))
    [found] = verify_folder(small)
    assert found.passed and by_name(found)["checksum"][0] is True


def test_a_folder_is_searched_one_level_down(small, tmp_path):
    [found] = verify_folder(tmp_path, require_test_data=True)
    assert found.passed and found.file == small
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ModelError, match="one level down, found none"):
        verify_folder(empty)


@pytest.fixture
def cached(small, tmp_path, monkeypatch):
    """A published model that was pulled, with and then without its archive."""
    monkeypatch.setenv("SSD34_HOME", str(tmp_path / "home"))
    folder = tmp_path / "home" / "models"
    folder.mkdir(parents=True)
    shutil.copy(small / "small.onnx", folder / "s.onnx")
    archive = packed(small, folder / "s.tar.gz")
    files = [
        PublishedFile(path.name, path.stat().st_size, stated(path)[0], ())
        for path in (folder / "s.onnx", archive)
    ]
    model = PublishedModel(name="s", model=files[0], test_data=files[1], opset=12,
                           precision="float32", published_map=0.1)  # fmt: skip
    monkeypatch.setitem(PUBLISHED, "s", model)
    return folder


def test_a_published_model_is_the_published_file_and_its_archive_is_replayed(cached):
    checks = by_name(verify_published("s", require_test_data=True))
    assert all(checks[n][0] for n in ("file", "archive", "structure", f"{SET} values"))
    assert not any(passed is False for passed, _ in checks.values())
    (cached / "s.tar.gz").unlink()
    checks = by_name(verify_published("s"))
    assert checks["checksum"][0] is True and checks["test data"][0] is None


def test_another_file_of_the_size_of_a_published_one(cached):
    """As somebody put it there by hand: nothing but the checksum tells."""
    content = bytearray((cached / "s.onnx").read_bytes())
    at = content.index(b"small")
    content[at : at + 5] = b"smell"
    (cached / "s.onnx").write_bytes(content)
    assert failures([verify_published("s")]) == [("s.onnx", "file")]
    (cached / "s.tar.gz").unlink()
    detail = by_name(verify_published("s"))["checksum"][1]
    assert "the catalogue says" in detail and detail.endswith("ssd34 models pull s")


def test_a_published_model_that_is_not_there(cached):
    (cached / "s.onnx").unlink()
    with pytest.raises(ModelError, match="s: not on this machine"):
        verify_published("s")


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_models_are_what_their_manifest_says(name):
    checks = by_name(verify(model_path(name)))
    assert checks["checksum"][0] is True and checks["manifest ports"][0] is True
