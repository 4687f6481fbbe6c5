"""One picture of the suspicious pictures: boxes drawn, the reason below each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ssd34.datasets.check import Finding
from ssd34.datasets.dataset import Dataset, Kind, Sample
from ssd34.errors import ImageError
from ssd34.images.draw import Words, draw_grid, wrap
from ssd34.images.read import read_image

Box = tuple[float, float, float, float]

_COLUMNS = 5
_VIEW = (300, 225)
"""Width and height of the place for a picture, in pixels of the sheet."""
_CAPTION_LINES = 5
_BEYOND = 0.5
"""How much beyond the picture is shown for boxes that lead out, in its sides."""
_RING = 14
"""Radius of what points at a box that is too small to be seen."""

_PAPER, _VOID = "#eceef2", "#dfe3e9"
_INK, _GREY, _RED, _OTHER = "#1b1f27", "#5b6472", "#d92d20", "#1f6feb"


@dataclass
class _Tile:
    """What one picture of the sheet shows."""

    dataset: Dataset
    sample: Sample
    findings: list[Finding]

    @property
    def kinds(self) -> list[Kind]:
        return list(dict.fromkeys(finding.problem.kind for finding in self.findings))

    @property
    def boxes(self) -> list[Box]:
        return [finding.problem.box for finding in self.findings if finding.problem.box]


def draw_contact_sheet(findings: Sequence[Finding], *, most: int) -> Image.Image | None:
    """A sheet of at most so many suspicious pictures, of which every kind gets its share; None
    where no finding has a picture."""
    tiles = _tiles(findings)
    if not tiles:
        return None
    shown = _share(tiles, most)
    title = f"{len(shown)} of {len(tiles)} suspicious pictures"
    if alone := sum(finding.sample is None for finding in findings):
        title += f"; findings without a picture: {alone}"
    several = len({finding.dataset.name for finding in findings}) > 1
    return draw_grid(
        [_picture(tile) for tile in shown],
        [_caption(tile, several=several) for tile in shown],
        head=([(_INK, title)], [(_RED, "red: in question"), (_OTHER, "blue: other boxes")]),
        columns=min(_COLUMNS, len(shown)),
        paper=_PAPER,
    )


def _tiles(findings: Iterable[Finding]) -> list[_Tile]:
    """One for each picture, in order."""
    tiles: dict[int, _Tile] = {}
    for finding in findings:
        if finding.sample is not None:
            new = _Tile(finding.dataset, finding.sample, [])
            tiles.setdefault(id(finding.sample), new).findings.append(finding)
    return list(tiles.values())


def _share(tiles: list[_Tile], most: int) -> list[_Tile]:
    """At most so many, the kinds in turn; then sorted by kind."""
    queues: dict[Kind, list[_Tile]] = {}
    for tile in tiles:
        queues.setdefault(tile.kinds[0], []).append(tile)
    taken: dict[Kind, int] = dict.fromkeys(queues, 0)
    room = min(most, len(tiles))
    while room:
        for kind, queue in queues.items():
            if room and taken[kind] < len(queue):
                taken[kind] += 1
                room -= 1
    order = [kind for kind in Kind if kind in queues]
    return [tile for kind in order for tile in queues[kind][: taken[kind]]]


def _picture(tile: _Tile) -> Image.Image:
    """A picture, beside the one of which it is a twin."""
    twin = next((finding.twin for finding in tile.findings if finding.twin), None)
    if twin is None:
        return _view(tile.dataset, tile.sample, tile.boxes, _VIEW)
    both = Image.new("RGB", _VIEW, _PAPER)
    half = ((_VIEW[0] - 2) // 2, _VIEW[1])
    both.paste(_view(*twin, [], half), (0, 0))
    both.paste(_view(tile.dataset, tile.sample, tile.boxes, half), (_VIEW[0] - half[0], 0))
    return both


def _caption(tile: _Tile, *, several: bool) -> list[Words]:
    """What is wrong with a picture; where there are several data sets, with the name of its own."""
    name = tile.sample.file_name
    if several:
        name += f" in {Path(tile.dataset.name).name}"
    reasons = tile.findings[0].problem.reason
    if len(tile.findings) > 1:
        reasons += f" (and {len(tile.findings) - 1} more)"
    lines: list[Words] = [
        (colour, line)
        for colour, text in ((_RED, ", ".join(tile.kinds)), (_INK, name), (_GREY, reasons))
        for line in wrap(text, _VIEW[0])
    ]
    if len(lines) > _CAPTION_LINES:
        lines[_CAPTION_LINES - 1 :] = [(_GREY, "...")]
    return lines


def _view(
    dataset: Dataset, sample: Sample, suspicious: list[Box], room: tuple[int, int]
) -> Image.Image:
    """A picture and its boxes in a space of that width and height; where a box in question leads
    out, with some of what lies beyond the edge."""
    view = Image.new("RGB", room, _VOID)
    canvas = ImageDraw.Draw(view)
    try:
        pixels = read_image(dataset.images.read_bytes(sample.file_name))
    except ImageError:
        canvas.text((room[0] / 2, room[1] / 2), "cannot be shown", fill=_GREY, anchor="mm")
        return view
    height, width = pixels.shape[:2]
    # Annotations may be made for a picture of another size.
    frames = [(0.0, 0.0, float(width), float(height))]
    if (width, height) != (sample.width, sample.height):
        frames.append((0.0, 0.0, float(sample.width), float(sample.height)))
    left, top, right, bottom = _visible(frames, suspicious)
    scale = min(room[0] / (right - left), room[1] / (bottom - top))
    x = (room[0] - scale * (right - left)) / 2 - scale * left
    y = (room[1] - scale * (bottom - top)) / 2 - scale * top

    def placed(box: Box) -> Box:
        ends = (x + scale * box[0], y + scale * box[1], x + scale * box[2], y + scale * box[3])
        # Far outside, a box must still leave a trace at the edge of the view.
        far = [min(max(end, 1.0), room[k % 2] - 2.0) for k, end in enumerate(ends)]
        return far[0], far[1], max(far[0], far[2]), max(far[1], far[3])

    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    shown = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS, reducing_gap=2)
    view.paste(shown, (round(x), round(y)))
    for frame in frames[1:]:
        canvas.rectangle(placed(frame), outline=_RED, width=2)
    marked = np.clip(np.array(suspicious).reshape(-1, 4), -1e9, 1e9).astype(np.float32)
    for values in sample.boxes.tolist():
        if values not in marked.tolist():
            canvas.rectangle(placed(_box(values)), outline=_OTHER, width=1)
    for box in suspicious:
        _mark(canvas, placed(box), room)
    return view


def _visible(frames: list[Box], boxes: list[Box]) -> Box:
    """The region to show: the frames, and of the boxes what is not too far away."""
    ends = np.array(frames)
    left, top = ends[:, :2].min(0)
    right, bottom = ends[:, 2:].max(0)
    x, y = _BEYOND * (right - left), _BEYOND * (bottom - top)
    for box in boxes:
        x0, x1, y0, y1 = *sorted(box[::2]), *sorted(box[1::2])
        left, right = min(left, max(x0, -x)), max(right, min(x1, frames[0][2] + x))
        top, bottom = min(top, max(y0, -y)), max(bottom, min(y1, frames[0][3] + y))
    return float(left), float(top), float(right), float(bottom)


def _mark(canvas: ImageDraw.ImageDraw, box: Box, room: tuple[int, int]) -> None:
    """A box in question; a tiny one also gets a ring, to be found."""
    canvas.rectangle((box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1), outline="white", width=4)
    canvas.rectangle(box, outline=_RED, width=2)
    if max(box[2] - box[0], box[3] - box[1]) < _RING:
        x = min(max((box[0] + box[2]) / 2, _RING + 1), room[0] - _RING - 2)
        y = min(max((box[1] + box[3]) / 2, _RING + 1), room[1] - _RING - 2)
        for radius, colour, line in ((_RING + 1, "white", 4), (_RING, _RED, 2)):
            ends = (x - radius, y - radius, x + radius, y + radius)
            canvas.ellipse(ends, outline=colour, width=line)


def _box(values: list[float]) -> Box:
    left, top, right, bottom = values
    return left, top, right, bottom
