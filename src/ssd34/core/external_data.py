"""Weights that an ONNX file keeps in other files, found without the package onnx by walking the
fields of its protobuf messages; https://github.com/onnx/onnx/blob/main/onnx/onnx.proto numbers
them."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from ssd34.errors import ModelError

_INSIDE = {
    "model": {7: "graph", 25: "function"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse",
    },
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}  # fmt: skip
"""Message to the fields that lead to tensors, and what messages these are."""

_LOCATION = b"\x0a\x08location\x12"
"""An entry's key, and the tag of its value."""


def check_weights_inside(path: Path) -> None:
    """Refuse an ONNX file that keeps weights in other files: its checksum, by which results, trials
    and packages know a model, would not cover them: ModelError, which names the other file and says
    how to join the two. What is no ONNX file passes; its reader says so."""
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            try:
                other = next(_locations(content, 0, len(content), "model"), None)
            except (IndexError, ValueError, RecursionError):  # no protobuf message
                return
    if other is not None:
        raise ModelError(
            f"{path}: keeps weights in another file ({other}), which its checksum does not cover; "
            f'join them with: python -c "import onnx; onnx.save(onnx.load({str(path)!r}), '
            "'joined.onnx')\""
        )


def _locations(content: mmap.mmap, start: int, end: int, kind: str) -> Iterator[str]:
    """The names of other files in a message."""
    if kind == "entry":
        if content[start : start + len(_LOCATION)] == _LOCATION:
            size, first = _varint(content, start + len(_LOCATION))
            yield content[first : first + size].decode(errors="replace")
        return
    while start < end:
        tag, start = _varint(content, start)
        field, wire = tag >> 3, tag & 7
        if wire == 2:
            size, start = _varint(content, start)
            if start + size > end:
                raise ValueError("cut off")
            if field in _INSIDE[kind]:
                yield from _locations(content, start, start + size, _INSIDE[kind][field])
            start += size
        elif wire == 0:
            _, start = _varint(content, start)
        elif wire in (1, 5):
            start += 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")


def _varint(content: mmap.mmap, start: int) -> tuple[int, int]:
    """A number, and where the next thing begins."""
    value = shift = 0
    while True:
        byte = content[start]
        start += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, start
        if shift > 63:
            raise ValueError("not a number")
