import json
import os
import tarfile
import threading
from functools import partial

import pytest

from ssd34.core.labels import LabelSet
from ssd34.deploy.publish.manifest import Verification, check
from ssd34.deploy.publish.package import package as make_package
from ssd34.deploy.publish.verify import verify
from ssd34.errors import ModelError, OptionError
from ssd34.files.atomic import compute_sha256
from ssd34.images.read import read_image
from tests.conftest import EXAMPLES, TINY_LABELS, tiny_spec
from tests.support.cli import invoke
from tests.support.refusals import assert_facts, refused
from tests.support.small_models import FOUND, metadata_of, raw_outputs, stated, write_small_model

PICTURE = EXAMPLES / "coffee.jpg"
CHELSEA = read_image(EXAMPLES / "chelsea.jpg")
package = partial(make_package, picture=read_image(PICTURE))


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def row_of(card, name):
    """The cells of a file's row: AP to time."""
    [row] = [line for line in card.read_text().splitlines() if line.startswith(f"| [{name}]")]
    return [cell.strip() for cell in row.split("|")][5:9]


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory):
    """Of a few bytes, as what a network computes is of no account here."""
    return write_small_model(tmp_path_factory.mktemp("models") / "tiny.onnx", FOUND, free=True)


@pytest.fixture(scope="module")
def tiny_raw_model(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny-raw.onnx"
    return write_small_model(path, raw_outputs(tiny_spec()), inputs={"image": ("batch", 3, 64, 64)})


@pytest.fixture(scope="module")
def packed(tiny_model, tmp_path_factory):
    return package(tiny_model, output=tmp_path_factory.mktemp("published"), name="shapes")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


# --- files ----------------------------------------------------------------------------------


def test_files_are_named_and_laid_out_as_in_the_zoo(packed, tiny_model):
    assert packed.model.name == "shapes-12.onnx"
    assert packed.model.read_bytes() == tiny_model.read_bytes()
    with tarfile.open(packed.tarball) as archive:
        members = archive.getmembers()
    data = [f"test_data_set_0/{name}_0.pb" for name in ("input", "output")]
    data += [f"test_data_set_0/output_{number}.pb" for number in (1, 2)]
    assert {m.name for m in members if m.isfile()} == {
        f"shapes-12/{name}" for name in ("shapes-12.onnx", *data)
    }
    assert all((m.mtime, m.uid, m.gid, m.uname) == (0, 0, 0, "") for m in members)
    left = {p.name for p in packed.model.parent.iterdir()}
    assert left == {"shapes-12.onnx", "shapes-12.tar.gz", "ONNX_HUB_MANIFEST.json", "README.md"}
    for target in (packed.tarball, packed.model):
        assert verify(target).passed


def test_the_manifest_entry_has_the_zoos_fields(packed):
    [entry] = json.loads(packed.manifest.read_text())
    assert (entry["model"], entry["model_path"]) == ("shapes", "shapes-12.onnx")
    assert (entry["onnx_version"], entry["opset_version"]) == ("1.7", 12)
    data = entry["metadata"]
    assert (data["model_sha"], data["model_bytes"]) == stated(packed.model)
    assert data["model_with_data_path"] == "shapes-12.tar.gz"
    assert (data["model_with_data_sha"], data["model_with_data_bytes"]) == stated(packed.tarball)
    ports = data["io_ports"]
    assert ports["inputs"] == [{"name": "image", "shape": [1, 3, 64, 64], "type": "tensor(float)"}]
    assert [p["name"] for p in ports["outputs"]] == ["bboxes", "labels", "scores"]


def test_equal_input_gives_equal_bytes(packed, tiny_model, tmp_path):
    again = package(tiny_model, output=tmp_path, name="shapes")
    for field in ("model", "tarball", "manifest", "card"):
        assert getattr(again, field).read_bytes() == getattr(packed, field).read_bytes(), field


@pytest.mark.parametrize(
    "name",
    ["", "../out", "a/b", "a\\b", ".hidden", "a\0b", "a b", "a(b", "a|b",
     "a" * 81, "a" * 100, "\u00fc" * 41],
)  # fmt: skip
def test_names_that_are_no_file_names(tiny_model, out, name):
    facts = [80, len(name.encode()), "--name"] if len(name) > 40 else []
    with refused(OptionError, *facts):
        package(tiny_model, output=out, name=name)
    assert not out.exists()


@pytest.mark.parametrize("name", ["a" * 80, "\u00fc" * 40])
def test_the_longest_names(tiny_model, out, name):
    """With the longest opset and suffix there is."""
    assert len(f"{name}-99-int8.onnx".encode()) < 100  # where USTAR's field ends
    with tarfile.open(package(tiny_model, output=out, name=name).tarball) as archive:
        assert f"{name}-12/{name}-12.onnx" in archive.getnames()


def test_somebody_elses_readme_is_not_replaced_unasked(tiny_model, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("# My project\n\nIts models are made with ssd34.\n")
    before = content(tmp_path)
    with refused(OptionError, "README.md", "--replace"):
        package(tiny_model, output=tmp_path)
    assert content(tmp_path) == before
    package(tiny_model, output=tmp_path, replace=True)
    # One of ours, with a line of its owner's, is made again without a question.
    readme.write_text(readme.read_text() + "\nThanks to all.\n")
    package(tiny_model, output=tmp_path)
    assert "| [tiny-12.onnx]" in readme.read_text() and "Thanks" not in readme.read_text()


def test_what_does_not_verify_is_not_packaged(tiny_model, out, tmp_path, monkeypatch):
    """A file whose metadata names another network than its graph holds; and many failures."""
    larger = metadata_of(tiny_spec().at_size(96), TINY_LABELS)
    with pytest.raises(ModelError):
        package(write_small_model(tmp_path / "other.onnx", metadata=larger), output=out)
    failed = Verification(tiny_model, (check("values", ["first", "second", "third"], ""),))
    monkeypatch.setattr("ssd34.deploy.publish.package.verify", lambda *_, **__: failed)
    with refused(ModelError, "values", "first", "2 more"):
        package(tiny_model, output=out / "b")
    assert not out.exists()


def test_the_command(tiny_model, tmp_path):
    """And of an int8 file, what is recorded is what every processor computes."""
    options = ("--picture", PICTURE, "--output")
    result = invoke("package", tiny_model, *options, tmp_path / "out")
    assert "tiny-12.tar.gz" in result.output
    assert "license:" not in (tmp_path / "out" / "README.md").read_text()
    ours = tmp_path / "ours"
    invoke("package", "default", *options, ours)
    assert "\nlicense: apache-2.0\n" in (ours / "README.md").read_text()
    verification = verify(ours / "ssd300-resnet34-13-qdq.tar.gz", require_test_data=True)
    [values] = [c for c in verification.checks if c.name == "test_data_set_0 values"]
    assert verification.passed and "difference 0 " in values.detail


# --- measurements ---------------------------------------------------------------------------


def measurement(model, path, **changes):
    values = {
        "model_sha256": compute_sha256(model),
        "data": "/somewhere/val.zip",
        "policy": "zoo",
        "pictures": 12,
        "summary": {"AP": 0.12345, "AP50": 0.3},
    }
    path.write_text(json.dumps({**values, **changes}))
    return path


def timing(model, path, **changes):
    """As ``ssd34 benchmark --json`` writes it, of three models."""

    def result(digest, milliseconds, threads):
        return {
            "model_sha256": digest, "network_ms": {"median": milliseconds}, "threads": threads,
            "engine": "onnxruntime", "engine_version": "1.27",
        }  # fmt: skip

    ours = compute_sha256(model)
    results = [result("0" * 64, 9.0, 1), result(ours, 12.34, 2), result(ours, 99.0, 1)]
    values = {"scenario": "single-stream", "cpu": {"model": "Some CPU"}, "results": results}
    path.write_text(json.dumps(values | changes))
    return path


def test_the_card_is_filled_from_measurements_of_this_file_only(tiny_model, out, tmp_path):
    other = measurement(PICTURE, tmp_path / "b.json", summary={"AP": 0.9, "AP50": 0.9})
    measured = [measurement(tiny_model, tmp_path / "a.json"), other]
    card = package(tiny_model, output=out, measured=measured).card
    assert row_of(card, "tiny-12.onnx") == ["12", "0.1235", "0.3000", ""]
    assert_facts(card.read_text(), "12 pictures of val.zip, zoo",
                 "- input `image` tensor(float) [1, 3, 64, 64]",
                 "- output `bboxes` tensor(float) [1, n, 4]")  # fmt: skip
    assert "0.9" not in card.read_text().replace("0.95", "")


def test_a_new_measurement_takes_the_place_of_the_old_one(tiny_model, out, tmp_path):
    for ap in (0.1, 0.2):
        accuracy = measurement(tiny_model, tmp_path / f"{ap}.json", summary={"AP": ap, "AP50": ap})
        measured = [accuracy, timing(tiny_model, tmp_path / "t.json")]
        written = package(tiny_model, output=out, measured=measured)
    assert row_of(written.card, "tiny-12.onnx") == ["12", "0.2000", "0.2000", "12.3 (2)"]
    assert_facts(written.card.read_text(), "Some CPU", "onnxruntime 1.27")
    card = written.card.read_bytes()
    # The card can be made again from what is kept.
    assert package(tiny_model, output=out).card.read_bytes() == card
    [kept] = [f for f in (out / "measurements").iterdir() if "AP50" in f.read_text()]
    kept.write_text("{")
    before = content(out)
    with refused(OptionError, kept.name):
        package(tiny_model, output=out, picture=CHELSEA)
    assert content(out) == before
    package(tiny_model, output=out, picture=CHELSEA, measured=[accuracy])


OFFLINE = {"scenario": "offline"}
UNTIMED = {"results": [{"model_sha256": "0" * 64, "threads": 1}]}


@pytest.mark.parametrize(
    ("make", "changes", "facts", "of_others_too"),
    [(measurement, {"summary": {"AP": 0.1}}, ["AP50"], True),
     (measurement, {"metric": "zoo-2021"}, ["zoo-2021"], True),
     (measurement, {"policies": {}}, ["--policy all"], True),
     (measurement, {"policy": "best", "tail_cut": True}, ["best"], False),
     (measurement, {"preprocess": "fast"}, ["--preprocess fast"], False),
     (measurement, {"classes": ["disc", "cross"]}, ["disc, cross", "--class"], True),
     (measurement, {"summary": {"AP": None, "AP50": None}}, ["null"], True),
     (timing, OFFLINE | UNTIMED, ["single-stream", "offline"], True),
     (timing, UNTIMED | {"scenario": "server"}, ["single-stream", "server"], True),
     (timing, {"loadgen": True} | UNTIMED, ["single-stream", "--loadgen"], True),
     (timing, UNTIMED, ["network_ms"], True), (timing, {"results": None}, [], True),
     (measurement, {"pictures": float("inf")}, ["infinity"], True)],
)  # fmt: skip
def test_bad_measurements_are_refused_before_anything_is_written(
    tiny_model, out, tmp_path, make, changes, facts, of_others_too
):
    """Of another model as well: what is kept has to be good the day that it is packaged."""
    for model in (tiny_model, PICTURE) if of_others_too else (tiny_model,):
        file = make(model, tmp_path / "m.json", **changes)
        if model == tiny_model:
            file.write_text(file.read_text().replace("0" * 64, compute_sha256(model)))
        with refused(OptionError, file, *facts):
            package(tiny_model, output=out, measured=[file])
        assert not out.exists()


def test_two_measurements_of_a_kind_and_what_is_none(tiny_model, out, tmp_path):
    (tmp_path / "text.json").write_text("0.2")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    for make in (measurement, timing):
        twice = [make(tiny_model, tmp_path / f"{k}.json") for k in range(2)]
        with refused(OptionError, "1.json"):
            package(tiny_model, output=out, measured=twice)
    for name in ("text.json", "deep.json"):
        with refused(OptionError, name):
            package(tiny_model, output=out, measured=[tmp_path / name])
    assert not out.exists()
    measurement(tiny_model, tmp_path / "other.json", model_sha256="../escape")
    package(tiny_model, output=out, measured=[tmp_path / "other.json"])
    assert not (out / "measurements").exists()


def test_a_measurement_may_come_through_a_pipe(tiny_model, out, tmp_path):
    """As of ``--measured <(...)``, which can be read once."""
    measurement(tiny_model, tmp_path / "a.json")
    os.mkfifo(tmp_path / "pipe")
    data = (tmp_path / "a.json").read_bytes()
    threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(data,), daemon=True).start()
    card = package(tiny_model, output=out, measured=[tmp_path / "pipe"]).card
    assert row_of(card, "tiny-12.onnx")[1] == "0.1235"


# --- several files in a folder --------------------------------------------------------------


def test_a_second_model_joins_manifest_and_card(tiny_model, tiny_raw_model, out, tmp_path):
    """The card says which file has which accuracy and ports; each kind of ports once."""
    first = measurement(tiny_model, tmp_path / "a.json")
    other = {"data": "/else/small.zip", "pictures": 5, "unreadable": 2, "engine": "openvino"}
    second = measurement(tiny_raw_model, tmp_path / "b.json", **other)
    alone = package(tiny_model, output=out, name="a", measured=[first]).card.read_text()
    text = "COCO box AP over IoU 0.50 to 0.95, 12 pictures of val.zip, zoo."
    assert f"\nAP: {text}\n" in alone
    package(tiny_model, output=out, name="b")
    written = package(tiny_raw_model, output=out, name="c", measured=[second])
    entries = json.loads(written.manifest.read_text())
    assert [e["model_path"] for e in entries] == ["a-12.onnx", "b-12.onnx", "c-12.onnx"]
    assert row_of(written.card, "a-12.onnx")[:2] == ["12", "0.1235"]
    card = written.card.read_text()
    assert f"\nAP of a-12.onnx, b-12.onnx: {text}\n" in card
    [line] = [line for line in card.splitlines() if line.startswith("AP of c-12.onnx: ")]
    assert_facts(line, "5 pictures of small.zip", "2 of them", "zoo", "openvino")
    ports = card.split("## Input and outputs")[1].split("##")[0]
    tails, raw = ports.split("`c-12.onnx`:")
    assert "`a-12.onnx`, `b-12.onnx`:\n\n- input `image` tensor(float) [1, 3, 64, 64]\n" in tails
    assert "`scores`" in tails and "`loc`" not in tails
    assert "- input `image` tensor(float) [batch, 3, 64, 64]" in raw
    assert "`loc`" in raw and "`scores`" not in raw


def test_a_new_time_of_one_model_leaves_those_of_the_others(
    tiny_model, tiny_raw_model, out, tmp_path
):
    both = json.loads(timing(tiny_model, tmp_path / "a.json").read_text())
    changes = {"model_sha256": compute_sha256(tiny_raw_model), "network_ms": {"median": 7.0}}
    row = {**both["results"][0], **changes}
    (tmp_path / "a.json").write_text(json.dumps({**both, "results": [*both["results"], row]}))
    row = {**row, "model_sha256": compute_sha256(tiny_model), "network_ms": {"median": 5.0}}
    other = {**both, "cpu": {"model": "Other CPU"}, "results": [row]}
    (tmp_path / "b.json").write_text(json.dumps(other))
    for file in ("a.json", "b.json"):
        package(tiny_model, output=out, name="a", measured=[tmp_path / file])
    card = package(tiny_raw_model, output=out, name="b").card
    for name, time, cpu in (("a", "5.0 (1)", "Other CPU"), ("b", "7.0 (1)", "Some CPU")):
        assert row_of(card, f"{name}-12.onnx")[3] == time
        [line] = [x for x in card.read_text().splitlines() if f"time of {name}-12.onnx: " in x]
        assert_facts(line, cpu, "onnxruntime 1.27")


def test_another_model_of_the_same_name(tiny_model, tiny_raw_model, tmp_path):
    """It is refused, or takes the place of the old one where it is asked to."""
    package(tiny_model, output=tmp_path, name="a", triton=True)
    again = package(tiny_model, output=tmp_path, name="a", picture=CHELSEA)  # the same may come
    repository = tmp_path / "triton" / "a-12"
    assert (repository / "1" / "model.onnx").read_bytes() == again.model.read_bytes()
    [entry] = json.loads(again.manifest.read_text())
    assert entry["metadata"]["model_with_data_sha"] == stated(again.tarball)[0]
    before = content(tmp_path)
    with refused(OptionError, "a-12.onnx", "--name", "--replace"):
        package(tiny_raw_model, output=tmp_path, name="a")
    assert content(tmp_path) == before
    written = package(tiny_raw_model, output=tmp_path, name="a", replace=True)
    [entry] = json.loads(written.manifest.read_text())
    assert entry["metadata"]["model_sha"] == stated(tiny_raw_model)[0]
    assert verify(written.tarball).passed
    assert not repository.exists()


@pytest.mark.parametrize(
    "change", [{"spec": tiny_spec().at_size(96)}, {"labels": LabelSet(("a", "b", "c"), (1, 2, 3))}]
)
def test_another_network_needs_another_folder(tiny_model, out, tmp_path, change):
    """The card describes one network and its classes."""
    metadata = metadata_of(**{"spec": tiny_spec(), "labels": TINY_LABELS} | change)
    side = change.get("spec", tiny_spec()).image_size
    inputs = {"image": (1, 3, side, side)}
    write_small_model(tmp_path / "b.onnx", FOUND, inputs=inputs, metadata=metadata, free=True)
    package(tiny_model, output=out, name="a")
    before = content(out)
    with refused(OptionError, "a-12.onnx", "another folder"):
        package(tmp_path / "b.onnx", output=out, name="b")
    assert content(out) == before
    package(tmp_path / "b.onnx", output=out, name="a", replace=True)


def test_a_model_of_the_manifest_that_is_gone_or_broken(tiny_model, tmp_path):
    """And of a version that is a number, as somebody may have written it."""
    written = package(tiny_model, output=tmp_path, name="a")
    entries = json.loads(written.manifest.read_text())
    entries[0]["onnx_version"] = 1.7
    written.manifest.write_text(json.dumps(entries))
    package(tiny_model, output=tmp_path, name="b")
    written.model.write_text("broken")
    with refused(ModelError, "a-12.onnx"):
        package(tiny_model, output=tmp_path, name="b")
    written.model.unlink()
    with refused(ModelError, "a-12.onnx"):
        package(tiny_model, output=tmp_path, name="b")


@pytest.mark.parametrize(
    "broken", ["{", "{}", '[{"model_path": "b-12.onnx"}]', '[{"model_path": 5}]']
)
def test_a_broken_manifest_changes_nothing(tiny_model, tmp_path, broken):
    (tmp_path / "ONNX_HUB_MANIFEST.json").write_text(broken)
    before = content(tmp_path)
    with refused(ModelError, "ONNX_HUB_MANIFEST.json"):
        package(tiny_model, output=tmp_path, name="a")
    assert content(tmp_path) == before


def test_the_licence_is_stated_kept_or_left_out(tiny_model, tmp_path):
    """It is that of the weights, which only their owner knows."""
    card = package(tiny_model, output=tmp_path).card
    assert card.read_text().startswith("---\nlibrary_name: onnx\n")
    for licence in ("CC-BY-4.0", None):
        package(tiny_model, output=tmp_path, licence=licence)
        assert card.read_text().startswith("---\nlicense: cc-by-4.0\nlibrary_name: onnx\n")
    with refused(OptionError, "apache"):
        package(tiny_model, output=tmp_path, licence="my own: free")
