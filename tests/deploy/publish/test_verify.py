"""Good files pass, and every kind of damage is found and named.

Test data is recorded with ONNX Runtime and written with onnx's own helpers, not with ours.
"""

import gzip
import json
import os
import shutil
import tarfile

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ssd34.cli.deploy.publish import verify_published
from ssd34.core.labels import COCO_LABELS
from ssd34.deploy.graph.builder import save_model
from ssd34.deploy.int8.plan import QuantizeOptions
from ssd34.deploy.int8.quantize import quantize_network
from ssd34.deploy.publish.manifest import MANIFEST_NAME
from ssd34.deploy.publish.package import package
from ssd34.deploy.publish.verify import verify, verify_folder
from ssd34.errors import ModelError
from ssd34.files.cache import PublishedFile
from ssd34.zoo.names import EMBEDDED, PUBLISHED, PublishedModel, model_path
from tests.conftest import tiny_spec
from tests.support.plain_runs import plain_session
from tests.support.refusals import assert_facts, refused
from tests.support.small_models import (
    FOUND,
    METADATA,
    SET,
    manifest_of,
    packed,
    raw_outputs,
    save_data,
    save_tensor,
    small_folder,
    small_model,
    stated,
    write_small_model,
)

NAMES, SHAPES, TYPES, VALUES = STEPS = [
    f"{SET} {s}" for s in ("names", "shapes", "types", "values")
]


PIXELS = np.random.default_rng(3).integers(0, 256, (50, 70, 3)).astype(np.uint8)


@pytest.fixture
def small(tmp_path):
    return small_folder(tmp_path / "small")


def recorded_beside(model, folder):
    """A copy of a model with what ONNX Runtime computes."""
    shutil.copy(model, folder)
    session = plain_session(model)
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


def edited(path, change):
    model = onnx.load(path)
    change(model)
    path.write_bytes(model.SerializeToString())


# --- good files -----------------------------------------------------------------------------


def test_raw_outputs(tiny_raw, tmp_path):
    passed, detail = by_name(verify(tiny_raw, threads=2))[VALUES]
    assert passed and "loc" in detail and "conf" in detail
    folder = shutil.copytree(tiny_raw, tmp_path / "raw")
    damaged(folder, 1, lambda conf: conf + 0.002 * (np.arange(conf.size) == 7).reshape(conf.shape))
    name, detail, _ = only_failure(folder)
    assert name == VALUES and detail.count("\n") == 0
    assert_facts(detail, "conf", "0.002", "[0, 0, 7]", "1 of ")


def test_with_a_manifest_everything_is_run(small, tmp_path):
    archive = packed(small, tmp_path / "small-12.tar.gz")
    manifest = tmp_path / MANIFEST_NAME
    manifest.write_text(json.dumps(manifest_of(small / "small.onnx", archive)))
    checks = by_name(verify(archive))
    assert all(passed for passed, _ in checks.values())
    assert list(checks)[:5] == ["archive", "checksum", "structure", "ports", "manifest ports"]
    assert by_name(verify(small, manifest=manifest))["checksum"] == (True, checks["checksum"][1])
    shutil.copy(manifest, small)
    verification = verify(small / "small.onnx")
    assert by_name(verification)["manifest ports"][0] is True
    values = json.loads(json.dumps(verification.to_dict()))
    assert values["passed"] is True and values["file"] == str(small / "small.onnx")
    assert values["checks"][0].keys() == {"name", "passed", "detail"}


def test_more_outputs_are_compared_too(small):
    """Texts; and a sequence, which no tensor file can be."""
    texts = {**FOUND, "names": np.array(["cat", "dog"], object)}
    model = small_model(texts, free=True)
    onnx.save(model, small / "small.onnx")
    save_tensor(small / SET / "output_3.pb", "names", texts["names"])
    assert_facts(by_name(verify(small))[VALUES][1], "names: largest difference 0")
    save_tensor(small / SET / "output_3.pb", "names", np.array(["cat", "cow"], object))
    name, detail, _ = only_failure(small)
    assert name == VALUES
    assert_facts(detail, "names", "[1]", "1 of 2")
    model.graph.node.add(op_type="SequenceConstruct", input=["scores"], output=["parts"])
    kind = helper.make_tensor_sequence_value_info("parts", TensorProto.FLOAT, None)
    model.graph.output[3].CopyFrom(kind)
    onnx.save(model, small / "small.onnx")
    save_tensor(small / SET / "output_3.pb", "parts", FOUND["scores"])
    name, detail, _ = only_failure(small)
    assert name == TYPES
    assert_facts(detail, "output_3.pb", "parts", "sequence")


def test_several_data_sets(small):
    shutil.copytree(small / SET, small / "test_data_set_1")
    damaged(small, 2, lambda scores: scores - 0.1)
    checks = by_name(verify(small))
    assert checks[VALUES][0] is False and checks["test_data_set_1 values"][0] is True


def reordered(folder):
    for number in range(3):
        damaged(folder, number, lambda values: values[:, ::-1])


def nameless(folder):
    for path in (folder / SET).iterdir():
        tensor = onnx.load_tensor(path)
        save_tensor(path, "", numpy_helper.to_array(tensor))


def of_bytes(folder):
    inputs = {"image": (1, 64, 64, 3)}
    write_small_model(folder / "small.onnx", inputs=inputs, kind=TensorProto.UINT8, free=True)
    damaged(folder, 0, lambda v: v.transpose(0, 2, 3, 1), kind="input", dtype=np.uint8)


@pytest.mark.parametrize(
    "change",
    [
        reordered,
        nameless,
        of_bytes,
        lambda folder: damaged(folder, 2, lambda scores: scores - 0.0009),
        lambda folder: (folder / "._small.onnx").write_bytes(b"?"),  # as archivers leave them
    ],
)
def test_what_makes_no_difference(small, change):
    change(small)
    assert verify(small).passed


def test_several_pictures_filled_up(small):
    """Files for a batch fill up with score and label 0."""
    batch = {name: np.concatenate([v, v[:, ::-1]]) for name, v in FOUND.items()}
    for values in batch.values():
        values[0, 2] = 0
    write_small_model(small / "small.onnx", batch, inputs={"image": (2, 3, 64, 64)})
    shutil.rmtree(small / SET)
    save_data(small, np.zeros((2, 3, 64, 64), np.float32), batch)
    passed, detail = by_name(verify(small))[VALUES]
    assert passed is True
    assert_facts(detail, "picture 0: 2 of 2", "picture 1: 3 of 3")
    damaged(small, 2, lambda scores: scores - [[0], [0.01]])
    name, detail, _ = only_failure(small)
    assert name == VALUES and detail.count("picture 1") == 3 and "picture 0" not in detail


# --- values ---------------------------------------------------------------------------------


def first(change):
    """Change the first detection."""

    def changed(values):
        values[0, 0] = change(values[0, 0])
        return values

    return changed


def test_quantized_networks_have_the_wider_tolerance(tiny, tiny_network, tiny_statistics, tmp_path):
    path, folder = tmp_path / "tiny-int8.onnx", tmp_path / "int8"
    how = QuantizeOptions(reduce_range=True)
    save_model(quantize_network(tiny_network, tiny_statistics, how), path)
    folder.mkdir()
    recorded_beside(path, folder)
    assert_facts(by_name(verify(folder))[VALUES][1], "int8", "200 of 200")
    damaged(folder, 2, first(lambda score: score - 0.04))
    assert verify(folder).passed
    damaged(folder, 2, first(lambda score: score - 0.02))
    assert_facts(only_failure(folder)[1], "0.06", "0.05")
    assert package(path, output=tmp_path / "out", picture=PIXELS).model.name == "tiny-12-int8.onnx"
    checks = by_name(verify(tiny))
    assert checks["checksum"][0] is None  # there is no manifest
    assert_facts(checks[VALUES][1], "float", "200 of 200", "1.0000")
    in_float = shutil.copytree(tiny, tmp_path / "tiny")
    damaged(in_float, 2, first(lambda score: score - 0.04))
    assert_facts(only_failure(in_float)[1], "0.04", "0.001")


# --- damage ---------------------------------------------------------------------------------


def data(number, change=lambda v: v, **more):
    return lambda folder: damaged(folder, number, change, **more)


def file(name, tensor_name, values):
    return lambda folder: save_tensor(folder / SET / name, tensor_name, values)


def without(*names):
    return lambda folder: [(folder / SET / name).unlink() for name in names]


def swapped(folder):
    file("output_0.pb", "scores", FOUND["scores"])(folder)
    file("output_2.pb", "bboxes", FOUND["bboxes"])(folder)


def cut_data(folder):
    path = folder / SET / "output_2.pb"
    path.write_bytes(path.read_bytes()[:-2])


def graph(change):
    return lambda folder: edited(folder / "small.onnx", change)


def rename_output(model):
    model.graph.output[0].name = model.graph.node[0].output[0] = "boxes"


def contradict(model):
    """Only the full check with shape inference finds it."""
    model.graph.output[2].type.tensor_type.shape.dim[0].dim_value = 5


def point_elsewhere(model):
    weight = TensorProto(name="w", dims=[2], data_type=TensorProto.FLOAT)
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../secret")
    model.graph.initializer.append(weight)


def of_a_newer_type(model):
    model.graph.input[0].type.tensor_type.elem_type = 99


def fail_in_a_run(model):
    wrong = numpy_helper.from_array(np.array([5]), "five")
    model.graph.initializer.append(wrong)
    model.graph.node.add(op_type="Reshape", input=["image", "five"], output=["never"])
    model.graph.output.append(helper.make_tensor_value_info("never", TensorProto.FLOAT, ["k"]))


def failing(folder):
    graph(fail_in_a_run)(folder)
    save_tensor(folder / SET / "output_3.pb", "never", np.ones(5, np.float32))


def use_magic(model):
    """Operators of others are no fault for ONNX's check."""
    model.graph.node.append(helper.make_node("Magic", ["image"], ["m"], domain="example.magic"))
    model.opset_import.append(helper.make_opsetid("example.magic", 1))


def cut_model(keep):
    def cut(folder):
        content = (folder / "small.onnx").read_bytes()
        (folder / "small.onnx").write_bytes(content[: keep(len(content))])

    return cut


def other(outputs=FOUND, shape=(1, 3, 64, 64), **more):
    def write(folder):
        write_small_model(folder / "small.onnx", outputs, inputs={"image": shape}, **more)

    return write


def with_manifest(folder, change):
    """The manifest of a folder's model, with something changed."""
    entries = manifest_of(folder / "small.onnx")
    change(entries[1]["metadata"])
    (folder / MANIFEST_NAME).write_text(json.dumps(entries))


def port_change(kind, number, **changes):
    return lambda metadata: metadata["io_ports"][kind][number].update(changes)


def manifest(change):
    return lambda folder: with_manifest(folder, change)


AFTER_STRUCTURE = ["ports", "manifest ports", "runtime", "test data"]


@pytest.mark.parametrize(
    ("damage", "failed", "facts", "skipped"),
    [
        (data(2, first(lambda s: s - 0.01)), VALUES, ["label 1", "0.8900", "0.9000", "0.01"], []),
        (data(1, first(lambda _: 4)), VALUES, ["label 4", "1 to 3"], []),
        (file("output_0.pb", "boxes", FOUND["bboxes"]), NAMES, ["output_0.pb", "boxes", "bboxes"],
         STEPS[1:]),
        (swapped, NAMES, ["output_0.pb", "output_2.pb"], STEPS[1:]),
        (file("output_3.pb", "more", [1.0]), NAMES, ["output_3.pb", "3 outputs"], STEPS[1:]),
        (without("output_2.pb", "input_0.pb"), NAMES,
         ["input_0.pb", "image", "output_2.pb", "scores"], STEPS[1:]),
        (data(0, lambda v: v[..., :3]), SHAPES, ["output_0.pb", "[1, 3, 3]", "bboxes"], STEPS[2:]),
        (data(0, lambda v: v[0]), SHAPES, ["output_0.pb", "[3, 4]", "bboxes"], STEPS[2:]),
        (data(2, lambda v: v[:, :2]), SHAPES, ["output_2.pb", "n is 2", "output_0.pb"], STEPS[2:]),
        (data(0, lambda v: v[..., :32], kind="input"), SHAPES, ["input_0.pb", "[1, 3, 64, 32]"],
         STEPS[2:]),
        (data(1, dtype=np.int32), TYPES, ["output_1.pb", "int32", "labels"], STEPS[3:]),
        (data(0, kind="input", dtype=np.float64), TYPES, ["input_0.pb", "double"], STEPS[3:]),
        (cut_data, f"{SET} files", ["output_2.pb"], STEPS),
        *((cut_model(keep), "structure", [], AFTER_STRUCTURE)
          for keep in (lambda _: 0, lambda _: 10, lambda size: size // 2, lambda size: size - 1)),
        (graph(contradict), "structure", ["5"], AFTER_STRUCTURE),
        (graph(point_elsewhere), "structure", ["secret"], AFTER_STRUCTURE),
        (graph(use_magic), "runtime", ["Magic"], ["test data"]),
        (failing, VALUES, ["cannot be run"], []),
        (graph(rename_output), "ports", ["boxes", "bboxes", "loc"], [SET]),
        (other(shape=(1, 3, 96, 96)), "ports", ["image", "[1, 3, 96, 96]"], [SET]),
        (other(shape=(1, 64, 64, 3)), "ports", ["image", "[1, 64, 64, 3]"], [SET]),
        (other(metadata={}), "ports", ["1200"], [SET]),
        (other(metadata=METADATA | {"ssd34.spec": "{}"}), "ports", ["metadata"], [SET]),
        (other(metadata={"ssd34.spec": METADATA["ssd34.spec"]}), "ports", ["metadata"], [SET]),
        (other(metadata=METADATA | {"ssd34.labels": json.dumps(COCO_LABELS.to_dict())}), "ports",
         ["3 classes", "382", "80"], [SET]),
        (other(FOUND | {"labels": FOUND["labels"].astype(np.int32)}, free=True), "ports",
         ["labels", "int32", "int64"], [SET]),
        (other(raw_outputs(tiny_spec().replace(num_classes=7))), "ports",
         ["conf", "[1, 8, 382]", "4, 382"], [SET]),
        (other(raw_outputs(tiny_spec().at_size(128))), "ports",
         ["loc", "[1, 4, 1528]", "4, 382"], [SET]),
        # With a manifest that says otherwise the rest is run all the same.
        (manifest(lambda m: m.update(model_sha="0" * 64)), "checksum", ["0" * 64], []),
        (manifest(lambda m: m.update(model_bytes=17)), "checksum", ["17"], []),
        (manifest(port_change("inputs", 0, shape=[1, 3, 300, 300])), "manifest ports",
         ["image", "[1, 3, 64, 64]", "[1, 3, 300, 300]"], []),
        (manifest(port_change("outputs", 1, type="tensor(int32)")), "manifest ports",
         ["labels", "int64", "int32"], []),
        (manifest(port_change("outputs", 0, shape=[1, 200, 4])), "manifest ports",
         ["[1, 200, 4]"], []),
        (manifest(port_change("outputs", 0, name="boxes")), "manifest ports",
         ["bboxes", "boxes,"], []),
        (manifest(lambda m: m["io_ports"]["outputs"].pop()), "manifest ports",
         ["bboxes, labels"], []),
    ],
)  # fmt: skip
def test_every_damage_is_found_and_named(small, damage, failed, facts, skipped):
    damage(small)
    name, detail, left = only_failure(small)
    assert (name, left) == (failed, skipped)
    assert_facts(detail, *facts)


# --- manifests ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [*(port_change("outputs", 1, shape=[1, name]) for name in ("nbox", None)),
     lambda m: m.update(model_sha=m["model_sha"].upper())],
)  # fmt: skip
def test_a_manifest_that_says_the_same_in_other_words(small, change):
    with_manifest(small, change)
    checks = by_name(verify(small))
    assert checks["checksum"][0] is True and checks["manifest ports"][0] is True


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (lambda m: m.update(model_with_data_sha="1" * 64), "1" * 64),
        (lambda m: [m.pop(key) for key in [*m] if "with_data" in key], "manifest"),
    ],
)
def test_an_archive_that_the_manifest_does_not_know(small, tmp_path, change, fact):
    archive = packed(small, tmp_path / "small.onnx.tar.gz")
    entries = manifest_of(small / "small.onnx", archive)
    change(entries[1]["metadata"])
    entries[1]["model_path"] = archive.name
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(entries))
    name, detail, skipped = only_failure(archive)
    assert name == "archive" and fact in detail and skipped == []


def test_a_tarball_that_was_cut_off(small, tmp_path):
    """A failure, with or without a manifest that knows its checksum."""
    archive = packed(small, tmp_path / "small.tar.gz")
    manifest = tmp_path / "m.json"
    manifest.write_text(json.dumps(manifest_of(small / "small.onnx", archive)))
    archive.write_bytes(archive.read_bytes()[:-100])
    checks = by_name(verify(archive, manifest=manifest))
    assert [name for name, (passed, _) in checks.items() if not passed] == ["archive", "contents"]
    assert only_failure(archive)[0] == "contents"
    archive.write_bytes(gzip.compress(b"no tar"))
    assert only_failure(archive)[0] == "contents"


def test_another_archive_without_a_model(small, tmp_path):
    """Its checksum has told so; what is in it is no error on top."""
    archive, manifest = packed(small, tmp_path / "small.tar.gz"), tmp_path / "m.json"
    manifest.write_text(json.dumps(manifest_of(small / "small.onnx", archive)))
    packed(small / SET, archive)
    checks = by_name(verify(archive, manifest=manifest))
    assert [name for name, (passed, _) in checks.items() if not passed] == ["archive", "contents"]


def test_a_manifest_without_this_file(small):
    """Beside the file it says nothing; asked for, it has to know it."""
    manifest = small / MANIFEST_NAME
    manifest.write_text("[]")
    passed, detail = by_name(verify(small))["checksum"]
    assert passed is None
    assert_facts(detail, manifest, "small.onnx")
    assert only_failure(small, manifest=manifest)[0] == "checksum"
    os.truncate(manifest, 64 * 2**20 + 1)
    with refused(ModelError, manifest):
        verify(small)


@pytest.mark.parametrize(
    "content",
    [
        "", "[" * 100000, "{}", "[1]",
        '[{"model_path": "a/small.onnx"}]',
        '[{"model_path": "a/small.onnx", "metadata": 3}]',
        '[{"model_path": "small.onnx", "metadata": {}}, {"model_path": "b/small.onnx"}]',
        *({key: value} for key, value in (("model_sha", "abc"), ("model_sha", 5), ("io_ports", []),
                                          ("model_bytes", "5"), ("model_with_data_path", "x"))),
        port_change("inputs", 0, shape=5), port_change("inputs", 0, shape=[1.5]),
        port_change("inputs", 0, name=None),
        lambda m: m.pop("model_bytes"), lambda m: m.pop("io_ports"),
    ],
)  # fmt: skip
def test_broken_manifest(small, content):
    if isinstance(content, str):
        (small / MANIFEST_NAME).write_text(content)
    else:
        with_manifest(small, content if callable(content) else lambda m: m.update(content))
    with refused(ModelError, MANIFEST_NAME, "" if isinstance(content, str) else "small.onnx"):
        verify(small)


# --- nothing that could be verified ---------------------------------------------------------


def test_several_models_in_a_folder(small):
    shutil.copy(small / "small.onnx", small / "other.onnx")
    with refused(ModelError, "other.onnx", "small.onnx"):
        verify(small)
    assert verify(small / "other.onnx").passed  # one of them can be named


def test_no_model(small, tmp_path):
    hostile = tmp_path / "hostile.tar.gz"
    with tarfile.open(hostile, "w:gz") as tar:
        tar.add(small / "small.onnx", "../small.onnx")
    for target in (packed(small / SET, tmp_path / "a.tar.gz"), hostile):
        with refused(ModelError, target.name):
            verify(target)


# --- several files --------------------------------------------------------------------------


@pytest.fixture
def published(small, tmp_path):
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
    (folder / MANIFEST_NAME).write_text(json.dumps(entries))
    return folder


def failures(found):
    return [(v.file.name, c.name) for v in found for c in v.checks if c.passed is False]


def test_a_folder_with_a_manifest_is_verified_whole(published, small):
    found = verify_folder(published, require_test_data=True)
    assert [v.file.name for v in found] == ["a.onnx", "b.onnx"] and failures(found) == []
    for verification in found:
        names = [check.name for check in verification.checks if check.passed]
        assert {"file", "archive", "checksum", "manifest ports", VALUES} <= set(names)

    edited(published / "a.onnx", lambda model: setattr(model, "doc_string", "changed"))
    (published / "b.tar.gz").unlink()
    shutil.copy(small / "small.onnx", published / "stray.onnx")
    found = verify_folder(published)
    assert failures(found) == [("a.onnx", "file"), ("b.onnx", "b.tar.gz")]
    assert found[2].file.name == "stray.onnx"
    (published / "b.onnx").unlink()
    assert failures(verify_folder(published))[1:] == [("b.onnx", "b.onnx"), ("b.onnx", "b.tar.gz")]


def test_entries_of_a_zoos_manifest_that_lie_elsewhere_are_passed_over(small):
    (small / MANIFEST_NAME).write_text(json.dumps(manifest_of(small / "small.onnx")))
    [found] = verify_folder(small)
    assert found.passed and by_name(found)["checksum"][0] is True


def test_a_folder_is_searched_one_level_down(small, tmp_path):
    [found] = verify_folder(tmp_path, require_test_data=True)
    assert found.passed and found.file == small
    empty = tmp_path / "empty"
    empty.mkdir()
    with refused(ModelError, empty):
        verify_folder(empty)


@pytest.fixture
def cached(small, tmp_path, monkeypatch):
    """A published model that was pulled, with its archive."""
    monkeypatch.setenv("SSD34_HOME", str(tmp_path / "home"))
    folder = tmp_path / "home" / "models"
    folder.mkdir(parents=True)
    shutil.copy(small / "small.onnx", folder / "s.onnx")
    archive = packed(small, folder / "s.tar.gz")
    files = [
        PublishedFile(path.name, path.stat().st_size, stated(path)[0], ())
        for path in (folder / "s.onnx", archive)
    ]
    model = PublishedModel(
        name="s", model=files[0], test_data=files[1], opset=12, published_map=0.1
    )
    monkeypatch.setitem(PUBLISHED, "s", model)
    return folder


def test_a_published_model_is_the_published_file_and_its_archive_is_replayed(cached):
    checks = by_name(verify_published("s", require_test_data=True))
    assert all(checks[n][0] for n in ("file", "archive", "structure", VALUES))
    assert not any(passed is False for passed, _ in checks.values())
    (cached / "s.tar.gz").unlink()
    checks = by_name(verify_published("s"))
    assert checks["checksum"][0] is True and checks["test data"][0] is None
    (cached / "s.onnx").unlink()
    with refused(ModelError, "s: "):
        verify_published("s")


def test_another_file_of_the_size_of_a_published_one(cached):
    """As somebody put it there by hand: nothing but the checksum tells."""
    content = (cached / "s.onnx").read_bytes()
    (cached / "s.onnx").write_bytes(content.replace(b"small", b"smell"))
    assert failures([verify_published("s")]) == [("s.onnx", "file")]
    (cached / "s.tar.gz").unlink()
    passed, detail = by_name(verify_published("s"))["checksum"]
    assert passed is False and "ssd34 models pull s" in detail


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_models_are_what_their_manifest_says(name):
    checks = by_name(verify(model_path(name)))
    assert checks["checksum"][0] is True and checks["manifest ports"][0] is True
