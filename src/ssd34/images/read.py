"""Pictures from files, safely: whatever the colour mode, out comes (H, W, 3) uint8 RGB."""

from __future__ import annotations

import io
import os
import struct
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from ssd34.core.preprocess import check_pixels
from ssd34.errors import DownloadError, ImageError
from ssd34.machine import wait_unless

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")
"""The picture formats that are read. Others that Pillow knows run outside programs or are no
raster pictures, so they are left out on purpose."""

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".avif", ".bmp", ".gif",
     ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2")
)  # fmt: skip
"""File name endings that a folder search takes for pictures."""

MAX_PIXELS = 100_000_000
"""Default limit on width x height: a 10000 x 10000 picture takes 300 MB once decoded."""

MAX_PIPED_BYTES = 1 << 28
"""Limit on a picture that comes out of a pipe or from the web, as it is kept in memory."""

_pillow_limit = threading.Lock()

_BROKEN = (
    OSError, SyntaxError, ValueError, EOFError, MemoryError, RuntimeError, TypeError, LookupError,
    ArithmeticError, struct.error, Image.DecompressionBombError,
)  # fmt: skip
"""What Pillow raises for damaged files; RuntimeError comes from its AVIF decoder, TypeError and
struct.error from malformed EXIF of a TIFF, which it turns itself."""

Tag = ExifTags.Base
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture of an EXIF orientation stand upright. Source: EXIF 2.3, tag 274."""

_SAY_ORIENTATION = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")
"""Where Pillow keeps what an orientation is read from."""


class LargeImageError(ImageError):
    """More pixels than the limit; callers that have an option for it say so."""


def read_image(source: str | Path | bytes, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Decode a picture to (H, W, 3) uint8 RGB.

    The EXIF orientation is applied. Greyscale, palette, CMYK and 16-bit pictures are converted;
    transparent parts are shown on white. Of an animation, the first frame. Colour profiles and
    gamma are not applied.

    Args:
        source: a file, its address (``http://...`` or ``https://...``), or its bytes.
        max_pixels: refuse a picture with more pixels, before decoding it.

    Raises:
        ImageError: missing, unreadable, truncated, too large, or with samples whose white is not
            known; one line with the remedy.
    """
    with open_picture(fetched(source), max_pixels=max_pixels) as image:
        return np.asarray(decode_upright(image))


def is_address(source: object) -> bool:
    """Whether it is text that begins with ``http://`` or ``https://``; a path never is."""
    return isinstance(source, str) and source[:8].lower().startswith(("http://", "https://"))


class FetchedPicture(bytes):
    """What lies at an address, which messages about it name."""

    address: str


def fetched(source: str | Path | bytes, *, stopped: threading.Event | None = None) -> Path | bytes:
    """A file, or its bytes; of an address what lies there, for which a server is not waited once
    `stopped` is set. ImageError where that cannot be had, or is more than `MAX_PIPED_BYTES`."""
    if not isinstance(source, str):
        return source
    if not is_address(source):
        return Path(source)
    from ssd34.files.web import read_url  # only now: it takes a while

    read = partial(read_url, source, limit=MAX_PIPED_BYTES)
    try:
        data = read() if stopped is None else wait_unless(stopped, read)
    except DownloadError as error:
        raise ImageError(f"{error}; check the address") from None
    if data is None:
        raise ImageError(f"{source}: not waited for until it came")
    made = FetchedPicture(data)
    made.address = source
    return made


def read_picture(source: Path | bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """`read_image` as a Pillow image of mode RGB: spares a copy where Pillow uses it next."""
    with open_picture(source, max_pixels=max_pixels) as image:
        return decode_upright(image)


def make_rgb_picture(image: Image.Image) -> Image.Image:
    """A Pillow image of any mode as one of mode RGB, its EXIF orientation applied; the same one if
    there is nothing to do. ImageError where it is lazily read from a file that is broken."""
    _check_samples(image, "the picture")
    try:
        return decode_upright(image)
    except _BROKEN as error:
        raise _broken("the picture", error) from None


@contextmanager
def open_picture(source: Path | bytes, *, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """A picture file with its header read and nothing decoded; ImageError as `read_image`, also for
    what Pillow raises while decoding inside the block."""
    if isinstance(source, bytes):
        what = source.address if isinstance(source, FetchedPicture) else "the picture"
    else:
        what, source = str(source), make_reopenable(source)
    with _opened(source, what, max_pixels) as image:
        yield image


@contextmanager
def _opened(source: Path | bytes | BinaryIO, what: str, max_pixels: int) -> Iterator[Image.Image]:
    """`open_picture`, also of a stream; `what` it is called in messages."""
    try:
        with _quiet, _open(source) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise LargeImageError(
                    f"{what}: {width} x {height} pixels are more than the limit of {max_pixels}; "
                    "scale the picture down"
                )
            _check_samples(image, what)
            yield image
    except UnidentifiedImageError:
        if _is_empty(source):
            raise ImageError(f"{what}: an empty file, no picture; copy or fetch it again") from None
        raise ImageError(
            f"{what}: not a picture of a kind that is read here ({', '.join(FORMATS)}, in usual "
            "sample formats); convert it or remove it"
        ) from None
    except _BROKEN as error:
        raise _broken(what, error) from None


def _is_empty(source: Path | bytes | BinaryIO) -> bool:
    if isinstance(source, Path):
        return source.is_file() and source.stat().st_size == 0
    if isinstance(source, bytes):
        return not source
    source.seek(0)
    return not source.read(1)


def make_reopenable(source: Path) -> Path | bytes:
    """A file, or what comes out of a pipe, in which a picture's reader could not go back;
    ImageError where it is missing, a folder, unreadable, or a pipe with more than
    `MAX_PIPED_BYTES`."""
    if os.path.isfile(source):
        return source
    if os.path.isdir(source) or not os.path.exists(source):
        kind = "a folder" if os.path.isdir(source) else "missing"
        raise ImageError(f"{source}: expected a picture file, it is {kind}; check the path")
    try:
        with source.open("rb") as pipe:
            data = pipe.read(MAX_PIPED_BYTES + 1)
    except OSError as error:
        raise ImageError(f"{source}: {error.strerror}; check its rights") from None
    if len(data) > MAX_PIPED_BYTES:
        raise ImageError(f"{source}: more than {MAX_PIPED_BYTES >> 20} MiB; give it as a file")
    return data


def read_image_size(
    stream: BinaryIO, name: str = "the picture", *, max_pixels: int = MAX_PIXELS
) -> tuple[int, int]:
    """Width and height that `read_image` gives a picture, without decoding its pixels, unless it is
    a PNG with words behind them; ImageError, which calls it `name`, as there."""
    with _opened(stream, name, max_pixels) as image:
        width, height = image.size
        turns = _turns_before_pixels(image, stream)
        return (height, width) if turns in (5, 6, 7, 8) else (width, height)


def _tags(image: Image.Image) -> Mapping[int, Any]:
    """The tags of a TIFF; of another picture none."""
    tags: Mapping[int, Any] = getattr(image, "tag_v2", {})
    return tags


def _check_samples(image: Image.Image, what: str) -> None:
    """Refuse a TIFF whose samples have no known white, or that Pillow puts in a wrong order."""
    tags = _tags(image)
    if not tags:
        return
    bits = max(tags.get(Tag.BitsPerSample, (1,)))
    form = max(tags.get(Tag.SampleFormat, (1,)))
    packed = tags.get(Tag.Compression, 1) != 1
    planes = tags.get(Tag.PlanarConfiguration, 1) == 2
    if form == 2 or (form == 1 and bits > 16):
        kind = f"{bits}-bit {'signed' if form == 2 else 'unsigned'} whole numbers"
    elif form == 3 and packed and image.tag_v2.prefix == b"MM":  # type: ignore[attr-defined]
        kind = "compressed big-endian fractions"
    elif planes and bits > 8 and not packed:
        kind = f"uncompressed planes of {bits} bits"
    elif planes and tags.get(Tag.SamplesPerPixel, 1) == 2:
        kind = "a plane of transparency"
    else:
        return
    raise ImageError(
        f"{what}: a TIFF with {kind}, whose brightness is not known here; convert it to 8 or 16 "
        "unsigned bits a sample"
    )


def _turns_before_pixels(image: Image.Image, stream: BinaryIO) -> object:
    """The EXIF orientation of a picture that has only been opened."""
    # Pillow turns a TIFF itself, and its size is already that of the turned picture.
    if image.format == "TIFF":
        return 1
    # Of a PNG, Pillow decodes all pixels to see whether EXIF comes behind them.
    if image.format == "PNG" and not _words_behind_pixels(stream):
        return Image.Image.getexif(image).get(Tag.Orientation)
    return read_orientation(image)


def _words_behind_pixels(stream: BinaryIO) -> bool:
    """Whether a PNG has a chunk that may hold EXIF after its pixels. Source: the PNG specification,
    5.3; the stream is left where it was."""
    before, pixels = stream.tell(), False
    stream.seek(8)
    try:
        while len(head := stream.read(8)) == 8 and head[4:] != b"IEND":
            if pixels and head[4:] in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
                return True
            pixels |= head[4:] == b"IDAT"
            stream.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)
    finally:
        stream.seek(before)
    return False


def _broken(what: str, error: Exception) -> ImageError:
    if isinstance(error, OSError) and error.errno is not None:  # of the system, not of Pillow
        return ImageError(f"{what}: {error.strerror}; check its rights and its disk")
    reason = " ".join(str(error).split()) or type(error).__name__
    return ImageError(f"{what}: broken or truncated picture ({reason}); replace it")


def decode_upright(image: Image.Image) -> Image.Image:
    """Decode an opened picture: mode RGB, its EXIF orientation applied."""
    load(image)
    return turn_upright(convert_to_rgb(image), read_orientation(image))


def load(image: Image.Image) -> None:
    """Decode an opened picture."""
    tile = getattr(image, "tile", None)
    clear = image.info.get("transparency")
    # Of a PNG with 2 or 4 bits, Pillow scales the samples to bytes, but not the transparent one.
    if image.format == "PNG" and tile and isinstance(clear, int):
        image.info["transparency"] = clear * {"L;2": 85, "L;4": 17}.get(tile[0][3], 1)
    image.load()


def turn_upright(image: Image.Image, orientation: object) -> Image.Image:
    """A picture turned upright; the same one where it is.

    Pillow's `exif_transpose` writes all of the EXIF again, and fails where any tag is malformed.
    """
    if not isinstance(orientation, int) or orientation not in _TURNS:
        return image
    picture = image.transpose(_TURNS[orientation])
    for key in _SAY_ORIENTATION:  # or it would be turned again
        picture.info.pop(key, None)
    return picture


def read_orientation(image: Image.Image) -> object:
    """The EXIF orientation of a loaded picture: 2 to 8 if it is still to be turned."""
    return image.getexif().get(Tag.Orientation)


def _open(source: Path | bytes | BinaryIO) -> Image.Image:
    """Open without Pillow's own pixel limit, which is global: ours is checked by the caller."""
    stream: Path | BinaryIO = io.BytesIO(source) if isinstance(source, bytes) else source
    Image.init()
    with _pillow_limit:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(stream, formats=FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = before


class _Quiet:
    """Pillow's warnings switched off while any thread reads a picture.

    Python keeps one list of filters for all threads: `catch_warnings` in each, ended in another
    order than begun, would put back each other's filters.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers = 0
        self._before = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._readers == 0:
                self._before = warnings.catch_warnings()
                self._before.__enter__()
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                # A broken EXIF or TIFF directory warns; the pixels decide about the file.
                warnings.simplefilter("ignore", UserWarning)
            self._readers += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._readers -= 1
            if self._readers == 0:
                self._before.__exit__(None, None, None)


_quiet = _Quiet()


def convert_to_rgb(image: Image.Image) -> Image.Image:
    """Any mode to RGB, keeping what the picture shows."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    tags = _tags(image)
    colours = tags.get(Tag.ColorMap, ())
    if 0 < max(colours, default=0) < 256:  # bytes, though the format wants 16 bits
        image = image.copy()
        image.putpalette(np.reshape(colours, (3, -1)).T.astype(np.uint8).tobytes())
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_eight_bits(image, tags)).convert("RGB")
    if image.mode == "La":
        image = image.convert("LA")
    if image.format == "BMP" and image.mode == "RGBA" and image.getchannel("A").getbbox() is None:
        return image.convert("RGB")  # a fourth byte that nobody filled
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _eight_bits(image: Image.Image, tags: Mapping[int, Any]) -> NDArray[np.uint8]:
    """Wide greyscale samples, which Pillow hands over as they are stored, to bytes; values
    outside are cut, the transparent one is white."""
    values = np.asarray(image)
    if image.mode == "F":
        full = 1.0 if np.nan_to_num(values).max(initial=0) <= 1 else 255.0
    else:
        full = 4095.0 if tags.get(Tag.BitsPerSample) == (12,) else 65535.0
    scaled = np.nan_to_num(values.astype(np.float64)) * (255 / full)
    if tags and tags.get(Tag.PhotometricInterpretation, 0) == 0:  # white is zero
        scaled = 255 - scaled
    grey = np.asarray(np.rint(np.clip(scaled, 0, 255)), np.uint8)
    grey[values == image.info.get("transparency", -1)] = 255
    return grey


Picture = str | Path | bytes | NDArray[np.uint8] | Image.Image
"""What may be given as a picture: a path; an address as text, ``http://...`` or ``https://...``; an
encoded file's bytes; an (H, W, 3) uint8 RGB array; or a Pillow image."""


def load_picture(image: Picture, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Any kind of picture as a Pillow image of mode RGB; ImageError where it cannot be read."""
    if isinstance(image, np.ndarray):
        check_pixels(image)
        return Image.fromarray(image)
    if isinstance(image, Image.Image):
        return make_rgb_picture(image)
    if isinstance(image, str | Path | bytes):
        return read_picture(fetched(image), max_pixels=max_pixels)
    raise ImageError(
        "expected a path, an address, encoded bytes, an (H, W, 3) uint8 RGB array or a Pillow "
        f"image, got {type(image).__name__}"
    )
