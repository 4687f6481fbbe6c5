"""Forms of data sets that are not read, known by their files, with what to do instead."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from itertools import islice

from ssd34.datasets.contents import Contents
from ssd34.errors import ImageError
from ssd34.files.tree import Files

_HEAD = 256 << 10
"""Bytes of a file by which its form is known."""

_FEW = 20
"""Files of one ending that are looked at."""

_DATUM = (
    "convert it: pip install datumaro[cli]; datum convert -if {} -i FOLDER -f {} -o NEW -- "
    "--save-media"
)
_ELSEWHERE = 'export it as "COCO", "Pascal VOC" or "YOLO" where it was made'

_BARE_YOLO = "YOLO without classes"

ADVICE = {
    "CVAT XML": 'export it from CVAT as "COCO 1.0", "Pascal VOC 1.1" or "Ultralytics YOLO '
    'Detection 1.0", with "Save images"',
    "LabelMe": "convert it: pip install globox; globox convert -f labelme -F pascalvoc "
    "FOLDER FOLDER",
    "LabelMe XML": _DATUM.format("label_me", "voc"),
    "Label Studio JSON": 'export it from Label Studio as "YOLO with images", "COCO" or "Pascal VOC '
    'XML"',
    "Datumaro JSON": _DATUM.format("datumaro", "coco_instances"),
    "Open Images": _DATUM.format("open_images", "coco_instances"),
    "KITTI": _DATUM.format("kitti_detection", "coco_instances"),
    "VIA": "export it from VIA with Annotation > Export Annotations (COCO format)",
    "CreateML": 'export it as "COCO" or "Pascal VOC" where it was made; labelImg saves either '
    "CreateML or Pascal VOC",
    "WIDER FACE": _DATUM.format("wider_face", "coco_instances"),
    "DOTA": "convert it to YOLO OBB with ultralytics' convert_dota_to_yolo_obb; of a rotated box "
    "the upright one around it is read",
    "COCO results": "give the annotations; results belong to evaluate --detections",
    "Supervisely": 'export it with the app "Export to COCO" or "Export to YOLOv8"',
    "Labelbox NDJSON": "convert it: pip install labelformat; labelformat convert --help",
    "TFRecord": _ELSEWHERE,
    _BARE_YOLO: "write classes.txt beside it, a name a line in their order",
    "Keras TXT": 'export it as "COCO", "Pascal VOC" or "YOLO" for PyTorch or Darknet',
    "a table of boxes (CSV)": _ELSEWHERE,
}
"""What to do with a form that is not read."""


def name_foreign(contents: Contents) -> str:
    """The form of a data set that is not read, by the first file that tells; or ""."""
    for suffixes in _BY_SUFFIX:
        for file in contents.ending(*suffixes)[:_FEW]:
            if known := form_of_file(contents.files, file):
                return f"{file} is {known}"
    return ""


def form_of_file(files: Files, file: str) -> str:
    """The form of a file that is not read, and what to do; "" where it is not recognised."""
    for suffixes, form_of in _BY_SUFFIX.items():
        if file.lower().endswith(suffixes) and (form := form_of(files, file)) in ADVICE:
            return f"{form}, which is not read; {ADVICE[form]}"
    return ""


def form_of_json(files: Files, file: str) -> str:
    """What a .json is, by the keys at its beginning: COCO, one of `ADVICE`, or ""."""
    opening, lists, keys = _outline(_head(files, file))
    top, below = keys[1], keys[2]
    if opening == "[":
        if {"image_id", "bbox"} <= below:
            return "COCO results"
        if {"image", "imagefilename"} & below and (
            "annotations" in below or "coordinates" in keys[4]
        ):
            return "CreateML"
        studio = {"data", "annotation_id", "annotator", "completions"} & below
        known = "id" in below and (studio or "completed_by" in keys[4])
        return "Label Studio JSON" if known else ""
    if {"data", "annotations"} <= top:
        return "Label Studio JSON"
    if "dm_format_version" in top or {"items", "categories"} <= top:
        return "Datumaro JSON"
    if {"_via_settings", "_via_img_metadata"} & top or {"filename", "regions"} <= below:
        return "VIA"
    if "imageData" in top or ("shapes" in top and {"imagePath", "flags", "version"} & top):
        return "LabelMe"
    if "classTitle" in below | keys[3] | keys[4]:
        return "Supervisely"
    if {"data_row", "projects"} <= top:
        return "Labelbox NDJSON"
    return "COCO" if {"images", "annotations"} & lists else ""


_TOKENS = re.compile(r'("(?:[^"\\]|\\.)*")(?:\s*(:)\s*(\[)?)?|[{}\[\]]')


def _outline(text: str) -> tuple[str, set[str], list[set[str]]]:
    """Of a JSON's beginning: first bracket, top keys that hold lists, keys in depths to 4."""
    keys: list[set[str]] = [set() for _ in range(5)]
    lists: set[str] = set()
    depth = 0
    for token in _TOKENS.finditer(text):
        if token[0] in ("{", "["):
            depth += 1
        elif token[0] in ("}", "]"):
            depth -= 1
        elif token[2] and 0 < depth < len(keys):
            keys[depth].add(token[1][1:-1])
            if depth == 1 and token[3]:
                lists.add(token[1][1:-1])
        depth += bool(token[3])
    return text.lstrip("\ufeff \t\r\n")[:1], lists, keys


def _head(files: Files, file: str) -> str:
    try:
        with files.opened(file) as stream:
            return stream.read(_HEAD).decode("utf-8", "replace")
    except (ImageError, OSError):
        return ""


def _form_of_xml(files: Files, file: str) -> str:
    text = _head(files, file)
    root = re.search(r"<([A-Za-z]\w*)", text)
    if root and root[1] == "annotations" and re.search(r"<(image|track|meta|version)\b", text):
        return "CVAT XML"
    if root and root[1] == "annotation" and "<polygon>" in text and "<bndbox>" not in text:
        return "LabelMe XML"
    return ""


def _form_of_table(files: Files, file: str) -> str:
    first = _head(files, file).partition("\n")[0].lower()
    if "imageid" in first and "labelname" in first:
        return "Open Images"
    if "region_shape_attributes" in first:
        return "VIA"
    return "a table of boxes (CSV)" if "xmin" in first and "," in first else ""


_KITTI = re.compile(r"\S+( -?\d+(\.\d+)?(e-?\d+)?){14,15}\s*$", re.ASCII)
_YOLO = re.compile(r"\d+( [01](\.\d+)?(e-?\d+)?){4,5}\s*$", re.ASCII)
_DOTA = re.compile(r"(-?\d+(\.\d+)? ){8}\S+ \d+\s*$", re.ASCII)


def has_yolo_rows(files: Files, file: str) -> bool:
    """Whether a .txt begins as YOLO's label files do."""
    return _form_of_text(files, file) == _BARE_YOLO


def _form_of_text(files: Files, file: str) -> str:
    folder, name = posixpath.split(file)
    if "bbx_gt" in name or "wider_face" in name:
        return "WIDER FACE"
    if posixpath.basename(folder).lower().startswith("labeltxt"):
        return "DOTA"
    if name == "_annotations.txt":
        return "Keras TXT"
    for line in islice(_head(files, file).splitlines(), 4):
        if _KITTI.match(line) and not line[0].isdigit():
            return "KITTI"
        if _YOLO.match(line):
            return _BARE_YOLO
        if _DOTA.match(line) or line.startswith("imagesource:"):
            return "DOTA"
    return ""


_BY_SUFFIX: dict[tuple[str, ...], Callable[[Files, str], str]] = {
    (".json", ".ndjson"): form_of_json,
    (".xml",): _form_of_xml,
    (".csv",): _form_of_table,
    (".txt",): _form_of_text,
    (".tfrecord", ".tfrecords"): lambda _files, _file: "TFRecord",
}
