from __future__ import annotations

import csv
import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssd34.errors import OptionError, Ssd34Error
from ssd34.runtime.detector import Detector
from tests.conftest import TINY_LABELS
from tests.support.cli import invoke
from tests.support.pictures import exif_of, noise, png, png_header_only
from tests.support.refusals import assert_facts, refused

# The tiny network's scores are all below 0.5; this keeps some of the two hundred detections.
SCORE = "0.37"


def picture(seed=0, height=50, width=70):
    return Image.fromarray(noise(height, width, seed=seed))


def save_picture(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    form = {"quality": 95} if path.suffix == ".jpg" else {}
    picture(seed).save(path, **form)
    return path


def pixels_of(path):
    with Image.open(path) as opened:
        return np.asarray(opened)


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
    return lambda *arguments: invoke("detect", "--model", tiny_model, "--score", SCORE, *arguments)


@pytest.fixture
def run(main, tiny_model):
    return lambda *arguments, model=tiny_model: main(
        "detect", "--model", model, "--score", SCORE, *arguments
    )


def expected_in(path, model, *, score=float(SCORE)):
    return Detector.load(model).detect(path, score=score)


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


def test_table_shows_names_as_they_are(detect, pictures):
    """Relative to the folder, of a picture without objects too."""
    save_picture(pictures / "[red]:dog:.png")
    out = detect(pictures, "--score", "1").stdout
    names = re.findall(r"^│ (\S+) +│ - ", out, re.MULTILINE)
    assert names == ["[red]:dog:.png", "a.png", "b.jpg", str(Path("nested", "a.png"))]


def test_table_tells_pictures_of_one_name_apart(detect, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("one/a.png", "two/a.png", "two/b.png"):
        save_picture(tmp_path / name)
    out = detect("one", "two", "--score", "1").stdout
    names = re.findall(r"^│ (\S+) +│ - ", out, re.MULTILINE)
    assert names == [str(Path("one", "a.png")), str(Path("two", "a.png")), "b.png"]


@pytest.mark.parametrize(("name", "begins"), [("x.json", "{"), ("x.CSV", "file,"), ("x.txt", "┏")])
def test_the_ending_of_the_output_decides(detect, pictures, tmp_path, name, begins):
    detect(pictures / "a.png", "--output", tmp_path / name)
    assert (tmp_path / name).read_text().startswith(begins)


def of_json(text):
    values = json.loads(text)
    for entry in values["pictures"]:
        assert (entry["width"], entry["height"]) == (70, 50)
        for k in entry["detections"]:
            yield entry["file"], k["name"], k["score"], k["box"]


def of_csv(text):
    lines = text.splitlines()
    assert [k for k, line in enumerate(lines) if line.startswith("file,label")] == [0]
    for row in csv.DictReader(io.StringIO(text)):
        box = [float(row[k]) for k in ("left", "top", "right", "bottom")]
        yield row["file"], row["name"], float(row["score"]), box


def of_coco(text):
    """Image ids are those of numbered names."""
    names = dict(zip(TINY_LABELS.category_ids, TINY_LABELS.names, strict=True))
    for k in json.loads(text):
        left, top, width, height = k["bbox"]
        assert k["image_id"] == int(Path(k["file_name"]).stem.split(",")[0])
        box = [left, top, left + width, top + height]
        yield k["file_name"], names[k["category_id"]], k["score"], box


@pytest.mark.parametrize("read", [of_json, of_csv, of_coco])
def test_each_format_holds_what_python_finds(detect, tmp_path, tiny_model, read):
    last = "17, 18.png" if read is of_csv else "17.png"
    files = [save_picture(tmp_path / "set" / n, 2) for n in ("000000000139.png", last)]
    form = read.__name__.removeprefix("of_")
    rows = list(read(detect(tmp_path / "set", "--format", form).stdout))
    for file in files:
        found = expected_in(file, tiny_model)
        _, names, scores, boxes = zip(*(r for r in rows if r[0] == str(file)), strict=True)
        assert names == found.names and len(names) > 3
        np.testing.assert_allclose(scores, found.scores, atol=1e-5)
        np.testing.assert_allclose(boxes, found.boxes, atol=0.012)


@pytest.mark.parametrize(
    "names", [("7.png", "x.png"), ("1/7.png", "2/7.png"), ("7.png", "07.jpg"), ("a.png", "a.jpg")]
)
def test_pictures_whose_names_are_no_unique_numbers_are_told_apart(detect, tmp_path, names):
    """COCO's ids count them; YOLO's files are numbered."""
    for seed, name in enumerate(names):
        save_picture(tmp_path / "set" / name, seed)
    folders = sorted({(tmp_path / "set" / name).parent for name in names})
    results = json.loads(detect(*folders, "--format", "coco").stdout)
    assert {r["image_id"] for r in results} == {1, 2}
    assert len({r["file_name"] for r in results}) == 2
    detect(*folders, "--format", "yolo", "--output", tmp_path / "labels")
    written = list((tmp_path / "labels").rglob("*.txt"))
    assert len(written) == len({path.read_text() for path in written}) == 2


def test_yolo(detect, pictures, tiny_model, tmp_path):
    """With --output, a folder of the same."""
    printed = detect(pictures, "--format", "yolo").stdout
    lines = printed.splitlines()
    names = ("a.png", "b.jpg", "nested/a.png")
    heads = [line for line in lines if line.startswith("#")]
    assert heads == [f"# {pictures / name}" for name in names]
    first = [line.split() for line in lines[1 : lines.index(heads[1])]]
    found = expected_in(pictures / "a.png", tiny_model)
    assert [int(cells[0]) for cells in first] == [label - 1 for label in found.labels.tolist()]
    centre = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2 / (70, 50)
    np.testing.assert_allclose([[float(c) for c in k[1:3]] for k in first], centre, atol=1e-5)
    target = tmp_path / "labels"
    assert detect(pictures, "--format", "yolo", "--output", target).stdout == ""
    assert saved_in(target) == ["a.txt", "b.txt", "nested/a.txt"]
    texts = [(target / name).with_suffix(".txt").read_text() for name in names]
    joined = "".join(f"{head}\n{text}" for head, text in zip(heads, texts, strict=True))
    assert joined == printed


def test_sizes_are_those_of_the_picture_as_seen(detect, tmp_path):
    picture().save(tmp_path / "a.png", exif=exif_of(6))
    Image.new("RGB", (1, 1), "red").save(tmp_path / "dot.png")
    values = json.loads(detect(tmp_path, "--format", "json", "--save", tmp_path / "out").stdout)
    turned, dot = values["pictures"]
    assert (turned["width"], turned["height"]) == (50, 70)
    assert (dot["width"], dot["height"]) == (1, 1)
    assert all(0 <= v <= 1 for found in dot["detections"] for v in found["box"])
    assert pixels_of(tmp_path / "out" / "dot.png").shape == (1, 1, 3)


def test_what_the_engine_auto_took_is_said(detect, pictures):
    assert "onnxruntime" in detect(pictures / "a.png", "--engine", "auto").stderr


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


def test_max_pixels(detect, pictures):
    with pytest.raises(Ssd34Error, match=r"3499.*--max-pixels"):
        detect(pictures / "a.png", "--max-pixels", "3499")
    detect(pictures / "a.png", "--max-pixels", "3500")


def saved_in(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize(("name", "way"), [("a.jpg", "fast"), ("a.png", "card")])
def test_saving_does_not_change_what_is_found(detect, tmp_path, way, name):
    large = Image.fromarray(np.kron(np.asarray(picture(5)), np.ones((14, 14, 1), np.uint8)))
    large.save(tmp_path / name, exif=exif_of(6))
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


def test_a_picture_that_its_format_cannot_hold_is_found_and_not_saved(run, tmp_path):
    """PNG of another name."""
    for name, width in (("a.webp", 16384), ("b.jpg", 65501)):
        (tmp_path / name).write_bytes(png(width, 1))
    save_picture(tmp_path / "c.png")
    code, out, err = run(tmp_path, "--save", tmp_path / "out", "--score", "1", "--json")
    assert code == 1 and [line[:8] for line in err.splitlines()[:2]] == ["skipped:"] * 2
    assert_facts(err, "16384 x 1", "65501 x 1", ".png", "1 picture in")
    assert saved_in(tmp_path / "out") == ["c.png"]
    assert len(json.loads(out)["pictures"]) == 3 and json.loads(out)["failed"] == []


def test_save_keeps_names_and_nested_folders(detect, pictures, tmp_path):
    target = tmp_path / "new" / "out"
    for _ in range(2):  # the second time over older results
        result = detect(pictures, "--save", target)
        assert saved_in(target) == ["a.png", "b.jpg", "nested/a.png"]
        assert "3 pictures" in result.stderr and str(target) in result.stderr
    drawn, original = pixels_of(target / "a.png"), pixels_of(pictures / "a.png")
    assert drawn.shape == original.shape and not np.array_equal(drawn, original)
    for name, form in (("a.png", "PNG"), ("b.jpg", "JPEG")):
        with Image.open(target / name) as saved:
            assert saved.format == form
    assert list(tmp_path.rglob("*.part")) == []


def test_save_numbers_names_that_collide(detect, tmp_path):
    """What is saved without objects is a copy, in a format that is written."""
    folders = [tmp_path / name for name in ("one", "two", "three")]
    for seed, folder in enumerate(folders):
        save_picture(folder / "a.png", seed)
    save_picture(tmp_path / "three" / "b.bmp", 3)
    detect(*folders, "--save", tmp_path / "out", "--score", "1")
    names = ["a.png", "a-2.png", "a-3.png", "b.bmp.png"]
    assert saved_in(tmp_path / "out") == sorted(names)
    for seed, name in enumerate(names):
        drawn = pixels_of(tmp_path / "out" / name)
        np.testing.assert_array_equal(drawn, np.asarray(picture(seed)))


def test_save_gives_one_picture_the_name_that_is_asked_for(detect, tmp_path):
    source = save_picture(tmp_path / "a.png")
    detect(source, "--save", tmp_path / "b.png", "--score", "1")
    np.testing.assert_array_equal(pixels_of(tmp_path / "b.png"), np.asarray(picture(0)))
    with refused(OptionError, "b.png"):  # as where the folder is forgotten before its name
        detect(source, "--save", tmp_path / "b.png")
    (tmp_path / "c.png").mkdir()
    detect(source, "--save", tmp_path / "c.png")
    assert saved_in(tmp_path / "c.png") == ["a.png"]


@pytest.mark.parametrize("way", [".", "nested/..", "link", "other"])
def test_save_refuses_to_overwrite_its_sources(detect, pictures, way):
    (pictures / "link").symlink_to(pictures)
    (pictures / "other").mkdir()
    sources = [pictures]
    if way == "other":
        sources.append(save_picture(pictures / "other" / "c.png"))
        save_picture(pictures / "c.png")
    before = {path: path.read_bytes() for path in pictures.rglob("*") if path.is_file()}
    with pytest.raises(Ssd34Error, match="overwrite"):
        detect(*sources, "--save", pictures / way)
    assert {path: path.read_bytes() for path in pictures.rglob("*") if path.is_file()} == before


def half_a_jpeg(path):
    save_picture(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


BAD = {
    "no.jpg": "no.jpg", "empty": "empty", "text.jpg": "text.jpg", "half.jpg": "half.jpg",
    "20000 x 20000": "huge.png", "no.onnx": "a.png --model no.onnx", "folder": "a.png --model .",
    "unicorn": "a.png --class unicorn", "square": "a.png --class squar",
    "no/x.txt": "a.png --output no/x.txt", "folder ": "a.png --output empty",
    "text.jpg/x.json": "a.png --output text.jpg/x.json --save saved",
    "text.jpg ": "a.png --format yolo --output text.jpg", "a.tiff": "a.png --output a.tiff",
    "a.WEBP": "a.png --format csv --output a.WEBP", "text.jpg/out": "a.png --save text.jpg/out",
    "overwrite": "a.png --save .", "a.png ": "a.png --save a.png",
    "two.jpg": "a.png half.jpg --save two.jpg", "one.tiff": "a.png --save one.tiff",
    "one.mp4": "a.png --save one.mp4", "no/one.png": "a.png --save no/one.png",
}  # fmt: skip
"""A fact in the message to the words of a command."""


@pytest.mark.parametrize("fact", BAD)
def test_unusable_input_is_one_line_and_exit_code_two(run, tmp_path, monkeypatch, fact):
    monkeypatch.chdir(tmp_path)
    save_picture(tmp_path / "a.png")
    half_a_jpeg(tmp_path / "half.jpg")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.jpg").write_text("this is no picture\n")
    (tmp_path / "huge.png").write_bytes(png_header_only(20_000, 20_000))
    before = saved_in(tmp_path)
    code, out, err = run(*BAD[fact].split())
    assert (code, out) == (2, "")
    assert err.count("\n") == 1 and fact.strip() in err
    assert saved_in(tmp_path) == before


@pytest.mark.parametrize("target", ["source", "linked", "model", "label file"])
def test_output_over_an_input_is_refused(run, pictures, tiny_model, tmp_path, target):
    model, text = tmp_path / "m.onnx", tmp_path / "picture.txt"
    shutil.copy(tiny_model, model)
    shutil.copy(pictures / "a.png", text)
    (tmp_path / "link.json").symlink_to(pictures / "b.jpg")
    arguments, kept = {
        "source": ((pictures, "--output", pictures / "nested/../b.jpg"), pictures / "b.jpg"),
        "linked": ((pictures, "--output", tmp_path / "link.json"), pictures / "b.jpg"),
        "model": ((pictures, "--output", model), model),
        "label file": ((text, "--format", "yolo", "--output", tmp_path), text),
    }[target]
    before = kept.read_bytes()
    code, out, err = run(*arguments, model=model)
    assert (code, out) == (2, "") and str(kept) in err
    assert kept.read_bytes() == before


@pytest.mark.parametrize("what", ["--save", "--output"])
def test_full_disk_is_one_line_without_leftovers(run, pictures, tmp_path, monkeypatch, what):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Image.Image, "save", full)
    monkeypatch.setattr(Path, "write_bytes", full)
    (tmp_path / "result.json").write_text("old")
    target = {"--save": tmp_path / "out", "--output": tmp_path / "result.json"}[what]
    before = saved_in(tmp_path)
    code, _, err = run(pictures / "a.png", "--format", "json", what, target)
    assert code == 2 and os.strerror(errno.ENOSPC) in err
    assert saved_in(tmp_path) == before and (tmp_path / "result.json").read_text() == "old"


def test_broken_picture_among_good_ones(run, pictures, tiny_model, tmp_path):
    half_a_jpeg(pictures / "broken.jpg")
    target = tmp_path / "out"
    code, out, err = run(pictures, "--format", "json", "--save", target)
    assert code == 1
    values = json.loads(out)
    names = ["a.png", "b.jpg", "nested/a.png"]
    assert values["model"] == str(tiny_model)
    assert [entry["file"] for entry in values["pictures"]] == [str(pictures / n) for n in names]
    assert [failed["file"] for failed in values["failed"]] == [str(pictures / "broken.jpg")]
    skipped, saved, warning = err.splitlines()
    assert skipped.startswith("skipped: ") and "broken.jpg" in skipped
    assert "3 pictures" in saved and warning.startswith("warning: 1 of 4 ")
    assert saved_in(target) == names


def test_only_broken_pictures(run, tmp_path):
    for name in ("a.jpg", "b.jpg"):
        half_a_jpeg(tmp_path / "set" / name)
    output = tmp_path / "found.json"
    code, out, err = run(tmp_path / "set", "--format", "json", "--output", output)
    assert (code, out) == (2, "") and not output.exists()
    assert [line.split(":")[0] for line in err.splitlines()] == ["skipped", "skipped", "error"]


def test_coco_ids_do_not_depend_on_what_could_be_read(run, tmp_path):
    """Neither where names are numbers nor where the one that is none is broken."""
    for seed, name in enumerate(("17.png", "23.png")):
        save_picture(tmp_path / "set" / name, seed)
    half_a_jpeg(tmp_path / "set" / "0x.jpg")
    code, out, _ = run(tmp_path / "set", "--format", "coco")
    assert code == 1
    ids = {Path(r["file_name"]).name: r["image_id"] for r in json.loads(out)}
    assert ids == {"17.png": 2, "23.png": 3}


@pytest.mark.parametrize("score", ["0.049", "0.05"])
def test_a_score_below_the_files_own_threshold(run, pictures, tiny_raw_model, score):
    code, _, err = run(pictures / "a.png", "--score", score)
    assert code == 0 and (err != "") == (float(score) < 0.05)
    assert err == "" or all(fact in err for fact in (score, "tiny.onnx", "0.05", "--tail none"))
    assert run(pictures / "a.png", "--score", score, model=tiny_raw_model)[2] == ""


def test_a_raw_file_is_picked_from_by_the_policy_asked_for(run, pictures, tiny_raw_model):
    file, counts = pictures / "a.png", {}
    arguments = (file, "--format", "json", "--score", "0.03")
    for policy in ("zoo", "best"):
        code, out, _ = run(*arguments, "--policy", policy, model=tiny_raw_model)
        expected = Detector.load(tiny_raw_model, policy=policy).detect(file, score=0.03)
        found = [one["label"] for one in json.loads(out)["pictures"][0]["detections"]]
        assert code == 0 and found == expected.labels.tolist()
        counts[policy] = len(found)
    assert counts["best"] > counts["zoo"] > 0
    code, out, err = run(file, "--policy", "best")
    assert (code, out) == (2, "") and "ssd34 export --policy" in err


def test_terminal_that_cannot_show_every_character(tmp_path, tiny_model):
    # As Windows has it when the output goes to a file.
    file = save_picture(tmp_path / "名前.png")
    environment = os.environ | {"PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "ssd34", "detect", file, "--model", tiny_model]
    ended = subprocess.run(command, capture_output=True, timeout=60, env=environment, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert b"cross" in ended.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes only there")
@pytest.mark.parametrize("form", ["table", "csv"])
def test_file_name_that_is_no_utf8(run, tmp_path, form):
    save_picture(tmp_path / "a.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    code, _, err = run(tmp_path, "--format", form, "--output", tmp_path / "out.txt")
    assert code == 0 and err.startswith("1 picture in ") and err.count("\n") == 1
    assert b"caf" in (tmp_path / "out.txt").read_bytes()


@pytest.mark.skipif(os.name != "posix", reason="pipes of another kind")
def test_reader_that_goes_away_is_no_error(pictures, tiny_model):
    reading, writing = os.pipe()
    os.close(reading)
    try:
        command = [sys.executable, "-m", "ssd34", "detect", pictures, "--model", tiny_model]
        ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, timeout=60)
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (0, b"")
