"""Pictures, as files' bytes and on the disk."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

ORIENTATION = 0x0112
"""EXIF's tag."""


def noise(height=20, width=30, channels=3, seed=0):
    shape = (height, width, channels) if channels else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def encoded(picture, form="PNG", **options):
    """The bytes of a Pillow image or of an array."""
    picture = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()


def png(width=40, height=50, colour="red"):
    return encoded(Image.new("RGB", (width, height), colour))


def save_picture(path, width=40, height=50, colour="red"):
    """Of one colour, in the format of the ending; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), colour).save(path)
    return path


def exif_of(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header_only(width, height):
    """A PNG that claims a size but holds no more than a few bytes of 1-bit pixels."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 64)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)
