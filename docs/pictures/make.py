"""Draws the pictures of docs/how-ssd-works.md with the package's own code.

Run ``python docs/pictures/make.py`` in the project's folder after ``pip install -e '.[dev]'``.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

import ssd34
from ssd34.core.boxes import xyxy_from_cxcywh
from ssd34.core.default_boxes import decode, default_boxes_cxcywh
from ssd34.core.postprocess import ZOO, pick, softmax
from ssd34.core.preprocess import resize
from ssd34.core.spec import SPECS
from ssd34.deploy.graph.export import ExportOptions
from ssd34.images.draw import Colour, choose_colour
from ssd34.images.read import read_image
from ssd34.runtime.detector import Detector
from ssd34.train.examples.matcher import list_levels, match

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples"
SPEC = SPECS["ssd300-resnet34"]
SIDE = 360
"""Pixels of a panel."""
INK, PAPER = (32, 36, 44), (255, 255, 255)
BLUE, ORANGE = (38, 110, 220), (236, 120, 20)


def panel(name: str) -> Image.Image:
    """An example picture as the network sees it: square."""
    picture = read_image(EXAMPLES / f"{name}.jpg")
    return Image.fromarray(resize(picture, SPEC.image_size)).resize((SIDE, SIDE))


def outline(
    canvas: ImageDraw.ImageDraw, box: NDArray[np.float32], colour: Colour, line: int = 1
) -> None:
    """Draw a box, xyxy in fractions of the panel."""
    left, top, right, bottom = np.clip(box, 0, 1) * (SIDE - 1)
    canvas.rectangle((left, top, right, bottom), outline=colour, width=line)


def side_by_side(panels: list[tuple[str, Image.Image]], columns: int, path: Path) -> None:
    """Panels with a line of text above each, as one JPEG."""
    gap, text = 8, 30
    rows = -(-len(panels) // columns)
    size = (columns * (SIDE + gap) - gap, rows * (SIDE + text + gap) - gap)
    sheet = Image.new("RGB", size, PAPER)
    canvas = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=17)
    for number, (title, picture) in enumerate(panels):
        x, y = number % columns * (SIDE + gap), number // columns * (SIDE + text + gap)
        canvas.text((x, y + 4), title, fill=INK, font=font)
        sheet.paste(picture, (x, y + text))
    sheet.save(path, quality=82, optimize=True)


def draw_levels() -> None:
    """The default boxes of one cell of each level, and where the other cells are."""
    boxes = xyxy_from_cxcywh(default_boxes_cxcywh(SPEC))
    centres = default_boxes_cxcywh(SPEC)[:, :2]
    panels, start = [], 0
    for number, (side, count) in enumerate(list_levels(SPEC)):
        picture = panel("chelsea")
        canvas = ImageDraw.Draw(picture)
        for x, y in centres[start : start + side**2] * SIDE:
            canvas.ellipse((x - 1.5, y - 1.5, x + 1.5, y + 1.5), fill=BLUE)
        middle = side // 2 * side + side // 2
        for shape in range(count):
            outline(canvas, boxes[start + shape * side**2 + middle], ORANGE, 2)
        title = f"{number + 1}: {side} x {side} cells, {count} boxes each"
        panels.append((title, picture))
        start += side**2 * count
    side_by_side(panels, 3, HERE / "default-boxes.jpg")


def draw_matching() -> None:
    """The default boxes that learn the cup, by the published rule and by ATSS."""
    notes = json.loads((EXAMPLES / "instances.json").read_text())
    [image] = [one for one in notes["images"] if one["file_name"] == "coffee.jpg"]
    [cup] = [one for one in notes["annotations"] if one["category_id"] == 3]
    x, y, width, height = cup["bbox"]
    scale = np.array([image["width"], image["height"]] * 2, np.float32)
    truth = np.array([[x, y, x + width, y + height]], np.float32) / scale
    default = default_boxes_cxcywh(SPEC)
    panels = []
    for title, levels in (("published rule (IoU > 0.5)", None), ("ATSS", list_levels(SPEC))):
        found = match(truth, np.ones(1, np.int64), default_boxes_cxcywh=default, levels=levels)
        learns = np.flatnonzero(found.labels == 1)
        picture = panel("coffee")
        canvas = ImageDraw.Draw(picture)
        for box in xyxy_from_cxcywh(default[learns]):
            outline(canvas, box, BLUE)
        outline(canvas, truth[0], ORANGE, 3)
        panels.append((f"{title}: {len(learns)} default boxes", picture))
    side_by_side(panels, 2, HERE / "matching.jpg")


def draw_picking() -> None:
    """All scored boxes of a picture, those above a threshold, and what NMS leaves."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "raw.onnx"
        ssd34.export("default-float", path, ExportOptions(policy=None))
        session = Detector.load(path).session
        image = read_image(EXAMPLES / "chelsea.jpg")
        loc, conf = session.compute([session.prepare(image)])[0]
    boxes = decode(loc, default_boxes_cxcywh(SPEC))
    scores = softmax(conf)
    best, labels = scores[1:].max(axis=0), scores[1:].argmax(axis=0) + 1
    above = np.flatnonzero(best > 0.3)
    picked = pick(boxes, scores, policy=ZOO.replace(score_threshold=0.3))
    everything, candidates, kept = panel("chelsea"), panel("chelsea"), panel("chelsea")
    for index in range(0, len(boxes), 80):
        outline(ImageDraw.Draw(everything), boxes[index], BLUE)
    for index in map(int, above):
        outline(ImageDraw.Draw(candidates), boxes[index], choose_colour(int(labels[index])))
    for box, label in zip(picked.boxes, picked.labels, strict=True):
        outline(ImageDraw.Draw(kept), box, choose_colour(int(label)), 3)
    panels = [
        (f"{len(boxes)} boxes (one in eighty drawn)", everything),
        (f"{len(above)} score above 0.3", candidates),
        (f"{len(picked.boxes)} after NMS", kept),
    ]
    side_by_side(panels, 3, HERE / "picking.jpg")


if __name__ == "__main__":
    draw_levels()
    draw_matching()
    draw_picking()
