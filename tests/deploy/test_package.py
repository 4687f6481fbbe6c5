import hashlib
import json
import tarfile

import onnx
import pytest
from click.testing import CliRunner

from ssd34.cli.app import commands
from ssd34.data.checksum import sha256_of
from ssd34.data.image_io import read_image
from ssd34.deploy.package import package
from ssd34.deploy.verify import verify
from ssd34.errors import ModelError, OptionError
from tests.conftest import EXAMPLES

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


@pytest.mark.parametrize("name", ["", "../out", "a/b", "a\\b", ".hidden", "a\0b"])
def test_names_that_are_no_file_names(tiny_model, tmp_path, name):
    with pytest.raises(OptionError, match="expected the beginning of a file name"):
        package(tiny_model, output=tmp_path, picture=read_image(PICTURE), name=name)
    assert list(tmp_path.iterdir()) == []


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
    assert card.startswith("---\nlicense: apache-2.0\n")
    [row] = [line for line in card.splitlines() if line.startswith("| [tiny-12.onnx]")]
    assert [cell.strip() for cell in row.split("|")][5:9] == ["12", "0.1235", "0.3000", ""]
    assert "12 pictures of val.zip, zoo" in card
    assert "0.9" not in card.replace("0.95", "")


def timing(model, path, **changes):
    """As ``ssd34 benchmark --json`` writes it, of three models."""

    def result(digest, milliseconds, threads):
        return {
            "model_sha256": digest, "network_ms": {"median": milliseconds}, "threads": threads
        }  # fmt: skip

    ours = sha256_of(model)
    results = [result("0" * 64, 9.0, 1), result(ours, 12.34, 2), result(ours, 99.0, 1)]
    path.write_text(json.dumps({"scenario": "single-stream", "results": results} | changes))
    return path


def test_the_card_has_the_time_of_this_file_only(tiny_model, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    files = [measurement(tiny_model, tmp_path / "a.json"), timing(tiny_model, tmp_path / "b.json")]
    written = package(tiny_model, output=output, picture=read_image(PICTURE), measured=files)
    [row] = [x for x in written.card.read_text().splitlines() if x.startswith("| [tiny-12.onnx]")]
    assert [cell.strip() for cell in row.split("|")][6:9] == ["0.1235", "0.3000", "12.3 (2)"]


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
    twice = [measurement(tiny_model, tmp_path / f"{k}.json") for k in range(2)]
    times = [timing(tiny_model, tmp_path / f"times{k}.json") for k in range(2)]
    offline = [{"model_sha256": sha256_of(tiny_model), "threads": 2}]
    for files, message in (
        ([tmp_path / "text.json"], "not a measurement"),
        (times, "second latency"),
        ([timing(tiny_model, tmp_path / "o.json", results=offline)], "without 'network_ms'"),
        ([timing(tiny_model, tmp_path / "n.json", results=None)], "measure again"),
        ([broken], "without 'AP50'"),
        (twice, "second accuracy"),
        ([defect], "zoo-2021, whose numbers are not COCO's"),
        ([policies], "--policy all"),
        ([cut], "measured under the policy best instead of the model's own tail"),
    ):
        with pytest.raises(OptionError, match=message):
            package(tiny_model, output=output, picture=read_image(PICTURE), measured=files)
    assert list(output.iterdir()) == []


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
