import dataclasses
import hashlib
import json
import tarfile

import onnx
import pytest
from click.testing import CliRunner

from ssd34.cli.app import commands
from ssd34.core.labels import LabelSet
from ssd34.deploy.graph.builder import save_model
from ssd34.deploy.graph.export import ExportOptions, onnx_model
from ssd34.deploy.publish.checks import Verification, check
from ssd34.deploy.publish.package import package
from ssd34.deploy.publish.verify import verify
from ssd34.errors import ModelError, OptionError
from ssd34.files.atomic import sha256_of
from ssd34.images.read import read_image
from ssd34.zoo.names import model_path
from tests.conftest import EXAMPLES, tiny_spec

PICTURE = EXAMPLES / "coffee.jpg"


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def packed(tiny_model, tmp_path_factory):
    output = tmp_path_factory.mktemp("published")
    return package(tiny_model, output=output, picture=read_image(PICTURE), name="shapes")


def test_files_are_named_and_laid_out_as_in_the_zoo(packed, tiny_model):
    assert packed.model.name == "shapes-12.onnx"
    assert packed.model.read_bytes() == tiny_model.read_bytes()
    with tarfile.open(packed.tarball) as archive:
        members = archive.getmembers()
    files = {m.name for m in members if m.isfile()}
    data = "shapes-12/test_data_set_0"
    assert files == {
        "shapes-12/shapes-12.onnx",
        f"{data}/input_0.pb",
        f"{data}/output_0.pb",
        f"{data}/output_1.pb",
        f"{data}/output_2.pb",
    }
    assert all((m.mtime, m.uid, m.gid, m.uname) == (0, 0, 0, "") for m in members)
    left = {p.name for p in packed.model.parent.iterdir()}
    assert left == {"shapes-12.onnx", "shapes-12.tar.gz", "ONNX_HUB_MANIFEST.json", "README.md"}


def test_the_manifest_entry_has_the_zoos_fields(packed):
    [entry] = json.loads(packed.manifest.read_text())
    assert (entry["model"], entry["model_path"]) == ("shapes", "shapes-12.onnx")
    assert (entry["onnx_version"], entry["opset_version"]) == ("1.7", 12)
    data = entry["metadata"]
    assert data["model_sha"] == digest(packed.model)
    assert data["model_bytes"] == packed.model.stat().st_size
    assert data["model_with_data_path"] == "shapes-12.tar.gz"
    assert data["model_with_data_sha"] == digest(packed.tarball)
    assert data["model_with_data_bytes"] == packed.tarball.stat().st_size
    assert data["io_ports"]["inputs"] == [
        {"name": "image", "shape": [1, 3, 64, 64], "type": "tensor(float)"}
    ]
    assert [p["name"] for p in data["io_ports"]["outputs"]] == ["bboxes", "labels", "scores"]


def test_the_card_has_the_ports(packed):
    card = packed.card.read_text()
    assert "- input `image` tensor(float) [1, 3, 64, 64]" in card
    assert "- output `bboxes` tensor(float) [1, nbox, 4]" in card


@pytest.mark.parametrize(
    "name", ["", "../out", "a/b", "a\\b", ".hidden", "a\0b", "a b", "a(b", "a|b"]
)
def test_names_that_are_no_file_names(tiny_model, tmp_path, name):
    with pytest.raises(OptionError, match="expected the beginning of a file name"):
        package(tiny_model, output=tmp_path, picture=read_image(PICTURE), name=name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a" * 80, "\u00fc" * 40])
def test_the_longest_names(tiny_model, tmp_path, name):
    """With the longest opset and suffix there is."""
    assert len(f"{name}-99-int8.onnx".encode()) < 100  # where USTAR's field ends
    written = package(tiny_model, output=tmp_path, picture=read_image(PICTURE), name=name)
    with tarfile.open(written.tarball) as archive:
        assert f"{name}-12/{name}-12.onnx" in archive.getnames()


@pytest.mark.parametrize("name", ["a" * 81, "a" * 100, "\u00fc" * 41])
def test_names_that_are_too_long(tiny_model, tmp_path, name):
    size = len(name.encode())
    with pytest.raises(OptionError, match=f"at most 80 bytes, got {size}; give a shorter --name"):
        package(tiny_model, output=tmp_path, picture=read_image(PICTURE), name=name)
    assert list(tmp_path.iterdir()) == []


def test_somebody_elses_readme_is_not_replaced_unasked(tiny_model, tmp_path):
    readme, picture = tmp_path / "README.md", read_image(PICTURE)
    readme.write_text("# My project\n\nIts models are made with ssd34.\n")
    before = content(tmp_path)
    with pytest.raises(OptionError, match=r"README\.md: .*move it away.*--replace"):
        package(tiny_model, output=tmp_path, picture=picture)
    assert content(tmp_path) == before
    package(tiny_model, output=tmp_path, picture=picture, replace=True)
    # One of ours, with a line of its owner's, is made again without a question.
    readme.write_text(readme.read_text() + "\nThanks to all.\n")
    package(tiny_model, output=tmp_path, picture=picture)
    assert "| [tiny-12.onnx]" in readme.read_text() and "Thanks" not in readme.read_text()


def test_what_was_packed_verifies(packed):
    for target in (packed.tarball, packed.model):
        assert verify(target).passed


def test_equal_input_gives_equal_bytes(packed, tiny_model, tmp_path):
    again = package(tiny_model, output=tmp_path, picture=read_image(PICTURE), name="shapes")
    for ours, theirs in ((again.model, packed.model), (again.tarball, packed.tarball),
                         (again.manifest, packed.manifest), (again.card, packed.card)):  # fmt: skip
        assert ours.read_bytes() == theirs.read_bytes(), ours.name


def measurement(model, path, **changes):
    values = {
        "model_sha256": sha256_of(model),
        "data": "/somewhere/val.zip",
        "policy": "zoo",
        "pictures": 12,
        "summary": {"AP": 0.12345, "AP50": 0.3},
    }
    path.write_text(json.dumps({**values, **changes}))
    return path


def test_the_card_is_filled_from_measurements_of_this_file_only(tiny_model, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    ours = measurement(tiny_model, tmp_path / "a.json")
    other = measurement(PICTURE, tmp_path / "b.json", summary={"AP": 0.9, "AP50": 0.9})
    written = package(
        tiny_model, output=output, picture=read_image(PICTURE), measured=[ours, other]
    )
    card = written.card.read_text()
    [row] = [line for line in card.splitlines() if line.startswith("| [tiny-12.onnx]")]
    assert [cell.strip() for cell in row.split("|")][5:9] == ["12", "0.1235", "0.3000", ""]
    assert "12 pictures of val.zip, zoo" in card
    assert "0.9" not in card.replace("0.95", "")


def timing(model, path, **changes):
    """As ``ssd34 benchmark --json`` writes it, of three models."""

    def result(digest, milliseconds, threads):
        return {
            "model_sha256": digest, "network_ms": {"median": milliseconds}, "threads": threads,
            "engine": "onnxruntime", "engine_version": "1.27",
        }  # fmt: skip

    ours = sha256_of(model)
    results = [result("0" * 64, 9.0, 1), result(ours, 12.34, 2), result(ours, 99.0, 1)]
    values = {"scenario": "single-stream", "cpu": {"model": "Some CPU"}, "results": results}
    path.write_text(json.dumps(values | changes))
    return path


def test_the_card_has_the_time_of_this_file_only(tiny_model, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    files = [measurement(tiny_model, tmp_path / "a.json"), timing(tiny_model, tmp_path / "b.json")]
    written = package(tiny_model, output=output, picture=read_image(PICTURE), measured=files)
    [row] = [x for x in written.card.read_text().splitlines() if x.startswith("| [tiny-12.onnx]")]
    assert [cell.strip() for cell in row.split("|")][6:9] == ["0.1235", "0.3000", "12.3 (2)"]
    assert (
        "\nNetwork time: median of one run on Some CPU, onnxruntime 1.27.\n"
        in written.card.read_text()
    )


def test_a_second_model_joins_manifest_and_card(tiny_model, tiny_raw_model, tmp_path):
    picture = read_image(PICTURE)
    first = measurement(tiny_model, tmp_path / "a.json")
    output = tmp_path / "out"
    output.mkdir()
    package(tiny_model, output=output, picture=picture, name="a", measured=[first])
    written = package(tiny_raw_model, output=output, picture=picture, name="b")
    entries = json.loads(written.manifest.read_text())
    assert [e["model_path"] for e in entries] == ["a-12.onnx", "b-12.onnx"]
    card = written.card.read_text()
    assert "| [a-12.onnx]" in card
    assert "0.1235" in card
    assert "| [b-12.onnx]" in card


def test_bad_measurements_are_refused_before_anything_is_written(tiny_model, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    (tmp_path / "text.json").write_text("0.2")
    broken = measurement(tiny_model, tmp_path / "broken.json", summary={"AP": 0.1})
    defect = measurement(tiny_model, tmp_path / "defect.json", metric="zoo-2021")
    policies = measurement(tiny_model, tmp_path / "policies.json", policies={})
    cut = measurement(tiny_model, tmp_path / "cut.json", policy="best", tail_cut=True)
    fast = measurement(tiny_model, tmp_path / "fast.json", preprocess="fast")
    twice = [measurement(tiny_model, tmp_path / f"{k}.json") for k in range(2)]
    times = [timing(tiny_model, tmp_path / f"times{k}.json") for k in range(2)]
    few = measurement(tiny_model, tmp_path / "few.json", classes=["disc", "cross"])
    nothing = measurement(tiny_model, tmp_path / "nothing.json", summary={"AP": None, "AP50": None})
    untimed = [{"model_sha256": sha256_of(tiny_model), "threads": 2}]
    offline = timing(tiny_model, tmp_path / "offline.json", scenario="offline", results=untimed)
    server = timing(tiny_model, tmp_path / "server.json", scenario="server", results=untimed)
    loadgen = timing(tiny_model, tmp_path / "loadgen.json", loadgen=True, results=untimed)
    for files, message in (
        ([tmp_path / "text.json"], "not a measurement"),
        (times, "second latency"),
        ([timing(tiny_model, tmp_path / "o.json", results=untimed)], "without 'network_ms'"),
        ([offline], "expected a single-stream benchmark, got offline; measure without --scen"),
        ([server], "expected a single-stream benchmark, got server; measure without --scen"),
        ([loadgen], "single-stream benchmark, got one by LoadGen.*measure without --loadgen"),
        ([few], "all classes, got that of disc, cross only; measure without --class"),
        ([nothing], "got null: there were no objects to find; measure on data with objects"),
        ([timing(tiny_model, tmp_path / "n.json", results=None)], "measure again"),
        ([broken], "without 'AP50'"),
        (twice, "second accuracy"),
        ([defect], "zoo-2021, whose numbers are not COCO's"),
        ([policies], "--policy all"),
        ([fast], "--preprocess fast"),
        ([cut], "policy best"),
    ):
        with pytest.raises(OptionError, match=message):
            package(tiny_model, output=output, picture=read_image(PICTURE), measured=files)
    assert list(output.iterdir()) == []


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        ("timing", {"scenario": "offline"}, "got offline"),
        ("timing", {"results": [{"model_sha256": "0" * 64, "threads": 1}]}, "without 'network_ms'"),
        ("measurement", {"classes": ["disc"]}, "measure without --class"),
    ],
)
def test_a_bad_measurement_of_another_model_is_not_kept(
    tiny_model, tmp_path, make, changes, message
):
    """What is kept has to be good the day that the other model is packaged."""
    makes = {"timing": timing, "measurement": measurement}
    file = makes[make](PICTURE, tmp_path / "other.json", **changes)
    with pytest.raises(OptionError, match=message):
        package(tiny_model, output=tmp_path / "out", picture=read_image(PICTURE), measured=[file])
    assert not (tmp_path / "out").exists()


def test_the_card_says_which_file_has_which_accuracy(tiny_model, tiny_raw_model, tmp_path):
    output, picture = tmp_path / "out", read_image(PICTURE)
    first = measurement(tiny_model, tmp_path / "a.json")
    other = {"data": "/else/small.zip", "pictures": 5, "unreadable": 2, "engine": "openvino"}
    second = measurement(tiny_raw_model, tmp_path / "b.json", **other)
    alone = package(tiny_model, output=output, picture=picture, name="a", measured=[first])
    text = "COCO box AP over IoU 0.50 to 0.95, 12 pictures of val.zip, zoo."
    assert f"\nAP: {text}\n" in alone.card.read_text()
    both = package(tiny_raw_model, output=output, picture=picture, name="b", measured=[second])
    card = both.card.read_text()
    assert f"\nAP of a-12.onnx: {text}\n" in card
    assert (
        "\nAP of b-12.onnx: COCO box AP over IoU 0.50 to 0.95, 5 pictures of small.zip, 2 of them "
        "unreadable and counted as empty, zoo, run by openvino.\n"
    ) in card


def test_what_does_not_verify_is_not_packaged(tiny_model, tmp_path):
    """A file whose metadata names another network than its graph holds."""
    model = onnx.load(tiny_model)
    for entry in model.metadata_props:
        if entry.key == "ssd34.spec":
            entry.value = entry.value.replace('"image_size":64', '"image_size":96')
    onnx.save(model, tmp_path / "other.onnx")
    output = tmp_path / "out"
    output.mkdir()
    with pytest.raises(ModelError):
        package(tmp_path / "other.onnx", output=output, picture=read_image(PICTURE))
    assert list(output.iterdir()) == []


def test_the_command(tiny_model, tmp_path):
    arguments = ["package", str(tiny_model), "--output", str(tmp_path / "out"), "--picture",
                 str(PICTURE)]  # fmt: skip
    result = CliRunner().invoke(commands, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "tiny-12.tar.gz" in result.output
    assert "license:" not in (tmp_path / "out" / "README.md").read_text()
    arguments[1:4] = ["default-float", "--output", str(tmp_path / "ours")]
    assert CliRunner().invoke(commands, arguments, catch_exceptions=False).exit_code == 0
    assert "\nlicense: apache-2.0\n" in (tmp_path / "ours" / "README.md").read_text()


def test_the_same_model_is_packaged_again(tiny_model, tmp_path):
    for picture in ("coffee.jpg", "chelsea.jpg"):
        written = package(tiny_model, output=tmp_path, picture=read_image(EXAMPLES / picture))
    [entry] = json.loads(written.manifest.read_text())
    assert entry["metadata"]["model_with_data_sha"] == digest(written.tarball)


def test_another_model_of_the_same_name_is_refused(tiny_model, tiny_raw_model, tmp_path):
    picture = read_image(PICTURE)
    package(tiny_model, output=tmp_path, picture=picture, name="a")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(OptionError, match=r"a-12\.onnx: is another model.*--name.*--replace"):
        package(tiny_raw_model, output=tmp_path, picture=picture, name="a")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_asked_to_it_takes_the_place_of_the_old_one(tiny_model, tiny_raw_model, tmp_path):
    picture = read_image(PICTURE)
    package(tiny_model, output=tmp_path, picture=picture, name="a")
    written = package(tiny_raw_model, output=tmp_path, picture=picture, name="a", replace=True)
    [entry] = json.loads(written.manifest.read_text())
    assert entry["metadata"]["model_sha"] == digest(tiny_raw_model)
    assert verify(written.tarball).passed


def test_a_new_measurement_takes_the_place_of_the_old_one(tiny_model, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    picture = read_image(PICTURE)
    for ap in (0.1, 0.2):
        accuracy = measurement(tiny_model, tmp_path / f"{ap}.json", summary={"AP": ap, "AP50": ap})
        measured = [accuracy, timing(tiny_model, tmp_path / "t.json")]
        written = package(tiny_model, output=output, picture=picture, measured=measured)
    assert "| 0.2000 | 0.2000 | 12.3 (2) |" in written.card.read_text()
    card = written.card.read_bytes()
    # The card can be made again from what is kept.
    assert package(tiny_model, output=output, picture=picture).card.read_bytes() == card


def test_a_new_time_of_one_model_leaves_those_of_the_others(tiny_model, tiny_raw_model, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    picture = read_image(PICTURE)
    both = json.loads(timing(tiny_model, tmp_path / "a.json").read_text())
    changes = {"model_sha256": sha256_of(tiny_raw_model), "network_ms": {"median": 7.0}}
    row = {**both["results"][0], **changes}
    (tmp_path / "a.json").write_text(json.dumps({**both, "results": [*both["results"], row]}))
    row = {**row, "model_sha256": sha256_of(tiny_model), "network_ms": {"median": 5.0}}
    other = {**both, "cpu": {"model": "Other CPU"}, "results": [row]}
    (tmp_path / "b.json").write_text(json.dumps(other))
    for file in ("a.json", "b.json"):
        package(tiny_model, output=output, picture=picture, name="a", measured=[tmp_path / file])
    card = package(tiny_raw_model, output=output, picture=picture, name="b").card.read_text()
    assert "| 5.0 (1) |" in card and "| 7.0 (1) |" in card
    assert "Network time of a-12.onnx: median of one run on Other CPU, onnxruntime 1.27." in card
    assert "Network time of b-12.onnx: median of one run on Some CPU, onnxruntime 1.27." in card


def test_the_card_has_the_ports_of_every_file(tiny_model, tiny_raw_model, tmp_path):
    """Where they differ, by file; each kind once."""
    picture = read_image(PICTURE)
    package(tiny_model, output=tmp_path, picture=picture, name="a")
    package(tiny_model, output=tmp_path, picture=picture, name="b")
    card = package(tiny_raw_model, output=tmp_path, picture=picture, name="c").card.read_text()
    ports = card.split("## Input and outputs")[1].split("##")[0]
    tails, raw = ports.split("`c-12.onnx`:")
    assert "`a-12.onnx`, `b-12.onnx`:\n\n- input `image` tensor(float) [1, 3, 64, 64]\n" in tails
    assert "`scores`" in tails and "`loc`" not in tails
    assert "- input `image` tensor(float) [batch, 3, 64, 64]" in raw
    assert "`loc`" in raw and "`scores`" not in raw


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spec": tiny_spec().at_size(96)}, r"a-12\.onnx: is of another network \(tiny, 3 classes"),
        ({"labels": LabelSet(("a", "b", "c"), (1, 2, 3))}, r"a-12\.onnx: is of other classes"),
    ],
)
def test_another_network_needs_another_folder(tiny_checkpoint, tmp_path, change, message):
    """The card describes one network and its classes."""
    output = tmp_path / "out"
    output.mkdir()
    for name, checkpoint in (
        ("a", tiny_checkpoint), ("b", dataclasses.replace(tiny_checkpoint, **change))
    ):  # fmt: skip
        save_model(onnx_model(checkpoint, ExportOptions()), tmp_path / f"{name}.onnx")
    picture = read_image(PICTURE)
    package(tmp_path / "a.onnx", output=output, picture=picture, name="a")
    before = content(output)
    with pytest.raises(OptionError, match=f"{message}.*into another folder"):
        package(tmp_path / "b.onnx", output=output, picture=picture, name="b")
    assert content(output) == before
    package(tmp_path / "b.onnx", output=output, picture=picture, name="a", replace=True)


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_kept_measurement_that_is_broken_changes_nothing(tiny_model, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    good = measurement(tiny_model, tmp_path / "a.json")
    package(tiny_model, output=output, picture=read_image(PICTURE), measured=[good])
    [kept] = (output / "measurements").iterdir()
    kept.write_text("{")
    before = content(output)
    other = read_image(EXAMPLES / "chelsea.jpg")
    with pytest.raises(OptionError, match=f"{kept.name}: not JSON"):
        package(tiny_model, output=output, picture=other)
    assert content(output) == before
    package(tiny_model, output=output, picture=other, measured=[good])


@pytest.mark.parametrize(
    "broken", ["{", "{}", '[{"model_path": "b-12.onnx"}]', '[{"model_path": 5}]']
)
def test_a_broken_manifest_changes_nothing(tiny_model, tmp_path, broken):
    written = package(tiny_model, output=tmp_path, picture=read_image(PICTURE), name="a")
    written.manifest.write_text(broken)
    before = content(tmp_path)
    with pytest.raises(ModelError, match=r"ONNX_HUB_MANIFEST\.json"):
        package(tiny_model, output=tmp_path, picture=read_image(EXAMPLES / "chelsea.jpg"), name="a")
    assert content(tmp_path) == before


def test_an_int8_model(tmp_path):
    """What is recorded is what the runtime computes in int8, on this processor and on others."""
    written = package(model_path("default"), output=tmp_path, picture=read_image(PICTURE))
    assert written.model.name == "ssd300-resnet34-13-qdq.onnx"
    verification = verify(written.tarball, require_test_data=True)
    [values] = [c for c in verification.checks if c.name == "test_data_set_0 values"]
    assert verification.passed and "largest score difference 0 " in values.detail


def test_the_licence_is_stated_kept_or_left_out(tiny_model, tmp_path):
    """It is that of the weights, which only their owner knows."""
    picture = read_image(PICTURE)
    card = package(tiny_model, output=tmp_path, picture=picture).card
    assert card.read_text().startswith("---\nlibrary_name: onnx\n")
    for licence in ("CC-BY-4.0", None):
        package(tiny_model, output=tmp_path, picture=picture, licence=licence)
        assert card.read_text().startswith("---\nlicense: cc-by-4.0\nlibrary_name: onnx\n")
    with pytest.raises(OptionError, match="expected an identifier, such as apache"):
        package(tiny_model, output=tmp_path, picture=picture, licence="my own: free")


def test_a_refusal_is_one_line_and_makes_no_folder(tiny_model, tmp_path, monkeypatch):
    failed = Verification(tiny_model, (check("values", ["first", "second", "third"], ""),))
    monkeypatch.setattr("ssd34.deploy.publish.package.verify", lambda *_, **__: failed)
    with pytest.raises(ModelError) as caught:
        package(tiny_model, output=tmp_path / "a" / "b", picture=read_image(PICTURE))
    assert str(caught.value) == "not packaged: values: first, and 2 more"
    assert list(tmp_path.iterdir()) == []
