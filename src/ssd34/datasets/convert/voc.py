"""Pascal VOC data sets, written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

from ssd34.core.labels import LabelSet
from ssd34.datasets.convert.dropped import WrittenSplit
from ssd34.datasets.dataset import Sample
from ssd34.datasets.voc import ANNOTATIONS, CLASSES, SPLITS
from ssd34.files.tree import path_of
from ssd34.text import plain, shortest


def write_voc(folder: Path, splits: Sequence[WrittenSplit]) -> None:
    """Write ``Annotations``, ``ImageSets/Main`` and ``classes.txt`` beside the pictures.

    Corners count from 1 and belong to the box. Where a box has fractions of pixels, so have they;
    they read as the same float32, but for what is nearer than 1e-8 pixels to the edge.
    """
    (folder / ANNOTATIONS).mkdir()
    (folder / SPLITS).mkdir(parents=True)
    written: set[str] = set()
    for split in splits:
        stems = [PurePosixPath(picture.path).stem for picture in split.pictures]
        (folder / SPLITS / path_of(f"{split.name}.txt")).write_text(_lines(stems), encoding="utf-8")
        for stem, picture in zip(stems, split.pictures, strict=True):
            if stem not in written:
                tree = _annotation(picture.path, picture.sample, split.labels)
                tree.write(folder / ANNOTATIONS / path_of(f"{stem}.xml"), encoding="utf-8")
            written.add(stem)
    (folder / CLASSES).write_text(_lines(splits[0].labels.names), encoding="utf-8")


def _lines(texts: Sequence[str]) -> str:
    return "".join(f"{text}\n" for text in texts)


def _annotation(path: str, sample: Sample, labels: LabelSet) -> ElementTree[Element]:
    root = Element("annotation")
    picture = PurePosixPath(path)
    _add(root, "folder", picture.parent.name)
    _add(root, "filename", picture.name)
    size = SubElement(root, "size")
    for name, value in (("width", sample.width), ("height", sample.height), ("depth", 3)):
        _add(size, name, str(value))
    _add(root, "segmented", "0")
    for box, label, ignored in zip(sample.boxes, sample.labels, sample.ignored, strict=True):
        thing = SubElement(root, "object")
        _add(thing, "name", labels.name(int(label)))
        _add(thing, "pose", "Unspecified")
        _add(thing, "truncated", "0")
        _add(thing, "difficult", str(int(ignored)))
        corners = SubElement(thing, "bndbox")
        left, top, right, bottom = map(shortest, box)
        sides = (("xmin", left + 1), ("ymin", top + 1), ("xmax", right), ("ymax", bottom))
        for name, side in sides:
            _add(corners, name, plain(side))
    indent(root, "\t")
    return ElementTree(root)


def _add(parent: Element, name: str, text: str) -> None:
    SubElement(parent, name).text = text
