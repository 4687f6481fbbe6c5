"""A system whose locale is not UTF-8: names of files are what they are in one that is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PLAIN = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
CAT = "\u732b"


def ssd34(*arguments, codes=(0,)):
    """The command in a plain locale, where opening text without an encoding is an error."""
    done = subprocess.run(
        [sys.executable, "-W", "error::EncodingWarning", "-X", "warn_default_encoding",
         "-W", "ignore::EncodingWarning:matplotlib.font_manager", "-m", "ssd34",
         *map(str, arguments)],
        env={**os.environ, **PLAIN}, capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode in codes, done.stderr.decode(errors="replace")
    assert b"Traceback" not in done.stderr
    return done.stdout.decode()


@pytest.fixture
def folder(tmp_path):
    """A COCO data set whose folder, split and picture have a Chinese character in their names."""
    folder = tmp_path / CAT
    pictures = folder / "train"
    pictures.mkdir(parents=True)
    for k in (1, 2):
        pixels = np.random.default_rng(k).integers(0, 256, (40, 40, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(pictures / f"{CAT}{k}.png")
    values = {
        "images": [{"id": k, "file_name": f"{CAT}{k}.png", "width": 40, "height": 40}
                   for k in (1, 2)],
        "annotations": [{"id": k, "image_id": k, "category_id": 1, "bbox": [1, 2, 30, 20]}
                        for k in (1, 2)],
        "categories": [{"id": 1, "name": CAT}],
    }  # fmt: skip
    (folder / "annotations").mkdir()
    text = json.dumps(values, ensure_ascii=False)
    (folder / "annotations" / "instances_train.json").write_text(text, encoding="utf-8")
    return folder


def names_in(folder: Path):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_detect(folder, tiny_model, tmp_path):
    pictures = folder / "train"
    command = ("detect", pictures, "--model", tiny_model)
    out = tmp_path / f"out{CAT}"
    ssd34(*command, "--save", out, "--output", tmp_path / f"{CAT}.json")
    assert names_in(out) == [f"{CAT}1.png", f"{CAT}2.png"]
    values = json.loads((tmp_path / f"{CAT}.json").read_text(encoding="utf-8"))
    files = [str(pictures / f"{CAT}{k}.png") for k in (1, 2)]
    assert [one["file"] for one in values["pictures"]] == files
    for form in ("table", "coco"):
        ssd34(*command, "--format", form)
    ssd34(*command, "--format", "csv", "--output", tmp_path / "a.csv")
    assert files[0] in (tmp_path / "a.csv").read_text(encoding="utf-8")
    ssd34(*command, "--format", "yolo", "--output", tmp_path / "labels")
    assert names_in(tmp_path / "labels") == [f"{CAT}1.txt", f"{CAT}2.txt"]


@pytest.mark.parametrize("form", ["coco", "voc", "yolo"])
def test_data(folder, tmp_path, form):
    target = tmp_path / f"{CAT}{form}"
    ssd34("data", "convert", folder, target, "--to", form)
    assert {f"{CAT}1.png", f"{CAT}2.png"} <= set(names_in(target))
    about = json.loads(ssd34("data", "info", target, "--json"))
    (split,) = about["splits"].values()
    assert (split["boxes"], split["left_out"]) == (2, 0)
    assert [one["name"] for one in split["classes"]] == [CAT]
    ssd34("data", "check", target, "--json", tmp_path / f"{CAT}.json", "--sheet",
          tmp_path / f"{CAT}.png", codes=(0, 1))  # fmt: skip
    checked = json.loads((tmp_path / f"{CAT}.json").read_text(encoding="utf-8"))
    assert checked["data"][0]["boxes"] == 2


def test_models(folder, tiny_model, tmp_path):
    model = tmp_path / f"{CAT}.onnx"
    shutil.copy(tiny_model, model)
    annotations = folder / "annotations" / "instances_train.json"
    text = annotations.read_text(encoding="utf-8")
    annotations.write_text(text.replace(f'"name": "{CAT}"', '"name": "disc"'), encoding="utf-8")
    ssd34("detect", folder / "train", "--model", model, "--engine", "openvino")
    report = tmp_path / f"report{CAT}"
    written = tmp_path / f"{CAT}.json"
    ssd34("evaluate", model, "--data", folder, "--policy", "best", "--report", report,
          "--json", written)  # fmt: skip
    assert json.loads(written.read_text(encoding="utf-8"))["pictures"] == 2
    assert (report / "report.html").is_file()
    again = tmp_path / f"again{CAT}.onnx"
    ssd34("export", model, again)
    ssd34("verify", again)
    ssd34("benchmark", again, "--images", folder / "train", "--rounds", "2")
    ssd34("package", again, "--picture", folder / "train" / f"{CAT}1.png",
          "--output", tmp_path / f"package{CAT}")  # fmt: skip
    assert names_in(tmp_path / f"package{CAT}")
