from __future__ import annotations

import errno
import io
import os
import random
import struct
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from ssd34.errors import ImageError
from ssd34.images.read import (
    FORMATS,
    MAX_PIXELS,
    LargeImageError,
    make_rgb_picture,
    open_picture,
    read_image,
    read_image_size,
    read_picture,
)
from tests.support.pictures import ORIENTATION, encoded, exif_of, noise, png_header_only

# EXIF 2.32, tag Orientation: which side of the picture as seen the stored row 0 and column 0 are.
SIDES = {
    1: ("top", "left"), 2: ("top", "right"), 3: ("bottom", "right"), 4: ("bottom", "left"),
    5: ("left", "top"), 6: ("right", "top"), 7: ("right", "bottom"), 8: ("left", "bottom"),
}  # fmt: skip


def corners():
    """As seen: red top left, green top right, blue bottom left, black bottom right."""
    seen = np.full((24, 40, 3), 128, np.uint8)
    seen[:8, :8], seen[:8, -8:] = (255, 0, 0), (0, 255, 0)
    seen[-8:, :8], seen[-8:, -8:] = (0, 0, 255), (0, 0, 0)
    return seen


def stored(seen, orientation):
    """The pixels as a camera stores them, straight from the table of the standard."""
    row_side, column_side = SIDES[orientation]
    height, width = seen.shape[:2]
    x = {"left": range(width), "right": range(width)[::-1]}
    y = {"top": range(height), "bottom": range(height)[::-1]}
    if row_side in y:
        return np.array([[seen[row, column] for column in x[column_side]] for row in y[row_side]])
    return np.array([[seen[row, column] for row in y[column_side]] for column in x[row_side]])


def refused(source, **options):
    with pytest.raises(ImageError) as caught:
        read_image(source, **options)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize("form", ["PNG", "GIF"])
@pytest.mark.parametrize("options", [{}, {"transparency": 1}])
def test_palette_is_looked_up_and_its_transparent_entry_shows_white(form, options):
    paletted = Image.new("P", (3, 1))
    paletted.putdata([0, 1, 2])
    paletted.putpalette([200, 0, 0, 0, 200, 0, 9, 8, 7])
    second = [255, 255, 255] if options else [0, 200, 0]
    image = read_image(encoded(paletted, form, **options))
    assert image[0].tolist() == [[200, 0, 0], second, [9, 8, 7]]


@pytest.mark.parametrize(
    ("mode", "clear", "other"), [("RGB", (10, 20, 30), (40, 50, 60)), ("L", 10, 77)]
)
def test_transparent_colour_shows_white(mode, clear, other):
    image = Image.new(mode, (2, 1), clear)
    image.putpixel((1, 0), other)
    shown = read_image(encoded(image, transparency=clear))[0].tolist()
    assert shown == [[255, 255, 255], [other] * 3 if mode == "L" else list(other)]


@pytest.mark.parametrize(("form", "channels"), [("PNG", 4), ("TIFF", 4), ("WEBP", 4), ("PNG", 2)])
def test_what_has_an_alpha_is_shown_on_white(form, channels):
    pixels = noise(channels=channels)
    pixels[0, 0, -1], pixels[0, 1, -1] = 0, 255
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    image = read_image(encoded(pixels, form, **options))
    share = pixels[..., -1:] / 255
    expected = np.broadcast_to(pixels[..., :-1] * share + 255 * (1 - share), (20, 30, 3))
    np.testing.assert_allclose(image, expected, atol=1)
    assert image[0, 0].tolist() == [255, 255, 255]
    np.testing.assert_array_equal(image[0, 1], expected[0, 1])


def test_float_tiff_in_bytes_keeps_its_values_and_cuts_the_rest():
    values = np.array([[-3, 0, 51, 255, 1000, np.nan]], np.float32)
    assert read_image(encoded(values, "TIFF"))[0, :, 1].tolist() == [0, 0, 51, 255, 255, 0]


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "MPO"])
def test_first_frame_of_an_animation(form):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    options = {"lossless": True} if form == "WEBP" else {}
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
    with Image.open(io.BytesIO(data)) as check:
        assert getattr(check, "n_frames", 1) == 2
    np.testing.assert_allclose(read_image(data), np.broadcast_to((255, 0, 0), (16, 16, 3)), atol=3)


@pytest.mark.parametrize("form", ["EPS", "PDF", "PCX", "TGA"])
def test_formats_left_out_on_purpose_are_refused(form, tmp_path):
    assert form not in FORMATS
    path = tmp_path / "drawing.png"
    path.write_bytes(encoded(Image.new("RGB", (8, 8)), form))
    message = refused(path)
    assert "drawing.png" in message and "JPEG" in message


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("orientation", SIDES)
def test_exif_orientation_is_applied(form, orientation):
    seen = corners()
    options = {"quality": 95, "subsampling": 0} if form == "JPEG" else {}
    data = encoded(stored(seen, orientation), form, exif=exif_of(orientation), **options)
    with Image.open(io.BytesIO(data)) as check:
        assert check.getexif().get(ORIENTATION) == orientation
        np.testing.assert_array_equal(np.asarray(make_rgb_picture(check)), read_image(data))
    np.testing.assert_allclose(read_image(data).astype(int), seen, atol=8 if options else 0)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "PNG behind", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", [*SIDES, 0, 9, 65535])
def test_the_size_from_the_header_is_that_of_the_picture_read(form, orientation):
    """What is outside the standard is ignored."""
    data = encoded(corners(), form.split()[0], exif=exif_of(orientation))
    if form == "PNG behind":
        data = behind_the_pixels(data, b"eXIf")
    image = read_image(data)
    assert read_image_size(io.BytesIO(data)) == image.shape[1::-1]
    assert orientation in SIDES or image.shape == corners().shape


def behind_the_pixels(data, kind):
    """A PNG with its chunks of a kind moved behind its pixels."""
    chunks, start = [], 8
    while start < len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        chunks.append(data[start:end])
        start = end
    moved = [chunk for chunk in chunks if chunk[4:8] == kind]
    assert moved
    rest = [chunk for chunk in chunks if chunk[4:8] != kind]
    return data[:8] + b"".join([*rest[:-1], *moved, rest[-1]])


def test_the_size_is_read_without_the_pixels(monkeypatch):
    def load(_):
        raise AssertionError("the pixels were decoded")

    data = [encoded(corners(), form) for form in ("PNG", "JPEG", "WEBP", "TIFF")]
    for module in ("PngImagePlugin.PngImageFile", "ImageFile.ImageFile"):
        monkeypatch.setattr(f"PIL.{module}.load", load)
    for one in data:
        assert read_image_size(io.BytesIO(one)) == corners().shape[1::-1]


def test_the_size_of_too_many_pixels():
    data = encoded(Image.new("1", (200, 100)))
    assert read_image_size(io.BytesIO(data), max_pixels=20_000) == (200, 100)
    with pytest.raises(LargeImageError, match=r"a: 200 x 100 .* 19999"):
        read_image_size(io.BytesIO(data), "a", max_pixels=19_999)


@pytest.mark.parametrize("data", [b"", b"no picture", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"])
def test_what_is_no_picture(data, tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    assert "a.jpg" in refused(path)
    assert "the picture" in refused(data)
    assert ("empty" in refused(path)) == ("empty" in refused(data)) == (not data)
    with pytest.raises(ImageError):
        read_image_size(io.BytesIO(data))


@pytest.mark.parametrize("form", ["JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", SIDES)
@pytest.mark.parametrize(
    ("tag", "kind", "value"),
    [(ExifTags.Base.XResolution, 2, "72"), (ExifTags.Base.ResolutionUnit, 4, 70_000)],
    ids=["a text", "four bytes"],
)
def test_other_malformed_exif_does_not_keep_a_picture_from_being_turned(
    form, orientation, tag, kind, value
):
    """Pillow's own way of turning writes all tags anew, and fails there."""
    tags = ImageFileDirectory_v2()
    for number, type_, content in ((ORIENTATION, 3, orientation), (int(tag), kind, value)):
        tags.tagtype[number] = type_
        tags[number] = content
    exif = b"Exif\0\0" + b"II*\0\x08\0\0\0" + tags.tobytes(8)
    seen = corners()
    options = {"quality": 95, "subsampling": 0} if form == "JPEG" else {"lossless": True}
    data = encoded(stored(seen, orientation), form, exif=exif, **options)
    if orientation > 1:
        with Image.open(io.BytesIO(data)) as check, pytest.raises((TypeError, struct.error)):
            ImageOps.exif_transpose(check)
    np.testing.assert_allclose(read_image(data).astype(int), seen, atol=8)
    assert read_image_size(io.BytesIO(data)) == (seen.shape[1], seen.shape[0])
    picture = read_picture(data)
    assert make_rgb_picture(picture) is picture and picture.mode == "RGB"  # not turned again
    np.testing.assert_array_equal(np.asarray(picture), read_image(data))


def test_a_picture_out_of_a_pipe(tmp_path, monkeypatch):
    data = encoded(corners(), "PNG")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for most in (len(data), len(data) - 1):
        monkeypatch.setattr("ssd34.images.read.MAX_PIPED_BYTES", most)
        writer = threading.Thread(target=pipe.write_bytes, args=(data,), daemon=True)
        writer.start()
        if most == len(data):
            np.testing.assert_array_equal(read_image(pipe), corners())
        else:
            assert "give it as a file" in refused(pipe)
        writer.join()


def test_threads_leave_the_filters_of_warnings_as_they_were():
    """Two threads that leave in the order in which they came, not in the reverse one."""
    data = encoded(noise())
    before = list(warnings.filters)
    first, second = open_picture(data), open_picture(data)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert warnings.filters != before
    second.__exit__(None, None, None)
    assert warnings.filters == before


@pytest.mark.parametrize("name", ["no.jpg", "", f"{'x' * 300}.jpg", "a\0b.jpg"])
def test_the_ending_of_a_file_does_not_matter_but_that_it_is_one(tmp_path, name):
    (tmp_path / "png.jpg").write_bytes(encoded(noise()))
    np.testing.assert_array_equal(read_image(tmp_path / "png.jpg"), noise())
    refused(tmp_path / name)
    assert str(tmp_path) in refused(tmp_path)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "AVIF", "GIF", "TIFF", "BMP", "PPM"])
def test_truncated_file(form, tmp_path):
    data = encoded(noise(64, 64), form)
    path = tmp_path / f"half.{form.lower()}"
    path.write_bytes(data[: len(data) // 2])
    assert path.name in refused(path)
    if form == "JPEG":
        with Image.open(path) as picture, pytest.raises(ImageError):
            np.asarray(make_rgb_picture(picture))


def damaged(data, seed):
    """Cut off, or with a few bytes changed, half of the time near the start."""
    dice = random.Random(seed)
    if seed % 3 == 0:
        return data[: dice.randrange(len(data))]
    changed = bytearray(data)
    for _ in range(dice.choice([1, 3, 20])):
        changed[dice.randrange(min(len(data), 200) if seed % 2 else len(data))] = dice.randrange(
            256
        )
    return bytes(changed)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "AVIF", "BMP", "GIF", "JPEG2000"])
def test_damaged_bytes_give_a_picture_or_an_image_error(form):
    exif = exif_of(6)
    exif[0x010E] = "a description"
    options = {"exif": exif} if form in ("JPEG", "PNG", "WEBP") else {}
    data = encoded(noise(40, 50), form, **options)
    for seed in range(150):
        try:
            image = read_image(damaged(data, seed), max_pixels=1_000_000)
        except ImageError as error:
            assert len(str(error).splitlines()) == 1
        else:
            assert image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8


def test_huge_pictures_are_refused_from_their_header(tmp_path):
    """By a limit that can be set and is inclusive."""
    path = tmp_path / "huge.png"
    path.write_bytes(png_header_only(20_000, 20_000))
    message = refused(path)
    assert all(fact in message for fact in ("huge.png", "20000 x 20000", str(MAX_PIXELS)))
    data = encoded(noise(20, 30))
    assert "30 x 20" in refused(data, max_pixels=599)
    np.testing.assert_array_equal(read_image(data, max_pixels=600), noise(20, 30))


def test_picture_inside_an_icon_is_refused_before_it_is_decoded():
    # The icon's own header says 16 x 16; Pillow decodes the PNG inside while it opens the file.
    # That PNG holds no pixels: had anybody tried to decode it, it would be called truncated.
    inner = png_header_only(1000, 1000)
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inner), 22)
    message = refused(struct.pack("<HHH", 0, 1, 1) + entry + inner, max_pixels=10_000)
    assert "truncated" not in message


def test_pillows_own_limit_neither_applies_nor_changes(monkeypatch):
    """In several threads too."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    data = encoded(noise())

    def read_often(_):
        return all(np.array_equal(read_image(data), noise()) for _ in range(20))

    with ThreadPoolExecutor(6) as threads:
        assert all(threads.map(read_often, range(6)))
    refused(data, max_pixels=10)
    refused(data[:40])
    refused(b"no picture")
    assert Image.MAX_IMAGE_PIXELS == 50


def test_a_file_that_may_not_be_read_is_not_called_broken(tmp_path, monkeypatch):
    """Root may read all, so the system's answer is played."""
    (tmp_path / "a.jpg").write_bytes(encoded(noise(), "JPEG"))

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(ImageError, match="rights") as caught:
        read_image(tmp_path / "a.jpg")
    assert "broken" not in str(caught.value)
