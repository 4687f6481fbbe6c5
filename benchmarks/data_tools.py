"""Data sets that other tools write, read with ssd34; what ssd34 writes, read with other tools.

    python -m venv ENV && ENV/bin/pip install -r benchmarks/tools/datumaro.txt
    python benchmarks/data_tools.py --tools ENV [--tools ENV ...]

The tools need environments of their own, as they need other versions of the same packages:
`benchmarks/tools/*.txt`, one each. A small truth is written by every tool, as a folder and as a
zip, and has to come back box by box; forms that are not read have to be named in the message.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from tables import keep

from ssd34.datasets.convert.convert import Options, convert
from ssd34.datasets.dataset import Dataset
from ssd34.datasets.open import find_dataset
from ssd34.datasets.voc import NAMES as VOC_NAMES
from ssd34.errors import Ssd34Error

WRITERS = Path(__file__).parent / "tools" / "writers.py"
NAMES = {
    "datumaro": "Datumaro", "cvat": "CVAT", "label_me": "LabelMe", "labelme": "LabelMe",
    "kitti": "KITTI", "open_images": "Open Images", "wider_face": "WIDER FACE", "dota": "DOTA",
    "createml": "CreateML", "via": "VIA", "json": "Label Studio", "json min": "Label Studio",
}  # fmt: skip
"""What the message calls a form that is not read."""

NEAR = 0.02
"""Pixels; YOLO's six digits lose less in pictures of this size."""

Boxes = dict[str, list[list[Any]]]


def make_truth(kind: str, folder: Path) -> Path:
    """Six pictures, one without boxes; one box touches the left and one the upper edge."""
    draw = random.Random(5)  # noqa: S311
    classes = {"voc names": ["person", "car"]}.get(kind, ["nut", "bolt", "spare"])
    files = {
        "blanks": ["img.jpg", "img 2.jpg", "img 2  1.png", "b c.jpg", "d.jpg", "e 1.jpg"],
        "folders": ["a/p1.jpg", "a/p2.jpg", "a/b/p3.png", "c/p4.jpg", "c/p5.jpg", "p6.jpg"],
    }.get(kind, [f"p{k}.jpg" for k in range(1, 6)] + ["p6.png"])
    pictures = []
    for number, file in enumerate(files):
        width, height = 160 + 40 * (number % 2), (160, 200, 320)[number // 2]
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        noise = Image.effect_noise((width, height), 60 + number).convert("RGB")
        noise.save(folder / file)
        boxes = [[classes[(number + k) % 2], *_box(draw, width, height)] for k in range(number % 3)]
        if number == 1:
            boxes.append([classes[0], 0, 20, 40, 60])
        if number == 2:
            boxes.append([classes[1], 20, 0, 60, 40])
        split = "train" if number < 3 else "val"
        pictures.append(
            {"file": file, "width": width, "height": height, "split": split, "boxes": boxes}
        )
    truth = {"root": str(folder), "classes": classes, "pictures": pictures}
    path = folder.parent / "truth.json"
    path.write_text(json.dumps(truth), encoding="utf-8")
    return path


def _box(draw: random.Random, width: int, height: int) -> list[int]:
    x, y = 20 * draw.randint(1, 3), 20 * draw.randint(1, 4)
    return [x, y, 20 * draw.randint(1, (width - x) // 20), 20 * draw.randint(1, (height - y) // 20)]


def boxes_of(datasets: list[Dataset]) -> Boxes:
    """By the pictures' names without folder and ending; some tools list all pictures twice."""
    found: Boxes = {}
    for dataset in datasets:
        for sample in dataset.samples:
            rows = zip(sample.labels.tolist(), sample.boxes.tolist(), strict=True)
            found[Path(sample.file_name).stem] = [
                [dataset.labels.name(label), x, y, r - x, b - y] for label, (x, y, r, b) in rows
            ]
    return found


def differs(found: Boxes, truth: dict[str, Any], there: set[str], near: float = NEAR) -> str:
    """What is not as in the truth; "" if nothing. Pictures that a tool left out may be missing."""
    expected = {Path(p["file"]).stem: p["boxes"] for p in truth["pictures"]}
    there |= {stem for stem, boxes in expected.items() if boxes}
    if wrong := sorted((expected.keys() & there) ^ found.keys()):
        return f"pictures {', '.join(wrong)}"
    for stem in found:
        left = sorted(expected[stem], key=lambda b: [str(b[0]), *map(round, b[1:])])
        right = sorted(found[stem], key=lambda b: [str(b[0]), *map(round, b[1:])])
        same = len(left) == len(right) and all(
            a[0] == b[0] and all(abs(p - q) < near for p, q in zip(a[1:], b[1:], strict=True))
            for a, b in zip(left, right, strict=True)
        )
        if not same:
            return f"{stem}: {left} became {[[b[0], *(round(v, 2) for v in b[1:])] for b in right]}"
    return ""


def read(path: Path, form: str, truth: dict[str, Any], there: set[str]) -> str:
    """What is wrong with how ssd34 reads a tool's data set; "" if nothing."""
    try:
        layout = find_dataset(path)
        datasets = [layout.open(split) for split in layout.splits]
    except Ssd34Error as error:
        name = NAMES.get(form.removeprefix("?"), "")
        return "" if form.startswith("?") and name in str(error) else f"refused: {error}"
    if form.startswith("?"):
        return "was read, though nobody knows how"
    wrong = differs(boxes_of(datasets), truth, there)
    names = set(datasets[0].labels.names)
    used = {box[0] for picture in truth["pictures"] for box in picture["boxes"]}
    known = {*truth["classes"], *(VOC_NAMES if used <= set(VOC_NAMES) else ())}
    if not wrong and not used <= names <= known:
        return f"classes {', '.join(sorted(names))[:200]}"
    return wrong


def tool_cases(env: Path, truth_file: Path, out: Path) -> Iterator[dict[str, Any]]:
    """Every tool of an environment writes, ssd34 reads."""
    truth = json.loads(truth_file.read_text(encoding="utf-8"))
    for case in started(env, "write", truth_file, out):
        folder = Path(case["folder"])
        for form in ("folder", "zip"):
            path = folder
            if form == "zip" and folder.is_dir():
                path = Path(shutil.make_archive(str(folder), "zip", folder))
            if case["error"]:  # the tool itself cannot write this
                print(f"{case['tool']} {case['version']}, {case['form']}: {case['error']}")
                break
            there = {file.stem for file in folder.rglob("*") if file.suffix in (".jpg", ".png")}
            yield {**case, "as": form, "wrong": read(path, case["form"], truth, there)}


def back_cases(env: Path, truth_file: Path, out: Path) -> Iterator[dict[str, Any]]:
    """Ssd34 writes, the tools of an environment read."""
    truth = json.loads(truth_file.read_text(encoding="utf-8"))
    source = out / "source"
    shutil.copytree(truth["root"], source / "images")
    rows = [(k, b) for k, p in enumerate(truth["pictures"], start=1) for b in p["boxes"]]
    images = [
        {"id": k, "file_name": p["file"], "width": p["width"], "height": p["height"]}
        for k, p in enumerate(truth["pictures"], start=1)
    ]
    boxes = [
        {"id": n, "image_id": k, "category_id": truth["classes"].index(b[0]) + 1, "bbox": b[1:]}
        for n, (k, b) in enumerate(rows, start=1)
    ]
    classes = [{"id": k, "name": name} for k, name in enumerate(truth["classes"], start=1)]
    values = {"images": images, "annotations": boxes, "categories": classes}
    (source / "instances.json").write_text(json.dumps(values), encoding="utf-8")
    versions = dict(started(env, "versions"))
    for form in ("coco", "voc", "yolo"):
        convert([("", find_dataset(source).open())], out / form, Options(form))
        for tool in ("datumaro", "supervision", "globox"):
            if not versions.get(tool) or (tool, form) == ("globox", "yolo"):  # knows no names
                continue
            case = {"tool": tool, "version": versions[tool], "form": f"{form} back", "as": "folder"}
            try:
                found = {
                    Path(key).stem: b for key, b in started(env, "read", tool, form, out / form)
                }
                # These two count VOC's corners from 0.
                shifted = form == "voc" and tool != "supervision"
                wrong = differs(found, truth, set(found), near=1.01 if shifted else NEAR)
            except subprocess.CalledProcessError as error:
                wrong = (error.stderr or "").strip().splitlines()[-1][:200]
            yield {**case, "wrong": wrong}


def started(env: Path, *arguments: object) -> list[Any]:
    """The lines of JSON that the script prints in an environment."""
    command = [str(env / "bin" / "python"), str(WRITERS), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def main() -> None:
    """A line a case, then how many are right."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tools", type=Path, action="append", required=True, metavar="ENV")
    parser.add_argument("--keep", type=Path, help="a new folder for what the tools write")
    parser.add_argument("--json", type=Path, help="write the cases")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        work = options.keep or Path(temporary)
        for kind in ("plain", "voc names", "blanks", "folders"):
            truth = make_truth(kind, work / kind / "truth")
            for env in options.tools:
                out = work / kind / env.name
                cases = [*tool_cases(env, truth, out)]
                if kind != "folders":  # which VOC has not, and most readers of YOLO do not enter
                    cases += back_cases(env, truth, out / "back")
                for case in cases:
                    case["truth"] = kind
                    rows.append(case)
                    told = f"WRONG {case['wrong']}" if case["wrong"] else "right"
                    print(
                        f"{case['tool']} {case['version']}, {case['form']}, {kind}, "
                        f"{case['as']}: {told}"
                    )
    print(f"{sum(not row['wrong'] for row in rows)} right of {len(rows)}")
    keep(options.json, rows)


if __name__ == "__main__":
    main()
