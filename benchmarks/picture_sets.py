"""The picture sets of the published numbers, made from COCO 2017's own files.

`benchmarks/pictures/coco-val.txt` and `coco-train.txt` list the COCO ids of the pictures that
the embedded model was measured on and trained on.

    ssd34 data download coco-2017 --output coco
    python benchmarks/picture_sets.py benchmarks/pictures/coco-val.txt coco-val.zip \\
      --coco coco/annotations/instances_val2017.json@coco/val2017 \\
      --coco coco/annotations/instances_train2017.json@coco/train2017

Instead of a list `all` takes every picture, as of Pascal VOC once it is in COCO's form:

    ssd34 data convert VOCdevkit/VOC2007@test voc --to coco --coco-names
    python benchmarks/picture_sets.py all voc07.zip \\
      --coco voc/annotations/instances_default.json@voc/images/default

Not the same to the byte: the encoder's settings of the first set are not known, and most of its
boxes carried no crowd flag. Expect AP within chance of the published numbers, not equal to them.
"""

from __future__ import annotations

import argparse
import io
import json
import zipfile
from pathlib import Path
from typing import Any

from PIL import Image


def main() -> None:
    """Write a zip of small pictures with their boxes."""
    parser = argparse.ArgumentParser(description="Small pictures and boxes of some COCO ids.")
    parser.add_argument("ids", help="a text file, one COCO picture id a line; or all")
    parser.add_argument("output", type=Path, help="the zip")
    parser.add_argument("--coco", action="append", required=True, metavar="FILE.json@FOLDER")
    parser.add_argument("--side", type=int, default=288, help="longest side in pixels")
    parser.add_argument("--quality", type=int, default=60, help="of the AVIF encoder")
    options = parser.parse_args()
    every = options.ids == "all"
    listed = "" if every else Path(options.ids).read_text(encoding="utf-8")
    wanted = {int(line) for line in listed.split()}
    found: dict[str, Any] = {"images": [], "annotations": [], "categories": None}
    beside = options.output.with_name(options.output.name + ".partial")
    with zipfile.ZipFile(beside, "w") as archive:
        for place in options.coco:
            file, _, folder = place.partition("@")
            values = json.loads(Path(file).read_text(encoding="utf-8"))
            found["categories"] = values["categories"]
            scales = {}
            for image in values["images"]:
                if not every and image["id"] not in wanted:
                    continue
                data, width, height = shrink(
                    Path(folder) / image["file_name"], options.side, options.quality
                )
                name = f"{Path(image['file_name']).stem}.avif"
                scales[image["id"]] = (width / image["width"], height / image["height"])
                found["images"].append(
                    {"id": image["id"], "file_name": name, "width": width, "height": height}
                )
                archive.writestr(f"images/{name}", data)
            for one in values["annotations"]:
                if one["image_id"] in scales:
                    found["annotations"].append(scaled(one, *scales[one["image_id"]]))
            wanted -= set(scales)
        archive.writestr("instances.json", json.dumps(found))
    beside.replace(options.output)
    print(f"{options.output}: {len(found['images'])} pictures, {len(found['annotations'])} boxes")
    if wanted:
        print(f"not found: {len(wanted)} ids, such as {min(wanted)}; give the other --coco, too")


def shrink(path: Path, side: int, quality: int) -> tuple[bytes, int, int]:
    """A picture as AVIF whose longest side is `side` pixels, its width and its height."""
    with Image.open(path) as picture:
        small = picture.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    small.save(data, "AVIF", quality=quality)
    return data.getvalue(), *small.size


def scaled(annotation: dict[str, Any], across: float, down: float) -> dict[str, Any]:
    """A COCO annotation without its outline, in pixels of the smaller picture."""
    x, y, width, height = annotation["bbox"]
    box = [x * across, y * down, width * across, height * down]
    keys = ("id", "image_id", "category_id", "iscrowd", "difficult")
    kept = {key: annotation[key] for key in keys if key in annotation}
    return kept | {
        "bbox": [round(value, 2) for value in box],
        "area": round(annotation["area"] * across * down, 2),
    }


if __name__ == "__main__":
    main()
