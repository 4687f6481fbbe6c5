from __future__ import annotations

import io
import os
import random
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from ssd34.errors import ImageError
from ssd34.images.read import (
    FORMATS,
    MAX_PIXELS,
    SUFFIXES,
    LargeImageError,
    image_size,
    opened,
    read_image,
    read_picture,
    rgb_array,
    rgb_picture,
)

ORIENTATION = 0x0112

# EXIF 2.32, tag Orientation: which side of the picture as seen the stored row 0 and column 0 are.
SIDES = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def encoded(image, form, **options):
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def noise(height=20, width=30, channels=3, seed=0):
    shape = (height, width, channels) if channels else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


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
    x = {"left": lambda k: k, "right": lambda k: width - 1 - k}
    y = {"top": lambda k: k, "bottom": lambda k: height - 1 - k}
    upright = row_side in y
    rows, columns = (height, width) if upright else (width, height)
    out = np.zeros((rows, columns, 3), np.uint8)
    for r in range(rows):
        for c in range(columns):
            if upright:
                out[r, c] = seen[y[row_side](r), x[column_side](c)]
            else:
                out[r, c] = seen[y[column_side](c), x[row_side](r)]
    return out


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header_only(width, height):
    """A PNG that claims a size but holds no more than a few bytes of 1-bit pixels."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(b"\0" * 64))
        + png_chunk(b"IEND", b"")
    )


def refused(source, **options):
    with pytest.raises(ImageError) as caught:
        read_image(source, **options)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def assert_rgb(image, height, width):
    assert image.dtype == np.uint8
    assert image.shape == (height, width, 3)


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM"])
def test_rgb_comes_back_unchanged(form):
    pixels = noise()
    image = read_image(encoded(Image.fromarray(pixels), form))
    assert_rgb(image, 20, 30)
    np.testing.assert_array_equal(image, pixels)


def test_greyscale_is_repeated_in_three_channels():
    pixels = noise(channels=0)
    image = read_image(encoded(Image.fromarray(pixels), "PNG"))
    np.testing.assert_array_equal(image, np.stack([pixels] * 3, axis=-1))


def test_one_bit_becomes_black_and_white():
    bits = noise(channels=0) > 127
    image = read_image(encoded(Image.fromarray(bits), "PNG"))
    np.testing.assert_array_equal(image, np.stack([bits * np.uint8(255)] * 3, axis=-1))


def test_palette_is_looked_up():
    indices = np.arange(6, dtype=np.uint8).reshape(2, 3)
    colours = np.array(
        [(255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 8, 7), (1, 2, 3), (250, 251, 252)], np.uint8
    )
    paletted = Image.new("P", (3, 2))
    paletted.putdata(indices.ravel().tolist())
    paletted.putpalette(colours.ravel().tolist())
    np.testing.assert_array_equal(read_image(encoded(paletted, "PNG")), colours[indices])


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_transparent_palette_entry_shows_white(form):
    paletted = Image.new("P", (3, 1))
    paletted.putdata([0, 1, 2])
    paletted.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
    image = read_image(encoded(paletted, form, transparency=1))
    assert image[0].tolist() == [[200, 0, 0], [255, 255, 255], [0, 0, 200]]


def test_transparent_colour_of_rgb_and_grey_shows_white():
    rgb = Image.new("RGB", (2, 1), (10, 20, 30))
    rgb.putpixel((1, 0), (40, 50, 60))
    image = read_image(encoded(rgb, "PNG", transparency=(10, 20, 30)))
    assert image[0].tolist() == [[255, 255, 255], [40, 50, 60]]
    grey = Image.new("L", (2, 1), 10)
    grey.putpixel((1, 0), 77)
    image = read_image(encoded(grey, "PNG", transparency=10))
    assert image[0].tolist() == [[255, 255, 255], [77, 77, 77]]


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_rgba_is_shown_on_white(form):
    pixels = noise(channels=4)
    pixels[0, 0, 3], pixels[0, 1, 3] = 0, 255
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    image = read_image(encoded(Image.fromarray(pixels), form, **options))
    share = pixels[..., 3:] / 255
    np.testing.assert_allclose(image, pixels[..., :3] * share + 255 * (1 - share), atol=1)
    assert image[0, 0].tolist() == [255, 255, 255]
    assert image[0, 1].tolist() == pixels[0, 1, :3].tolist()


def test_grey_with_alpha_is_shown_on_white():
    pixels = noise(channels=2)
    image = read_image(encoded(Image.fromarray(pixels, mode=None), "PNG"))
    grey, share = pixels[..., 0], pixels[..., 1] / 255
    expected = grey * share + 255 * (1 - share)
    np.testing.assert_allclose(image, np.stack([expected] * 3, axis=-1), atol=1)


@pytest.mark.parametrize(
    ("inks", "seen"),
    [((0, 0, 0, 0), (255, 255, 255)), ((255, 0, 0, 0), (0, 255, 255)),
     ((0, 255, 0, 0), (255, 0, 255)), ((0, 0, 255, 0), (255, 255, 0)), ((0, 0, 0, 255), (0, 0, 0))],
)  # fmt: skip
def test_cmyk_jpeg_subtracts_its_inks(inks, seen):
    image = read_image(encoded(Image.new("CMYK", (16, 8), inks), "JPEG", quality=95))
    assert_rgb(image, 8, 16)
    np.testing.assert_allclose(image, np.broadcast_to(seen, (8, 16, 3)), atol=3)


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 120, 40)])
def test_ycbcr_jpeg_has_the_right_colours(colour):
    image = read_image(encoded(Image.new("RGB", (16, 16), colour), "JPEG", quality=95))
    np.testing.assert_allclose(image, np.broadcast_to(colour, (16, 16, 3)), atol=3)


@pytest.mark.parametrize(("form", "order"), [("PNG", "<"), ("TIFF", "<"), ("TIFF", ">")])
def test_sixteen_bit_grey_is_scaled_not_cut(form, order):
    values = np.array([[0, 257, 32768, 51400, 65535]], f"{order}u2")
    mode = "I;16" if order == "<" else "I;16B"
    picture = Image.frombytes(mode, (5, 1), values.tobytes())
    image = read_image(encoded(picture, form))
    # 65535 / 257 = 255.
    np.testing.assert_array_equal(image[0, :, 0], [0, 1, 128, 200, 255])
    assert (image == image[..., :1]).all()


def test_float_tiff_in_zero_to_one_is_stretched():
    values = np.array([[0, 0.2, 0.5, 1]], np.float32)
    image = read_image(encoded(Image.fromarray(values), "TIFF"))
    np.testing.assert_allclose(image[0, :, 1], [0, 51, 128, 255], atol=1)
    assert_rgb(image, 1, 4)


def test_float_tiff_in_bytes_keeps_its_values_and_cuts_the_rest():
    values = np.array([[-3, 0, 51, 255, 1000, np.nan]], np.float32)
    image = read_image(encoded(Image.fromarray(values), "TIFF"))
    assert image[0, :, 2].tolist() == [0, 0, 51, 255, 255, 0]


@pytest.mark.parametrize(
    ("form", "options"),
    [("JPEG", {"quality": 95}), ("WEBP", {"quality": 95}), ("WEBP", {"lossless": True}),
     ("AVIF", {"quality": 95}), ("JPEG2000", {})],
)  # fmt: skip
def test_other_formats_show_the_same_picture(form, options):
    y, x = np.mgrid[:32, :32]
    pixels = np.stack([y * 7, x * 7, np.full_like(x, 90)], axis=-1).astype(np.uint8)
    image = read_image(encoded(Image.fromarray(pixels), form, **options))
    assert_rgb(image, 32, 32)
    assert abs(image.astype(int) - pixels).mean() < 3


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP"])
def test_first_frame_of_an_animation(form):
    frames = [Image.new("RGB", (12, 10), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    options = {"lossless": True} if form == "WEBP" else {}
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
    with Image.open(io.BytesIO(data)) as check:
        assert getattr(check, "n_frames", 1) == 2
    assert (read_image(data) == (255, 0, 0)).all()


def test_first_picture_of_a_multi_picture_jpeg():
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    data = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    np.testing.assert_allclose(read_image(data), np.broadcast_to((255, 0, 0), (16, 16, 3)), atol=3)


def test_one_pixel_works():
    assert read_image(encoded(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG")).tolist() == [[[1, 2, 3]]]


@pytest.mark.parametrize("form", ["EPS", "PDF", "PCX", "TGA"])
def test_formats_left_out_on_purpose_are_refused(form, tmp_path):
    assert form not in FORMATS
    path = tmp_path / "drawing.png"
    path.write_bytes(encoded(Image.new("RGB", (8, 8)), form))
    message = refused(path)
    assert "drawing.png" in message and "JPEG" in message and "convert" in message


def test_suffixes_are_lower_case_with_a_dot():
    assert all(suffix == suffix.lower() and suffix[0] == "." for suffix in SUFFIXES)
    assert {".jpg", ".jpeg", ".png", ".webp", ".avif", ".tif"} <= SUFFIXES
    assert not SUFFIXES & {".txt", ".json", ".eps", ".pdf", ".svg"}


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("orientation", SIDES)
def test_exif_orientation_is_applied(form, orientation):
    seen = corners()
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"quality": 95, "subsampling": 0} if form == "JPEG" else {}
    data = encoded(Image.fromarray(stored(seen, orientation)), form, exif=exif, **options)
    with Image.open(io.BytesIO(data)) as check:
        assert check.getexif().get(ORIENTATION) == orientation
    image = read_image(data)
    assert image.shape == seen.shape
    np.testing.assert_allclose(image[2, 2], (255, 0, 0), atol=4)
    np.testing.assert_allclose(image[2, -3], (0, 255, 0), atol=4)
    np.testing.assert_allclose(image[-3, 2], (0, 0, 255), atol=4)
    np.testing.assert_allclose(image[-3, -3], (0, 0, 0), atol=4)
    if form != "JPEG":
        np.testing.assert_array_equal(image, seen)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", [*SIDES, 0, 9])
def test_the_size_from_the_header_is_that_of_the_picture_read(form, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encoded(Image.fromarray(corners()), form, exif=exif)
    height, width, _ = read_image(data).shape
    assert image_size(io.BytesIO(data)) == (width, height)


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


@pytest.mark.parametrize("orientation", SIDES)
def test_the_size_of_a_png_with_exif_behind_its_pixels(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = behind_the_pixels(encoded(Image.fromarray(corners()), "PNG", exif=exif), b"eXIf")
    height, width, _ = read_image(data).shape
    assert image_size(io.BytesIO(data)) == (width, height)


def test_the_size_is_read_without_the_pixels(monkeypatch):
    def load(_):
        raise AssertionError("the pixels were decoded")

    data = [encoded(Image.fromarray(corners()), form) for form in ("PNG", "JPEG", "WEBP", "TIFF")]
    for module in ("PngImagePlugin.PngImageFile", "ImageFile.ImageFile"):
        monkeypatch.setattr(f"PIL.{module}.load", load)
    for one in data:
        assert image_size(io.BytesIO(one)) == corners().shape[1::-1]


def test_the_size_of_too_many_pixels():
    data = encoded(Image.new("1", (200, 100)), "PNG")
    assert image_size(io.BytesIO(data), max_pixels=20_000) == (200, 100)
    with pytest.raises(
        LargeImageError, match="a: 200 x 100 pixels are more than the limit of 19999"
    ):
        image_size(io.BytesIO(data), "a", max_pixels=19_999)


@pytest.mark.parametrize("data", [b"", b"no picture", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"])
def test_the_size_of_what_is_no_picture(data):
    with pytest.raises(ImageError):
        image_size(io.BytesIO(data))


def test_orientation_of_an_open_pillow_image_is_applied():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    data = encoded(Image.fromarray(stored(corners(), 6)), "PNG", exif=exif)
    with Image.open(io.BytesIO(data)) as picture:
        np.testing.assert_array_equal(rgb_array(picture), corners())


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_orientation_outside_the_standard_is_ignored(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    pixels = noise()
    data = encoded(Image.fromarray(pixels), "PNG", exif=exif)
    np.testing.assert_array_equal(read_image(data), pixels)


@pytest.mark.parametrize("form", ["JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", SIDES)
@pytest.mark.parametrize(
    ("tag", "kind", "value"),
    [
        (ExifTags.Base.XResolution, 2, "72"),  # a text
        (ExifTags.Base.ResolutionUnit, 4, 70_000),  # four bytes
    ],
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
    data = encoded(Image.fromarray(stored(seen, orientation)), form, exif=exif, **options)
    if orientation > 1:
        with Image.open(io.BytesIO(data)) as check, pytest.raises((TypeError, struct.error)):
            ImageOps.exif_transpose(check)
    np.testing.assert_allclose(read_image(data).astype(int), seen, atol=8)
    assert image_size(io.BytesIO(data)) == (seen.shape[1], seen.shape[0])
    picture = read_picture(data)
    assert rgb_picture(picture) is picture  # not turned again


def test_a_picture_out_of_a_pipe(tmp_path):
    data = encoded(Image.fromarray(corners()), "PNG")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(data,))
    writer.start()
    np.testing.assert_array_equal(read_image(pipe), corners())
    writer.join()


def test_a_picture_to_go_on_with_is_the_same_without_the_copy():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    turned = encoded(Image.fromarray(stored(corners(), 6)), "PNG", exif=exif)
    for data in (turned, encoded(Image.fromarray(noise()).convert("L"), "PNG")):
        picture = read_picture(data)
        assert picture.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(picture), read_image(data))
    upright = Image.fromarray(noise())
    assert rgb_picture(upright) is upright


def test_threads_leave_the_filters_of_warnings_as_they_were():
    """Two threads that leave in the order in which they came, not in the reverse one."""
    data = encoded(Image.fromarray(noise()), "PNG")
    before = list(warnings.filters)
    first = opened(data)
    first.__enter__()
    second = opened(data)
    second.__enter__()
    first.__exit__(None, None, None)
    assert warnings.filters != before
    second.__exit__(None, None, None)
    assert warnings.filters == before


def test_path_and_bytes_give_the_same(tmp_path):
    data = encoded(Image.fromarray(noise()), "JPEG")
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    np.testing.assert_array_equal(read_image(path), read_image(data))


def test_the_ending_does_not_matter(tmp_path):
    path = tmp_path / "really-a-png.jpg"
    path.write_bytes(encoded(Image.fromarray(noise()), "PNG"))
    np.testing.assert_array_equal(read_image(path), noise())


def test_missing_file(tmp_path):
    message = refused(tmp_path / "no.jpg")
    assert "no.jpg" in message and "missing" in message and "check" in message


def test_folder_instead_of_a_file(tmp_path):
    message = refused(tmp_path)
    assert str(tmp_path) in message and "folder" in message


def test_name_longer_than_file_systems_allow(tmp_path):
    refused(tmp_path / f"{'x' * 300}.jpg")


def test_name_with_a_null_byte(tmp_path):
    refused(tmp_path / "a\0b.jpg")


def test_text_renamed_to_jpg(tmp_path):
    path = tmp_path / "notes.jpg"
    path.write_text("this is no picture\n")
    message = refused(path)
    assert "notes.jpg" in message and "convert it or remove it" in message


def test_empty_file(tmp_path):
    path = tmp_path / "empty.png"
    path.touch()
    assert "empty.png" in refused(path)
    assert "the picture" in refused(b"")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "AVIF", "GIF", "TIFF", "BMP", "PPM"])
def test_truncated_file(form, tmp_path):
    data = encoded(Image.fromarray(noise(64, 64)), form)
    path = tmp_path / f"half.{form.lower()}"
    path.write_bytes(data[: len(data) // 2])
    message = refused(path)
    assert path.name in message
    assert "replace it" in message or "remove it" in message


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
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    exif[0x010E] = "a description"
    options = {"exif": exif} if form in ("JPEG", "PNG", "WEBP") else {}
    data = encoded(Image.fromarray(noise(40, 50)), form, **options)
    for seed in range(150):
        try:
            image = read_image(damaged(data, seed), max_pixels=1_000_000)
        except ImageError as error:
            assert len(str(error).splitlines()) == 1
        else:
            assert image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8


def test_truncated_pillow_image_is_an_image_error():
    data = encoded(Image.fromarray(noise(64, 64)), "JPEG")
    with Image.open(io.BytesIO(data[: len(data) // 2])) as picture, pytest.raises(ImageError):
        rgb_array(picture)


def test_huge_picture_is_refused_from_its_header(tmp_path):
    path = tmp_path / "huge.png"
    path.write_bytes(png_header_only(20_000, 20_000))
    message = refused(path)
    assert "huge.png" in message
    assert "20000 x 20000" in message and str(MAX_PIXELS) in message
    assert message.endswith("; scale the picture down")


def test_limit_can_be_set_and_is_inclusive():
    data = encoded(Image.fromarray(noise(20, 30)), "PNG")
    assert "30 x 20" in refused(data, max_pixels=599)
    np.testing.assert_array_equal(read_image(data, max_pixels=600), noise(20, 30))


def test_picture_inside_an_icon_is_refused_before_it_is_decoded():
    # The icon's own header says 16 x 16; Pillow decodes the PNG inside while it opens the file.
    # That PNG holds no pixels: had anybody tried to decode it, it would be called truncated.
    inner = png_header_only(1000, 1000)
    icon = struct.pack("<HHH", 0, 1, 1) + struct.pack(
        "<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inner), 22
    )
    message = refused(icon + inner, max_pixels=10_000)
    assert "truncated" not in message
    assert "not a picture in a format that is read" in message


def test_pillows_own_limit_neither_applies_nor_changes(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    data = encoded(Image.fromarray(noise(20, 30)), "PNG")
    np.testing.assert_array_equal(read_image(data), noise(20, 30))
    assert Image.MAX_IMAGE_PIXELS == 50
    refused(data, max_pixels=10)
    refused(data[:40])
    refused(b"no picture")
    assert Image.MAX_IMAGE_PIXELS == 50


def test_pillows_own_limit_survives_threads():
    before = Image.MAX_IMAGE_PIXELS
    data = encoded(Image.fromarray(noise(20, 30)), "PNG")
    failures = []

    def read_often():
        for _ in range(20):
            if not np.array_equal(read_image(data), noise(20, 30)):
                failures.append("differs")

    threads = [threading.Thread(target=read_often) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert before is not None and before == Image.MAX_IMAGE_PIXELS
