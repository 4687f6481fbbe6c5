from functools import cache

import numpy as np
import pytest
from PIL import Image

from ssd34.core.preprocess import preprocess, resize
from ssd34.errors import ImageError
from ssd34.images.read import read_image, read_picture
from ssd34.images.reduced import FACTORS, read_reduced, read_square, stretch
from tests.conftest import EXAMPLES
from tests.support.pictures import encoded as file_of
from tests.support.pictures import exif_of

SIDE = 64
MEAN_DIFFERENCE, LARGEST_DIFFERENCE = 1.6, 16
"""Of 255, as documented in docs/detect.md."""


QUICK = {"JPEG": {"quality": 90}, "PNG": {"compress_level": 1}}


@cache
def scaled(name, size, mode):
    with Image.open(EXAMPLES / f"{name}.jpg") as picture:
        return picture.convert(mode).resize(size, Image.Resampling.LANCZOS)


def encoded(name, size, form="JPEG", mode="RGB", **options):
    """An example picture in another size, as a file."""
    return file_of(scaled(name, size, mode), form, **QUICK.get(form, {}) | options)


def differences(ours, exact):
    assert np.shape(ours) == np.shape(exact)
    return np.abs(np.asarray(ours, np.int16) - np.asarray(exact, np.int16))


def assert_near(ours, exact):
    found = differences(ours, exact)
    assert found.mean() <= MEAN_DIFFERENCE and found.max() <= LARGEST_DIFFERENCE


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee"])
@pytest.mark.parametrize("size", [(640, 480), (513, 700), (1031, 257), (129, 1500), (1000, 999)])
@pytest.mark.parametrize(
    ("form", "mode"), [("JPEG", "RGB"), ("PNG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK")]
)
def test_near_the_exact_way(name, size, form, mode):
    data = encoded(name, size, form, mode)
    square = read_square(data, SIDE)
    assert (square.width, square.height) == size
    assert square.picture.size == (SIDE, SIDE) and square.picture.mode == "RGB"
    assert_near(square.picture, resize(read_image(data), SIDE))


@pytest.mark.parametrize("size", [(191, 191), (20, 90), (64, 64), (1, 1), (130, 191)])
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_the_exact_way_below_three_times_the_input(size, form):
    data = encoded("coffee", size, form)
    exact = resize(read_image(data), SIDE)
    np.testing.assert_array_equal(np.asarray(read_square(data, SIDE).picture), exact)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF"])
def test_pictures_are_turned_as_exif_says(orientation, form):
    exif = exif_of(orientation)
    data = encoded("astronaut", (600, 400), form, exif=exif)
    exact = read_image(data)
    square = read_square(data, SIDE)
    assert (square.width, square.height) == exact.shape[1::-1]
    assert_near(square.picture, resize(exact, SIDE))
    for size in ((640, 480), (639, 475)):
        data = encoded("astronaut", size, form, exif=exif)
        whole = Image.fromarray(read_image(data))
        picture, width, height = read_reduced(data, 4)
        assert (width, height) == whole.size
        assert differences(picture, whole.reduce(4)).mean() <= MEAN_DIFFERENCE


def test_an_edge_within_the_last_scaled_pixel_stays_where_it_is():
    """1025 pixels at 1/8 are 129, of which the last is nearly all filled up."""
    ramp = np.linspace(0, 255, 1025).astype(np.uint8)
    pixels = np.repeat(np.tile(ramp, (512, 1))[..., None], 3, axis=2)
    data = file_of(pixels, "JPEG", quality=100, subsampling=0)
    assert differences(read_square(data, SIDE).picture, resize(read_image(data), SIDE)).max() <= 2


def test_decoded_pictures():
    picture = read_picture(encoded("coffee", (1000, 700), "PNG"))
    square = stretch(picture, SIDE)
    assert_near(square, resize(picture, SIDE))
    assert np.array_equal(preprocess(square, SIDE), preprocess(np.asarray(square), SIDE))


@pytest.mark.parametrize("kept", [0, 1, 30, 500, 5000, -20])
def test_broken_files_are_refused_as_ever(kept, tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded("coffee", (1000, 700))[:kept])
    messages = set()
    for read in (read_image, lambda p: read_square(p, SIDE), lambda p: read_reduced(p, 4)):
        with pytest.raises(ImageError) as error:
            read(path)
        messages.add(str(error.value))
    assert len(messages) == 1


def test_the_limit_counts_all_pixels():
    data = encoded("coffee", (1000, 700))
    with pytest.raises(ImageError, match=r"1000 x 700.*699999"):
        read_square(data, SIDE, max_pixels=699_999)
    read_square(data, SIDE, max_pixels=700_000)


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("size", [(640, 480), (1031, 257), (500, 499), (17, 9), (8, 9)])
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_a_part_of_the_size(form, size, factor):
    """Near the averages of the whole picture's pixels."""
    data = encoded("astronaut", size, form)
    picture, width, height = read_reduced(data, factor)
    assert (width, height) == size and picture.mode == "RGB"
    assert picture.size == tuple(-(-side // factor) for side in size)
    # The last pixel of a row or column is of an edge block that was cut, and differs more.
    inner = tuple(slice(0, side // factor) for side in size[::-1])
    averages = np.asarray(Image.fromarray(read_image(data)).reduce(factor))[inner]
    found = differences(np.asarray(picture)[inner], averages)
    if form == "PNG" or factor == 1:
        assert found.max() == 0
    elif min(size) > 100:  # of less, nearly all is edge
        assert found.mean() <= MEAN_DIFFERENCE
