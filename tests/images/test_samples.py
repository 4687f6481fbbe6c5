"""One scene in every kind of samples: it is read as what it shows, or refused.

The files are written by hand after the formats' specifications, so that no library's own reading
of them is asked.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ssd34.errors import ImageError
from ssd34.images.read import make_rgb_picture, read_image, read_image_size
from ssd34.images.reduced import read_square
from tests.support.pictures import encoded, png_chunk

WIDTH, HEIGHT = 32, 24
GREY = np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))
RGB = np.stack([GREY, GREY[:, ::-1], np.full_like(GREY, 90)], axis=-1)
SIXTEEN = GREY.astype(np.uint16) * 257
CLEAR = np.array([0, 255], np.uint8)[None].repeat(WIDTH // 2, axis=1).repeat(HEIGHT, axis=0)
"""Alpha: the left half is transparent."""
INKS = np.dstack([255 - RGB, np.zeros_like(GREY)])


def seen(pixels, hidden=None):
    """What a picture shows, white where it is transparent."""
    shown = np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels
    return shown if hidden is None else np.where(hidden[..., None], 255, shown)


def bits_of(values, bits):
    """Rows of samples of some bits, each row filled up to whole bytes."""
    wide = np.unpackbits(values.astype(">u2").view(np.uint8).reshape(*values.shape, 2), axis=-1)
    return np.packbits(wide[..., 16 - bits :].reshape(len(values), -1), axis=-1).tobytes()


def tiff(*strips, bits, white=1, samples=1, form=1, order="<", extra=(), colours=(), packed=False):
    """A TIFF: `white` is its photometric interpretation; more strips than one are planes."""
    data = [zlib.compress(strip) if packed else strip for strip in strips]
    tags = {
        256: [WIDTH], 257: [HEIGHT], 258: [bits] * samples, 259: [8 if packed else 1],
        262: [white], 273: [0] * len(data), 277: [samples], 278: [HEIGHT],
        279: [len(strip) for strip in data], 284: [2 if len(data) > 1 else 1],
        320: list(colours), 338: list(extra), 339: [form] * samples,
    }  # fmt: skip
    tags = {tag: values for tag, values in tags.items() if values}
    start = 10 + 12 * len(tags) + 4
    offsets = start + np.cumsum([0, *tags[279]])
    tags[273] = offsets[:-1].tolist()
    entries, values_after = b"", b""
    for tag, values in tags.items():
        kind, letter = (4, "I") if tag in (273, 279) else (3, "H")
        value = struct.pack(f"{order}{len(values)}{letter}", *values)
        if len(value) > 4:
            place = int(offsets[-1]) + len(values_after)
            values_after += value
            value = struct.pack(f"{order}I", place)
        entries += struct.pack(f"{order}HHI", tag, kind, len(values)) + value.ljust(4, b"\0")
    mark = b"II" if order == "<" else b"MM"
    head = struct.pack(f"{order}2sHIH", mark, 42, 8, len(tags)) + entries + bytes(4)
    return head + b"".join(data) + values_after


def png(rows, *, bits, colour, clear=b"", gamma=None):
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, colour, 0, 0, 0)
    chunks = [(b"IHDR", header)]
    if gamma:
        chunks.append((b"gAMA", struct.pack(">I", gamma)))
    if clear:
        chunks.append((b"tRNS", clear))
    chunks += [(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def rows_of(array):
    return [row.tobytes() for row in array]


def bmp(data, masks=()):
    """A BMP of 16 or 32 bits a pixel, rows from the top."""
    bits = len(data) * 8 // (WIDTH * HEIGHT)
    size = 108 if masks else 40
    head = struct.pack("<IiiHHII", size, WIDTH, -HEIGHT, 1, bits, 3 if masks else 0, len(data))
    head = (head + bytes(16) + struct.pack(f"<{len(masks)}I", *masks)).ljust(size, b"\0")
    return struct.pack("<2sIHHI", b"BM", 14 + size + len(data), 0, 0, 14 + size) + head + data


def pnm(kind, most, values):
    scaled = np.rint(values * (most / 255)).astype(np.int64)
    head = f"P{kind} {WIDTH} {HEIGHT} {most}\n".encode()
    if kind in (2, 3):
        return head + " ".join(map(str, scaled.ravel())).encode()
    return head + scaled.astype(">u2" if most > 255 else "u1").tobytes()


def right():
    """Files; what they show, else `GREY`; by how much a decoder may be off, else not at all."""
    for order in "<>":
        for packed in (False, True):
            about = {"order": order, "packed": packed}
            name = f"{'packed ' if packed else ''}{order}"
            wide = f"{order}u2"
            yield f"grey {name}", tiff(GREY.tobytes(), bits=8, **about)
            yield f"white 0 {name}", tiff((255 - GREY).tobytes(), bits=8, white=0, **about)
            yield f"grey 16 {name}", tiff(SIXTEEN.astype(wide).tobytes(), bits=16, **about)
            for white in (0, 1) if order == "<" or not packed else ():  # refused, see below
                stored = (GREY / 255 if white else 1 - GREY / 255).astype(f"{order}f4")
                file = tiff(stored.tobytes(), bits=32, form=3, white=white, **about)
                yield f"float {white} {name}", file, seen(GREY), 1
            rgb = (RGB.astype(np.uint16) * 257).astype(wide)
            yield f"rgb 16 {name}", tiff(rgb.tobytes(), bits=16, white=2, samples=3, **about), RGB
            planes = [np.ascontiguousarray(RGB[..., k]).tobytes() for k in range(3)]
            yield f"planes {name}", tiff(*planes, bits=8, white=2, samples=3, **about), RGB
            inks = (INKS.astype(np.uint16) * 257).astype(wide).tobytes()
            yield f"inks 16 {name}", tiff(inks, bits=16, white=5, samples=4, **about), RGB, 1
            for extra in (0, 1, 2):
                grey = np.where(CLEAR == 0, 0, GREY) if extra == 1 else GREY
                data = np.dstack([grey, CLEAR]).astype(np.uint8).tobytes()
                file = tiff(data, bits=8, samples=2, extra=(extra,), **about)
                yield f"grey with {extra} {name}", file, seen(GREY, (CLEAR == 0) if extra else None)
            for what, scale in (("palette", 257), ("palette of bytes", 1)):
                colours = [scale * k for k in range(256)] * 3
                file = tiff(GREY.tobytes(), bits=8, white=3, colours=colours, **about)
                yield f"{what} {name}", file
    for packed in (False, True):
        inverse = (65535 - SIXTEEN).astype("<u2").tobytes()
        yield f"white 0 16 {packed}", tiff(inverse, bits=16, white=0, packed=packed)
        file = tiff(bits_of(SIXTEEN >> 4, 12), bits=12, packed=packed)
        yield f"grey 12 {packed}", file, seen(GREY), 1
    wide = rows_of(SIXTEEN.astype(">u2"))
    clear = SIXTEEN[0, 9]
    yield "png 16", png(wide, bits=16, colour=0, gamma=45455)
    file = png(wide, bits=16, colour=0, clear=struct.pack(">H", clear))
    yield "png 16 clear", file, seen(GREY, clear == SIXTEEN)
    yield "png 16 clear nowhere", png(wide, bits=16, colour=0, clear=struct.pack(">H", clear + 1))
    for bits in (1, 2, 4):
        values = GREY >> (8 - bits)
        rows = [bits_of(row[None], bits) for row in values]
        shown = values * (255 // (2**bits - 1))
        yield f"png {bits}", png(rows, bits=bits, colour=0), seen(shown)
        for k in range(2**bits):
            file = png(rows, bits=bits, colour=0, clear=struct.pack(">H", k))
            yield f"png {bits} clear {k}", file, seen(shown, values == k)
    for most in (1, 15, 100, 255, 1023, 65535):
        grey, colour = (np.rint(np.rint(p * (most / 255)) * (255 / most)) for p in (GREY, RGB))
        for kind, pixels, shown in ((2, GREY, seen(grey)), (5, GREY, seen(grey)),
                                    (3, RGB, colour), (6, RGB, colour)):  # fmt: skip
            yield f"P{kind} {most}", pnm(kind, most, pixels), shown, 1
    for scale, order in ((-1, "<"), (1, ">")):
        head = f"Pf\n{WIDTH} {HEIGHT}\n{scale:.1f}\n".encode()
        values = (GREY / 255).astype(f"{order}f4")[::-1]
        yield f"pfm {order}", head + values.tobytes(), seen(GREY), 1
    four = np.dstack([RGB[..., ::-1], CLEAR])
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    yield "bmp alpha", bmp(four.tobytes(), masks), seen(RGB, CLEAR == 0)
    four[..., 3] = 0
    yield "bmp unused", bmp(four.tobytes()), RGB
    yield "bmp alpha unfilled", bmp(four.tobytes(), masks), RGB
    red, green, blue = (RGB[..., k].astype(np.uint16) >> 3 for k in range(3))
    yield "bmp 16", bmp((red << 10 | green << 5 | blue).astype("<u2").tobytes()), RGB, 8
    lossless: dict[str, dict[str, object]] = {
        "WEBP": {"lossless": True},
        "AVIF": {"quality": 100, "subsampling": "4:4:4"},
        "JPEG": {"quality": 100, "subsampling": 0},
    }
    for form in ("PNG", "BMP", "TIFF", "PPM", "JPEG2000", *lossless):
        file = encoded(Image.fromarray(RGB), form, **lossless.get(form, {}))
        yield form, file, RGB, 4 if form in ("AVIF", "JPEG") else 0
    for picture in (Image.fromarray(SIXTEEN), Image.fromarray(GREY)):
        yield f"jp2 {picture.mode}", encoded(picture, "JPEG2000")
    yield "gif", encoded(Image.fromarray(GREY), "GIF")
    printed = Image.frombytes("CMYK", (WIDTH, HEIGHT), INKS.tobytes())
    yield "jpeg inks", encoded(printed, "JPEG", quality=100, subsampling=0), RGB, 4


def unknown():
    """TIFFs whose white is not known, or that no reader here puts in order."""
    for order in "<>":
        for bits, form, kind in ((8, 2, "i1"), (16, 2, "i2"), (32, 2, "i4"), (32, 1, "u4"),
                                 (16, 3, "f2")):  # fmt: skip
            values = (GREY >> 1).astype(f"{order}{kind}").tobytes()
            yield f"{kind} {order}", tiff(values, bits=bits, form=form, order=order)
        planes = [(RGB[..., k].astype(f"{order}u2") * 257).tobytes() for k in range(3)]
        yield f"planes 16 {order}", tiff(*planes, bits=16, white=2, samples=3, order=order)
    floats = (GREY / 255).astype(">f4").tobytes()
    yield "packed float >", tiff(floats, bits=32, form=3, order=">", packed=True)
    yield "white 0 16 >", tiff(SIXTEEN.astype(">u2").tobytes(), bits=16, white=0, order=">")
    for packed in (False, True):
        planes = [GREY.tobytes(), CLEAR.tobytes()]
        yield f"grey planes {packed}", tiff(*planes, bits=8, samples=2, extra=(2,), packed=packed)


RIGHT = {name: (file, *rest, *(seen(GREY), 0)[len(rest) :]) for name, file, *rest in right()}
UNKNOWN = dict(unknown())


@pytest.mark.parametrize("name", RIGHT)
def test_the_scene_is_read_as_it_shows(name):
    file, shown, off = RIGHT[name]
    np.testing.assert_allclose(read_image(file).astype(int), shown, atol=off)
    small = read_square(file, max(WIDTH, HEIGHT)).picture
    whole = Image.fromarray(read_image(file)).resize(small.size, Image.Resampling.BILINEAR)
    np.testing.assert_allclose(np.asarray(small).astype(int), np.asarray(whole), atol=1)


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_cannot_be_read_rightly_is_refused(name, tmp_path):
    file = tmp_path / "scene.tif"
    file.write_bytes(UNKNOWN[name])
    for source in (file, UNKNOWN[name]):
        with pytest.raises(ImageError, match="convert"):
            read_image(source)
    with file.open("rb") as stream, pytest.raises(ImageError, match="scene"):
        read_image_size(stream, "scene")


def test_signed_samples_of_an_open_picture_are_refused(tmp_path):
    (tmp_path / "a.tif").write_bytes(UNKNOWN["i2 <"])
    with Image.open(tmp_path / "a.tif") as image, pytest.raises(ImageError):
        make_rgb_picture(image)
