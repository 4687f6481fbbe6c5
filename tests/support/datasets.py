"""Small data sets in each format, written by hand."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile

import numpy as np
import yaml

from ssd34.datasets.dataset import Sample
from ssd34.datasets.download import Archive
from ssd34.files.cache import PublishedFile
from tests.support.mirror import ranged
from tests.support.pictures import png, save_picture


def sample(file_name="1.png", boxes=(), *, width=40, height=50, image_id=1, **fields):
    """A picture's entry, with boxes (xyxy) of the first class, all ordinary objects, unless the
    fields say otherwise."""
    array = np.array(boxes, np.float32).reshape(-1, 4)
    values = {
        "labels": np.ones(len(array), np.int64),
        "areas": np.prod(array[:, 2:].astype(float) - array[:, :2], axis=1),
        "crowd": np.zeros(len(array), bool),
        "difficult": np.zeros(len(array), bool),
    }
    values |= {name: np.array(given, values[name].dtype) for name, given in fields.items()}
    return Sample(file_name, image_id, width, height, array, **values)


def coco_image(**changes):
    return {"id": 1, "file_name": "a.png", "width": 40, "height": 50} | changes


def coco_box(*bbox, **changes):
    values = {"id": 1, "image_id": 1, "category_id": 7, "bbox": list(bbox), "iscrowd": 0}
    if len(bbox) == 4 and all(isinstance(value, int | float) for value in bbox):
        values["area"] = bbox[2] * bbox[3]
    return values | changes


def coco(*, images=None, annotations=None, categories=None):
    """The values of an annotation file: one picture with a cat."""
    return {
        "images": [coco_image()] if images is None else images,
        "annotations": [coco_box(1, 2, 3, 4)] if annotations is None else annotations,
        "categories": [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}]
        if categories is None
        else categories,
    }


def coco_folder(root, values, names=("a.png",)):
    for name in names:
        save_picture(root / "images" / name)
    (root / "images").mkdir(parents=True, exist_ok=True)
    (root / "instances.json").write_text(json.dumps(values))
    return root


def coco_zip(path, values, *, around="", names=("a.png",), form=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", form) as archive:
        text = values if isinstance(values, str | bytes) else json.dumps(values)
        archive.writestr(f"{around}instances.json", text)
        for name in names:
            archive.writestr(f"{around}images/{name}", png())
    return path


def voc_object(name="cat", corners=(2, 3, 10, 20), extra=""):
    sides = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    box = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
    return f"<object><name>{name}</name>{extra}<bndbox>{box}</bndbox></object>"


def voc_annotation(*objects, size=(40, 50), file_name="1.jpg"):
    inner = f"<filename>{file_name}</filename>"
    if size:
        inner += f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    return f"<annotation>{inner}{''.join(objects)}</annotation>"


def voc_folder(folder, annotations=None, *, splits=None, suffix=".jpg"):
    """Stem to XML text; split to stems."""
    annotations = {"1": voc_annotation(voc_object())} if annotations is None else annotations
    (folder / "Annotations").mkdir(parents=True)
    for stem, text in annotations.items():
        data = text if isinstance(text, bytes) else text.encode()
        (folder / "Annotations" / f"{stem}.xml").write_bytes(data)
        save_picture(folder / "JPEGImages" / f"{stem}{suffix}")
    for name, stems in (splits or {}).items():
        file = folder / "ImageSets" / "Main" / f"{name}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"{stem}\n" for stem in stems))
    return folder


def voc_monitor_and_dog(folder):
    """Splits train and test of a picture each, of VOC's classes; a box of test is difficult."""
    corners = (1, 2, 4, 6)
    texts = {
        stem: voc_annotation(
            voc_object(name, corners, f"<difficult>{int(name == 'dog')}</difficult>"),
            voc_object(name, corners),
        )
        for stem, name in (("000001", "tvmonitor"), ("000002", "dog"))
    }
    return voc_folder(folder, texts, splits={"train": ["000001"], "test": ["000002"]})


def yolo_folder(folder, rows="0 0.5 0.5 0.25 0.2\n", *, config=None, text=None):
    """A data.yaml and one picture a split, the rows being those of train."""
    for split, content in (("train", rows), ("val", "1 0.5 0.5 1 1\n")):
        save_picture(folder / "images" / split / "1.png")
        file = folder / "labels" / split / "1.txt"
        file.parent.mkdir(parents=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    values = {"train": "images/train", "val": "images/val", "names": ["nut", "bolt"]}
    values |= config or {}
    (folder / "data.yaml").write_text(yaml.safe_dump(values) if text is None else text)
    return folder


def zipped(members):
    """The bytes of a zip."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def published_archive(mirror, content, name, parts, *answers):
    """An archive of a published data set, on a mirror that gives these answers, else the whole."""
    url = mirror.serve(*(answers or (ranged(content),)), name=name)
    file = PublishedFile(name, len(content), hashlib.sha256(content).hexdigest(), (url,))
    return Archive(file, parts)
