from __future__ import annotations

import csv
import errno
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper
from PIL import Image

from ssd34.cli import app
from ssd34.cli.console import INTERRUPTED
from ssd34.errors import OptionError, Ssd34Error
from ssd34.runtime.detector import Detector
from tests.conftest import TINY_LABELS

# The tiny network's scores are all below 0.5; this keeps some of the two hundred detections.
SCORE = "0.37"


def picture(seed=0, height=50, width=70):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    return Image.fromarray(pixels)


def save_picture(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    form = {"quality": 95} if path.suffix == ".jpg" else {}
    picture(seed).save(path, **form)
    return path


@pytest.fixture
def pictures(tmp_path):
    """Three pictures, one in a nested folder, and a file that is none."""
    root = tmp_path / "pictures"
    for seed, name in enumerate(("a.png", "b.jpg", "nested/a.png")):
        save_picture(root / name, seed)
    (root / "notes.txt").write_text("not a picture")
    return root


@pytest.fixture
def detect(tiny_model):
    """Run `ssd34 detect` in this process; errors come out as they are raised."""

    def run(*arguments):
        command = ["detect", "--model", str(tiny_model), "--score", SCORE]
        result = CliRunner().invoke(
            app.commands, [*command, *map(str, arguments)], catch_exceptions=False
        )
        assert result.exit_code == 0, result.output
        return result

    return run


@pytest.fixture
def main(tiny_model, monkeypatch, capfd):
    """Run the whole command as its entry point does; returns exit code, stdout and stderr."""

    def run(*arguments, model=tiny_model):
        command = ["ssd34", "detect", "--model", str(model), "--score", SCORE]
        monkeypatch.setattr(sys, "argv", [*command, *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            app.main()
        code = caught.value.code
        out, err = capfd.readouterr()
        return 0 if code is None else code, out, err

    return run


def command_line(*arguments, environment=None, **options):
    return subprocess.run(
        [sys.executable, "-m", "ssd34", *map(str, arguments)],
        capture_output=True,
        timeout=60,
        env=os.environ | (environment or {}),
        check=False,
        **options,
    )


def expected_in(path, model, *, score=float(SCORE)):
    return Detector.load(model).detect(path, score=score)


def assert_one_error_line(err):
    assert err.endswith("\n") and err.count("\n") == 1, err
    assert err.startswith("error: ")
    assert "Traceback" not in err


def assert_no_leftovers(folder):
    assert [path for path in folder.rglob("*") if path.suffix == ".part"] == []


# --- formats --------------------------------------------------------------------------------


def test_table(detect, pictures, tiny_model):
    out = detect(pictures / "a.png").stdout
    found = expected_in(pictures / "a.png", tiny_model)
    assert len(found) > 3
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in out.splitlines()
        if line.startswith("│")
    ]
    assert len(rows) == len(found)
    assert rows[0][0] == "a.png" and all(row[0] == "" for row in rows[1:])
    assert [row[1] for row in rows] == list(found.names)
    assert [row[2] for row in rows] == [f"{score:.0%}" for score in found.scores.tolist()]
    corners = [[int(cell) for cell in row[3:]] for row in rows]
    np.testing.assert_allclose(corners, found.boxes, atol=0.51)


def test_table_of_a_picture_without_objects(detect, pictures):
    out = detect(pictures / "a.png", "--score", "1").stdout
    assert re.search(r"│ a\.png +│ - ", out)


def test_table_shows_file_names_as_they_are(detect, tmp_path):
    name = "[red]:dog:.png"
    out = detect(save_picture(tmp_path / name), "--score", "1").stdout
    assert name in out


def test_table_of_a_folder_shows_relative_names(detect, pictures):
    out = detect(pictures, "--score", "1").stdout
    names = re.findall(r"^│ (\S+) ", out, re.MULTILINE)
    assert names == ["a.png", "b.jpg", str(Path("nested", "a.png"))]


@pytest.mark.parametrize(("name", "begins"), [("x.json", "{"), ("x.CSV", "file,"), ("x.txt", "┏")])
def test_the_ending_of_the_output_decides(detect, pictures, tmp_path, name, begins):
    detect(pictures / "a.png", "--output", tmp_path / name)
    assert (tmp_path / name).read_text().startswith(begins)


def test_json(detect, pictures, tiny_model):
    values = json.loads(detect(pictures, "--format", "json").stdout)
    assert values["model"] == str(tiny_model) and values["failed"] == []
    files = [pictures / "a.png", pictures / "b.jpg", pictures / "nested" / "a.png"]
    assert [entry["file"] for entry in values["pictures"]] == [str(file) for file in files]
    for entry, file in zip(values["pictures"], files, strict=True):
        found = expected_in(file, tiny_model)
        assert (entry["width"], entry["height"]) == (70, 50)
        assert [k["name"] for k in entry["detections"]] == list(found.names)
        np.testing.assert_allclose([k["box"] for k in entry["detections"]], found.boxes, atol=0.006)
        np.testing.assert_allclose(
            [k["score"] for k in entry["detections"]], found.scores, atol=1e-5
        )


def test_csv(detect, tmp_path, tiny_model):
    file = save_picture(tmp_path / "one, two.png")
    rows = list(csv.DictReader(io.StringIO(detect(file, "--format", "csv").stdout)))
    found = expected_in(file, tiny_model)
    assert len(rows) == len(found) > 0
    assert {row["file"] for row in rows} == {str(file)}
    assert [row["name"] for row in rows] == list(found.names)
    corners = [[float(row[k]) for k in ("left", "top", "right", "bottom")] for row in rows]
    np.testing.assert_allclose(corners, found.boxes, atol=0.006)


def test_csv_has_one_header_for_all_pictures(detect, pictures):
    lines = detect(pictures, "--format", "csv").stdout.splitlines()
    assert [k for k, line in enumerate(lines) if line.startswith("file,label")] == [0]


def test_coco_takes_image_ids_from_numbered_names(detect, tmp_path, tiny_model):
    for seed, name in enumerate(("000000000139.png", "17.png")):
        save_picture(tmp_path / "set" / name, seed)
    results = json.loads(detect(tmp_path / "set", "--format", "coco").stdout)
    assert {(r["image_id"], Path(r["file_name"]).name) for r in results} == {
        (139, "000000000139.png"),
        (17, "17.png"),
    }
    found = expected_in(tmp_path / "set" / "17.png", tiny_model)
    own = [r for r in results if r["image_id"] == 17]
    ids = dict(zip(TINY_LABELS.names, TINY_LABELS.category_ids, strict=True))
    assert [r["category_id"] for r in own] == [ids[name] for name in found.names]
    sizes = found.boxes[:, 2:] - found.boxes[:, :2]
    np.testing.assert_allclose([r["bbox"][2:] for r in own], sizes, atol=0.006)
    np.testing.assert_allclose([r["bbox"][:2] for r in own], found.boxes[:, :2], atol=0.006)


@pytest.mark.parametrize("names", [("7.png", "x.png"), ("1/7.png", "2/7.png"), ("7.png", "07.jpg")])
def test_coco_counts_pictures_where_names_are_no_unique_numbers(detect, tmp_path, names):
    for seed, name in enumerate(names):
        save_picture(tmp_path / "set" / name, seed)
    results = json.loads(detect(tmp_path / "set", "--format", "coco").stdout)
    assert {r["image_id"] for r in results} == {1, 2}
    assert len({r["file_name"] for r in results}) == 2


def test_yolo_on_stdout(detect, pictures, tiny_model):
    lines = detect(pictures, "--format", "yolo").stdout.splitlines()
    heads = [line for line in lines if line.startswith("#")]
    assert heads == [f"# {pictures / name}" for name in ("a.png", "b.jpg", "nested/a.png")]
    first = [line.split() for line in lines[1 : lines.index(heads[1])]]
    found = expected_in(pictures / "a.png", tiny_model)
    assert [int(cells[0]) for cells in first] == [label - 1 for label in found.labels.tolist()]
    centre = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2 / (70, 50)
    np.testing.assert_allclose([[float(c) for c in k[1:3]] for k in first], centre, atol=1e-5)


# --- sources --------------------------------------------------------------------------------


def files_in(result):
    return [entry["file"] for entry in json.loads(result.stdout)["pictures"]]


def test_several_sources_and_patterns(detect, pictures):
    result = detect(
        pictures / "nested", pictures / "*.jpg", pictures / "nested" / "a.png", "--format", "json"
    )
    assert files_in(result) == [str(pictures / "nested" / "a.png"), str(pictures / "b.jpg")]


def test_one_pixel(detect, tmp_path):
    file = tmp_path / "dot.png"
    Image.new("RGB", (1, 1), "red").save(file)
    values = json.loads(detect(file, "--format", "json", "--save", tmp_path / "out").stdout)
    entry = values["pictures"][0]
    assert (entry["width"], entry["height"]) == (1, 1)
    assert all(0 <= v <= 1 for found in entry["detections"] for v in found["box"])
    with Image.open(tmp_path / "out" / "dot.png") as saved:
        assert saved.size == (1, 1)


def test_exif_rotated_picture_is_measured_as_seen(detect, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture().save(tmp_path / "a.png", exif=exif)
    entry = json.loads(detect(tmp_path / "a.png", "--format", "json").stdout)["pictures"][0]
    assert (entry["width"], entry["height"]) == (50, 70)


# --- options --------------------------------------------------------------------------------


def test_class_keeps_only_that_class(detect, pictures, tiny_model):
    everything = expected_in(pictures / "a.png", tiny_model, score=0)
    assert len(set(everything.names)) == 3

    def names(*options):
        command = (pictures / "a.png", "--format", "json", "--score", "0", *options)
        values = json.loads(detect(*command).stdout)
        return [found["name"] for found in values["pictures"][0]["detections"]]

    for name in TINY_LABELS.names:
        assert names("--class", name) == [n for n in everything.names if n == name]
    both = names("--class", "cross", "--class", "square")
    assert both == [n for n in everything.names if n in ("cross", "square")]


def test_unknown_class_hints_at_the_known_ones(detect, pictures):
    with pytest.raises(Ssd34Error, match=r"'squar'.*square"):
        detect(pictures, "--class", "squar")


def test_max_pixels(detect, pictures):
    with pytest.raises(
        Ssd34Error, match=r"more than the limit of 3499; .*, or raise the limit with --max-pixels$"
    ):
        detect(pictures / "a.png", "--max-pixels", "3499")
    detect(pictures / "a.png", "--max-pixels", "3500")


def test_output_writes_what_would_be_printed(detect, pictures, tmp_path):
    for form in ("json", "table"):
        target = tmp_path / f"result.{form}"
        target.write_text("old")
        printed = detect(pictures, "--format", form).stdout
        result = detect(pictures, "--format", form, "--output", target)
        assert result.stdout == ""
        assert target.read_text(encoding="utf-8") == printed
    assert_no_leftovers(tmp_path)


def test_output_in_yolo_format_is_a_folder(detect, pictures, tmp_path):
    target = tmp_path / "labels"
    printed = detect(pictures, "--format", "yolo").stdout
    assert detect(pictures, "--format", "yolo", "--output", target).stdout == ""
    written = sorted(path.relative_to(target).as_posix() for path in target.rglob("*.*"))
    assert written == ["a.txt", "b.txt", "nested/a.txt"]
    joined = "".join(
        f"# {pictures / source}\n{(target / name).read_text()}"
        for source, name in (
            ("a.png", "a.txt"), ("b.jpg", "b.txt"), ("nested/a.png", "nested/a.txt")
        )
    )  # fmt: skip
    assert joined == printed


@pytest.mark.parametrize(
    ("names", "sources"),
    [
        (("set/a.png", "set/a.jpg"), ("set",)),
        (("one/a.png", "two/a.png"), ("one", "two")),
    ],
)
def test_yolo_files_of_pictures_with_the_same_name_are_all_kept(detect, tmp_path, names, sources):
    for seed, name in enumerate(names):
        save_picture(tmp_path / name, seed)
    target = tmp_path / "labels"
    detect(*(tmp_path / s for s in sources), "--format", "yolo", "--output", target)
    written = list(target.rglob("*.txt"))
    assert len(written) == 2
    assert len({path.read_text() for path in written}) == 2


# --- saving pictures ------------------------------------------------------------------------


def saved_in(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize("way", ["card", "fast"])
@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_saving_does_not_change_what_is_found(detect, tmp_path, way, name):
    large = Image.fromarray(np.kron(np.asarray(picture(5)), np.ones((14, 14, 1), np.uint8)))
    exif = Image.Exif()
    exif[0x0112] = 6
    large.save(tmp_path / name, exif=exif)
    arguments = (tmp_path / name, "--preprocess", way, "--format", "json")
    alone = detect(*arguments).stdout
    assert json.loads(alone)["pictures"][0]["detections"]
    assert detect(*arguments, "--save", tmp_path / "out").stdout == alone
    assert detect(*arguments, "--output", tmp_path / "x.json").stdout == ""
    assert (tmp_path / "x.json").read_text(encoding="utf-8") == alone


@pytest.mark.parametrize("way", ["card", "fast"])
def test_a_picture_out_of_a_pipe_is_saved(detect, tmp_path, way):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    data = save_picture(tmp_path / "a.png").read_bytes()
    writer = threading.Thread(target=pipe.write_bytes, args=(data,))
    writer.start()
    detect(pipe, "--preprocess", way, "--save", tmp_path / "out", "--score", "1")
    writer.join()
    with Image.open(tmp_path / "out" / "pipe.png") as drawn:
        np.testing.assert_array_equal(np.asarray(drawn), np.asarray(picture(0)))


def test_one_saved_picture_is_one(detect, pictures, tmp_path):
    result = detect(pictures / "a.png", "--save", tmp_path / "out")
    assert result.stderr == f"saved 1 picture in {tmp_path / 'out'}\n"


def test_save_keeps_names_and_nested_folders(detect, pictures, tmp_path):
    target = tmp_path / "new" / "out"
    result = detect(pictures, "--save", target)
    assert saved_in(target) == ["a.png", "b.jpg", "nested/a.png"]
    assert result.stderr == f"saved 3 pictures in {target}\n"
    with Image.open(target / "a.png") as drawn, Image.open(pictures / "a.png") as original:
        assert drawn.format == "PNG" and drawn.size == original.size
        assert not np.array_equal(np.asarray(drawn), np.asarray(original))
    with Image.open(target / "b.jpg") as drawn:
        assert drawn.format == "JPEG"
    assert_no_leftovers(tmp_path)


def test_save_without_objects_is_a_copy(detect, pictures, tmp_path):
    detect(pictures / "a.png", "--save", tmp_path / "out", "--score", "1")
    with Image.open(tmp_path / "out" / "a.png") as drawn:
        np.testing.assert_array_equal(np.asarray(drawn), np.asarray(picture(0)))


def test_save_of_formats_that_are_not_written(detect, tmp_path):
    save_picture(tmp_path / "set" / "a.bmp")
    detect(tmp_path / "set", "--save", tmp_path / "out")
    assert saved_in(tmp_path / "out") == ["a.bmp.png"]
    with Image.open(tmp_path / "out" / "a.bmp.png") as drawn:
        assert drawn.format == "PNG"


def test_save_numbers_names_that_collide(detect, tmp_path):
    for seed, folder in enumerate(("one", "two", "three")):
        save_picture(tmp_path / folder / "a.png", seed)
    detect(
        *(tmp_path / f for f in ("one", "two", "three")), "--save", tmp_path / "out", "--score", "1"
    )
    assert saved_in(tmp_path / "out") == ["a-2.png", "a-3.png", "a.png"]
    for seed, name in enumerate(("a.png", "a-2.png", "a-3.png")):
        with Image.open(tmp_path / "out" / name) as drawn:
            np.testing.assert_array_equal(np.asarray(drawn), np.asarray(picture(seed)))


def test_save_replaces_older_results(detect, pictures, tmp_path):
    for _ in range(2):
        detect(pictures, "--save", tmp_path / "out")
    assert len(saved_in(tmp_path / "out")) == 3


@pytest.mark.parametrize("way", ["same", "dotted", "link"])
def test_save_refuses_to_overwrite_its_sources(detect, pictures, tmp_path, way):
    (tmp_path / "link").symlink_to(pictures)
    target = {
        "same": pictures,
        "dotted": pictures / "nested" / "..",
        "link": tmp_path / "link",
    }[way]
    before = {path: path.read_bytes() for path in pictures.rglob("*") if path.is_file()}
    with pytest.raises(Ssd34Error, match="would overwrite"):
        detect(pictures, "--save", target)
    assert {path: path.read_bytes() for path in pictures.rglob("*") if path.is_file()} == before


def test_save_refuses_to_overwrite_another_source(detect, tmp_path):
    save_picture(tmp_path / "one" / "a.png")
    save_picture(tmp_path / "two" / "a.png")
    with pytest.raises(Ssd34Error, match="would overwrite"):
        detect(tmp_path / "one", tmp_path / "two" / "a.png", "--save", tmp_path / "two")


# --- input that cannot be used: one line, exit code 2, nothing left behind -------------------


def png_header_only(width, height):
    def chunk(kind, data):
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 64))
        + chunk(b"IEND", b"")
    )


def half_a_jpeg(path):
    save_picture(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def foreign_model(path):
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Relu", ["data"], ["prob"])],
        "other",
        [value("data", TensorProto.FLOAT, [1, 3, 224, 224])],
        [value("prob", TensorProto.FLOAT, [1, 3, 224, 224])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=7)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def bad_inputs(kind, root):
    """Arguments, the model or None, and a word that the message must have."""
    good = save_picture(root / "good" / "a.png")
    (root / "empty").mkdir()
    (root / "empty" / "notes.txt").write_text("text")
    text = root / "text.jpg"
    text.write_text("this is no picture\n")
    huge = root / "huge.png"
    huge.write_bytes(png_header_only(20_000, 20_000))
    nothing = root / "nothing.onnx"
    nothing.touch()
    return {
        "missing file": ([root / "no.jpg"], None, "no such file"),
        "folder without pictures": ([root / "empty"], None, "holds no pictures"),
        "pattern without matches": ([root / "*.gif"], None, "matches no pictures"),
        "text renamed": ([text], None, "not a picture"),
        "empty file": ([nothing], None, "not a picture"),
        "truncated": ([half_a_jpeg(root / "half.jpg")], None, "truncated"),
        "huge": ([huge], None, "20000 x 20000"),
        "missing model": ([good], root / "no.onnx", "no such model"),
        "folder as model": ([good], root, "is a folder"),
        "picture as model": ([good], good, "not an ONNX file"),
        "empty model": ([good], nothing, "not an ONNX file"),
        "foreign model": ([good], foreign_model(root / "other.onnx"), "not an SSD detector"),
        "unknown class": ([good, "--class", "unicorn"], None, "unicorn"),
        "absent output folder": ([good, "--output", root / "no" / "x.txt"], None, "does not exist"),
        "folder as output": ([good, "--output", root / "empty"], None, "is a folder"),
        "file as yolo output": ([good, "--format", "yolo", "--output", text], None, "is a file"),
        "save below a file": ([good, "--save", text / "out"], None, str(text)),
        "save over the source": ([good, "--save", good.parent], None, "would overwrite"),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "missing file",
        "folder without pictures",
        "pattern without matches",
        "text renamed",
        "empty file",
        "truncated",
        "huge",
        "missing model",
        "folder as model",
        "picture as model",
        "empty model",
        "foreign model",
        "unknown class",
        "absent output folder",
        "folder as output",
        "file as yolo output",
        "save below a file",
        "save over the source",
    ],
)
def test_unusable_input_is_one_line_and_exit_code_two(main, tiny_model, tmp_path, kind):
    arguments, model, word = bad_inputs(kind, tmp_path)
    before = saved_in(tmp_path)
    code, out, err = main(*arguments, model=model or tiny_model)
    assert code == 2
    assert out == ""
    assert_one_error_line(err)
    assert word in err
    assert saved_in(tmp_path) == before


@pytest.mark.parametrize("kind", ["truncated", "foreign model"])
def test_unusable_input_from_outside(tiny_model, tmp_path, kind):
    arguments, model, word = bad_inputs(kind, tmp_path)
    ended = command_line("detect", *arguments, "--model", model or tiny_model)
    assert ended.returncode == 2
    assert ended.stdout == b""
    assert_one_error_line(ended.stderr.decode())
    assert word in ended.stderr.decode()


@pytest.mark.parametrize("folder", ["no", "file"])
def test_bad_output_is_noticed_before_the_work(detect, pictures, tmp_path, folder):
    (tmp_path / "file").touch()
    with pytest.raises(OptionError, match=r"x\.json"):
        detect(
            pictures, "--output", tmp_path / folder / "x.json", "--save", tmp_path / "saved",
            "--format", "json",
        )  # fmt: skip
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize("target", ["source", "linked", "model", "label file"])
def test_output_over_an_input_is_refused(main, pictures, tiny_model, tmp_path, target):
    model = tmp_path / "m.onnx"
    model.write_bytes(tiny_model.read_bytes())
    (tmp_path / "link.json").symlink_to(pictures / "b.jpg")
    shutil.copy(pictures / "a.png", tmp_path / "picture.txt")
    arguments, kept = {
        "source": (
            (pictures, "--output", pictures / "nested" / ".." / "b.jpg"),
            pictures / "b.jpg",
        ),
        "linked": ((pictures, "--output", tmp_path / "link.json"), pictures / "b.jpg"),
        "model": ((pictures, "--output", model), model),
        "label file": (
            (tmp_path / "picture.txt", "--format", "yolo", "--output", tmp_path),
            tmp_path / "picture.txt",
        ),
    }[target]
    before = kept.read_bytes()
    code, out, err = main(*arguments, model=model)
    assert (code, out) == (2, "")
    assert_one_error_line(err)
    assert "not read here" in err and str(kept) in err and "name another file" in err
    assert kept.read_bytes() == before


def test_full_disk_is_one_line_without_leftovers(main, pictures, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Image.Image, "save", full)
    code, _, err = main(pictures / "a.png", "--save", tmp_path / "out")
    assert code == 2
    assert_one_error_line(err)
    assert os.strerror(errno.ENOSPC) in err
    assert saved_in(tmp_path / "out") == []


def test_full_disk_keeps_the_older_output(main, pictures, tmp_path, monkeypatch):
    target = tmp_path / "result.json"
    target.write_text("old")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    code, _, err = main(pictures / "a.png", "--format", "json", "--output", target)
    assert code == 2
    assert_one_error_line(err)
    assert target.read_text() == "old"
    assert saved_in(tmp_path) == ["pictures/" + name for name in saved_in(pictures)] + [
        "result.json"
    ]


# --- some pictures are broken ---------------------------------------------------------------


def test_broken_picture_among_good_ones(main, pictures, tmp_path):
    half_a_jpeg(pictures / "broken.jpg")
    target = tmp_path / "out"
    code, out, err = main(pictures, "--format", "json", "--save", target)
    assert code == 1
    values = json.loads(out)
    assert [entry["file"] for entry in values["pictures"]] == [
        str(pictures / name) for name in ("a.png", "b.jpg", "nested/a.png")
    ]
    (failed,) = values["failed"]
    assert failed["file"] == str(pictures / "broken.jpg") and "truncated" in failed["reason"]
    lines = err.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("skipped: ") and "broken.jpg" in lines[0]
    assert lines[1] == f"saved 3 pictures in {target}"
    assert lines[2] == "warning: 1 of 4 pictures could not be read"
    assert saved_in(target) == ["a.png", "b.jpg", "nested/a.png"]


def test_broken_picture_from_outside(pictures, tiny_model):
    half_a_jpeg(pictures / "broken.jpg")
    ended = command_line("detect", pictures, "--model", tiny_model, "--format", "csv")
    assert ended.returncode == 1
    err = ended.stderr.decode()
    assert "broken.jpg" in err and "1 of 4" in err and "Traceback" not in err
    rows = list(csv.DictReader(io.StringIO(ended.stdout.decode())))
    assert len({row["file"] for row in rows}) == 3


def test_only_broken_pictures(main, tmp_path):
    for name in ("a.jpg", "b.jpg"):
        half_a_jpeg(tmp_path / "set" / name)
    output = tmp_path / "found.json"
    code, out, err = main(tmp_path / "set", "--format", "json", "--output", output)
    assert (code, out) == (2, "") and not output.exists()
    assert [line.split(":")[0] for line in err.splitlines()] == ["skipped", "skipped", "error"]
    assert err.endswith("error: none of 2 pictures could be read, see above\n")


def test_coco_ids_do_not_depend_on_what_could_be_read(main, tmp_path):
    """Neither where names are numbers nor where the one that is none is broken."""
    for seed, name in enumerate(("17.png", "23.png")):
        save_picture(tmp_path / "set" / name, seed)
    half_a_jpeg(tmp_path / "set" / "0x.jpg")
    code, out, _ = main(tmp_path / "set", "--format", "coco")
    assert code == 1
    ids = {Path(r["file_name"]).name: r["image_id"] for r in json.loads(out)}
    assert ids == {"17.png": 2, "23.png": 3}


# --- what the file leaves out itself --------------------------------------------------------


@pytest.mark.parametrize(
    ("score", "warned"), [("0.001", True), ("0.049", True), ("0.05", False), ("0.2", False)]
)
def test_a_score_below_the_files_own_threshold(main, pictures, score, warned):
    code, _, err = main(pictures / "a.png", "--score", score)
    expected = (
        f"warning: --score {score}: tiny.onnx leaves out detections below 0.05 itself; make "
        "another file with ssd34 export --score or --tail none\n"
    )
    assert (code, err) == (0, expected if warned else "")


def test_a_raw_file_has_no_threshold_of_its_own(main, pictures, tiny_raw_model):
    assert main(pictures / "a.png", "--score", "0.001", model=tiny_raw_model)[2] == ""


# --- policies -------------------------------------------------------------------------------


def test_a_raw_file_is_picked_from_by_the_policy_asked_for(main, pictures, tiny_raw_model):
    everything = ("--format", "json", "--score", "0.03")
    counts = {}
    for policy in ("zoo", "best"):
        code, out, _ = main(
            pictures / "a.png", *everything, "--policy", policy, model=tiny_raw_model
        )
        assert code == 0
        detector = Detector.load(tiny_raw_model, policy=policy)
        expected = detector.detect(pictures / "a.png", score=0.03)
        counts[policy] = len(expected)
        assert [
            one["label"] for one in json.loads(out)["pictures"][0]["detections"]
        ] == expected.labels.tolist()
    assert counts["best"] > counts["zoo"] > 0


def test_a_policy_for_a_file_that_picks_itself(main, pictures):
    code, out, err = main(pictures / "a.png", "--policy", "best")
    assert (code, out) == (2, "")
    assert_one_error_line(err)
    assert "policy" in err and "ssd34 export --policy" in err


# --- the surroundings -----------------------------------------------------------------------


def test_all_is_well_from_outside(pictures, tiny_model):
    ended = command_line("detect", pictures, "--model", tiny_model, "--format", "json")
    assert ended.returncode == 0
    assert ended.stderr == b""
    assert len(json.loads(ended.stdout)["pictures"]) == 3


@pytest.mark.parametrize("form", ["table", "csv"])
def test_terminal_that_cannot_show_every_character(tmp_path, tiny_model, form):
    # As Windows has it when the output goes to a file.
    file = save_picture(tmp_path / "名前.png")
    ended = command_line(
        "detect", file, "--model", tiny_model, "--format", form,
        environment={"PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"},
    )  # fmt: skip
    assert b"Traceback" not in ended.stderr
    assert ended.returncode == 0
    assert b"cross" in ended.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes only there")
@pytest.mark.parametrize("form", ["table", "csv"])
def test_file_name_that_is_no_utf8(main, tmp_path, form):
    save_picture(tmp_path / "a.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    target = tmp_path / "out.txt"
    code, _, err = main(tmp_path, "--format", form, "--output", target)
    assert (code, err) == (0, "")
    assert "caf" in target.read_text(encoding="utf-8", errors="replace")


def test_interruption_has_its_own_exit_code(main, pictures, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("ssd34.cli.detect.find_pictures", interrupted)
    code, _, err = main(pictures)
    assert code == INTERRUPTED == 130
    assert_one_error_line(err.lstrip("\n"))


@pytest.mark.skipif(os.name != "posix", reason="pipes of another kind")
def test_reader_that_goes_away_is_no_error(pictures, tiny_model):
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "ssd34", "detect", str(pictures), "--model", str(tiny_model)],
            stdout=writing,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writing)
    assert ended.stderr == b""
    assert ended.returncode == 0
