"""The boxes that our own NMS looks at, picked from the heads' bytes: most of these never become
floats. What comes out is equal to what the file's own operators give."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from ssd34.core.contract import PROMISING, TAIL_INPUTS

Constants = Mapping[str, NDArray[Any]]


class Head(NamedTuple):
    """A convolution whose channels are `values` of each of `boxes` boxes: channel k * boxes + b is
    value k of box b, (byte - zero) * scale."""

    exit: str
    values: int
    boxes: int
    scale: np.float32
    zero: np.float32

    def pixels(self, exits: Mapping[str, NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """Its bytes of one picture, (pixels, channels)."""
        made = exits[self.exit]
        return made.reshape(-1, made.shape[-1])[:, : self.values * self.boxes]

    def rows(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(N, channels) to (boxes * N, values), all pixels' first boxes first."""
        by_box = pixels.reshape(-1, self.values, self.boxes).transpose(2, 0, 1)
        return by_box.reshape(-1, self.values)

    def to_float(self, steps: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What DequantizeLinear makes of bytes."""
        return np.subtract(steps, self.zero, dtype=np.float32) * self.scale


class Sieve(NamedTuple):
    """Lets the boxes through in which a class's logit exceeds the background's by more than a
    margin.

    Attributes:
        levels: the heads of offsets, with 4 values, and of logits, background first, that look at
            the same pixels; in the order of their boxes.
        margin: float32, of logits.
    """

    levels: tuple[tuple[Head, Head], ...]
    margin: np.float32

    @property
    def exits(self) -> list[str]:
        """What it reads."""
        return [head.exit for level in self.levels for head in level]

    def pick(self, exits: Mapping[str, NDArray[np.uint8]]) -> dict[str, NDArray[Any]]:
        """Exits of one picture, each (1, H, W, channels or more) uint8, to indices (P,) int64,
        ascending, logits (1, P, values) and offsets (1, P, 4) float32, under their names."""
        indices, logits, offsets, start = [], [], [], 0
        for loc, conf in self.levels:
            pixels = conf.pixels(exits)
            # Most have no chance, even the best of their classes against the least background.
            # Floats are far finer than a step of the bytes, so rounding hides none.
            lead = pixels[:, conf.boxes :].max(axis=1).astype(np.int16)
            lead -= reduce(np.minimum, pixels[:, : conf.boxes].T)
            near = np.flatnonzero(lead >= math.floor(self.margin / conf.scale))
            rows = conf.rows(pixels[near])
            best, background = conf.to_float(rows[:, 1:].max(axis=1)), conf.to_float(rows[:, 0])
            kept = np.flatnonzero(best - background > self.margin)
            boxes = start + len(pixels) * np.arange(conf.boxes)[:, None] + near
            indices.append(boxes.reshape(-1)[kept])
            logits.append(conf.to_float(rows[kept]))
            offsets.append(loc.to_float(loc.rows(loc.pixels(exits)[near])[kept]))
            start += len(pixels) * conf.boxes
        found = np.concatenate(indices), np.concatenate(logits)[None], np.concatenate(offsets)[None]
        return dict(zip(PROMISING, found, strict=True))


def find_sieve(
    nodes: Sequence[onnx.NodeProto], constants: Constants, channels: Mapping[str, int]
) -> Sieve | None:
    """The sieve of a file, whose convolutions in bytes have so many channels by name; None: its
    NMS is not ours or looks at all boxes, or not all heads are in bytes."""
    made = {name: node for node in nodes for name in node.output}
    compared = made.get("tail.promising")
    if compared is None or compared.op_type != "Greater":
        return None
    if not made.keys() >= {*PROMISING, *TAIL_INPUTS}:
        return None
    if any(made[joined].op_type != "Concat" for joined in TAIL_INPUTS):
        return None
    margin = constants.get(compared.input[1], np.zeros(0))
    loc, conf = (
        [_read_head(name, made, constants, channels) for name in made[joined].input]
        for joined in TAIL_INPUTS
    )
    levels = [(one, other) for one, other in zip(loc, conf, strict=False) if one and other]
    whole = margin.size == 1 and len(loc) == len(conf) == len(levels)
    if not whole or any(one.boxes != other.boxes for one, other in levels):
        return None
    return Sieve(tuple(levels), np.float32(margin.item()))


def _read_head(
    name: str,
    made: Mapping[str, onnx.NodeProto],
    constants: Constants,
    channels: Mapping[str, int],
) -> Head | None:
    """What becomes a value (1, values, A) by a Reshape and a DequantizeLinear, in either order."""
    found: dict[str, list[NDArray[Any]]] = {}
    while name not in channels:
        node = made.get(name)
        if (
            node is None
            or node.op_type in found
            or any(other not in constants for other in node.input[1:])
        ):
            return None
        found[node.op_type] = [constants[other] for other in node.input[1:]]
        name = node.input[0]
    if found.keys() != {"Reshape", "DequantizeLinear"}:
        return None
    (shape,), steps = found["Reshape"], found["DequantizeLinear"]
    if len(steps) != 2 or any(one.size != 1 for one in steps) or len(shape) != 3 or shape[1] < 2:
        return None
    scale, zero = (np.float32(one.item()) for one in steps)
    values = int(shape[1])
    return Head(name, values, channels[name] // values, scale, zero)
