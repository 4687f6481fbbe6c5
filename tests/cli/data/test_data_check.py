from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from ssd34.cli.app import commands
from ssd34.errors import DatasetError, OptionError
from tests.conftest import shapes_dataset


def run(*arguments):
    return CliRunner().invoke(commands, ["data", "check", *map(str, arguments)])


@pytest.fixture
def broken(tmp_path):
    """One truncated picture of three."""
    folder = shapes_dataset(tmp_path / "broken", pictures=3, seed=5)
    file = folder / "images" / "0002.png"
    file.write_bytes(file.read_bytes()[:2000])
    return folder


def test_a_clean_set(shapes, tmp_path):
    sheet = tmp_path / "sheet.png"
    result = run(shapes, "--sheet", sheet)
    assert result.exit_code == 0
    assert "nothing wrong found" in result.stdout
    assert "no sheet written" in result.stderr and not sheet.exists()


def test_the_table_says_what_is_wrong(shapes, broken):
    result = run(shapes, broken)
    assert result.exit_code == 1
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "pictures 12 3" in lines
    assert any(line.startswith("unreadable picture 1 broken: 0002.png: ") for line in lines)
    assert any(line.startswith("class (3) ") for line in lines)


def test_sheet_and_json(shapes, broken, tmp_path):
    sheet, values = tmp_path / "sheet.png", tmp_path / "check.json"
    result = run(broken, shapes, "--sheet", sheet, "--json", values, "--threads", "2")
    assert result.exit_code == 1
    read = json.loads(values.read_text())
    assert [data["pictures"] for data in read["data"]] == [3, 12]
    assert read["counts"] == {"unreadable picture": 1}
    assert read["findings"][0]["where"] == "0002.png"
    with Image.open(sheet) as image:
        assert image.format == "PNG" and image.width > 300


def test_all_splits_are_compared(tmp_path):
    """YOLO's val has a picture of train; only val is clean in itself."""
    folder = tmp_path / "set"
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        Image.linear_gradient("L").save(folder / "images" / split / f"{split}.png")
        (folder / "labels" / split / f"{split}.txt").write_text("0 .5 .5 .5 .5\n")
    (folder / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [a]\n")
    result = run(folder)
    assert result.exit_code == 1
    assert "picture in two sets" in result.stdout
    assert run(f"{folder}@val").exit_code == 0


def test_vocs_trainval_is_no_leak(tmp_path):
    folder = tmp_path / "VOC"
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for stem in ("1", "2"):
        Image.new("RGB", (40, 30), (int(stem), 0, 0)).save(folder / f"JPEGImages/{stem}.jpg")
        (folder / f"Annotations/{stem}.xml").write_text(
            f"<annotation><filename>{stem}.jpg</filename>"
            "<size><width>40</width><height>30</height><depth>3</depth></size>"
            "<object><name>cat</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>20</xmax>"
            "<ymax>20</ymax></bndbox></object></annotation>"
        )
    for split, stems in (("train", "1\n"), ("val", "2\n"), ("trainval", "1\n2\n")):
        (folder / f"ImageSets/Main/{split}.txt").write_text(stems)
    result = run(folder)
    assert result.exit_code == 0, result.output
    shutil.copy(folder / "JPEGImages/1.jpg", folder / "JPEGImages/2.jpg")
    assert run(folder).exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "error"),
    [(("--sheet", "sheet.jpg"), "expected a file name that ends in .png"),
     (("--sheet", "nowhere/sheet.png"), "expected a file to write in a folder that exists"),
     (("--json", "."), "expected a file to write in a folder that exists")],
)  # fmt: skip
def test_misuse_is_told_before_the_work(shapes, arguments, error):
    result = run(shapes, *arguments)
    assert isinstance(result.exception, OptionError)
    assert error in str(result.exception)
    assert result.stdout == ""


@pytest.mark.parametrize("form", ["zip", "file", "folder"])
def test_outputs_over_inputs_are_refused(tmp_path, form):
    folder = shapes_dataset(tmp_path / "set", pictures=2)
    picture = next((folder / "images").iterdir())
    archive = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", folder))
    path, kept = {
        "zip": (archive, archive),
        "file": (folder / "instances.json", folder / "instances.json"),
        "folder": (folder, folder / "instances.json"),
    }[form]
    before = kept.read_bytes()
    refused = [run(path, "--json", kept)]
    if form != "zip":
        refused.append(run(path, "--sheet", picture))
    for result in refused:
        assert isinstance(result.exception, OptionError)
        assert "not read here" in str(result.exception)
    assert kept.read_bytes() == before
    twice = run(path, "--json", tmp_path / "a.png", "--sheet", tmp_path / "a.png")
    assert "written twice" in str(twice.exception)


def test_what_is_no_data_set_is_told():
    assert isinstance(run("nowhere.zip").exception, DatasetError)
    assert run().exit_code == 2
