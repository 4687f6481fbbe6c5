import numpy as np
import pytest
from PIL import Image

from ssd34.core.preprocess import preprocess
from ssd34.errors import ImageError
from tests.conftest import EXAMPLES
from tests.support.refusals import refused


def card_preprocess(path, size):
    """The published model card's arithmetic: float64, channel by channel, stored as float32."""
    pixels = np.array(Image.open(path).resize((size, size), Image.Resampling.BILINEAR))
    planes = np.zeros((1, 3, size, size), np.float32)
    for channel, (mean, deviation) in enumerate(
        zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)
    ):
        planes[0, channel] = (pixels[:, :, channel] / 255 - mean) / deviation
    return planes


@pytest.mark.parametrize("name", ["astronaut.jpg", "chelsea.jpg", "coffee.jpg"])
@pytest.mark.parametrize("size", [300, 1200])
def test_bit_for_bit_as_on_the_model_card(name, size):
    pixels = np.asarray(Image.open(EXAMPLES / name))
    ours = preprocess(pixels, size)
    assert ours.dtype == np.float32
    assert np.array_equal(ours, card_preprocess(EXAMPLES / name, size))


def test_every_byte_value():
    ramp = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    expected = (np.arange(256) / 255 - 0.456) / 0.224
    assert np.array_equal(preprocess(ramp, 16)[0, 1].reshape(-1), expected.astype(np.float32))


def test_a_pillow_image_and_memory_that_is_used_again():
    memory = np.full((1, 3, 64, 64), np.nan, np.float32)
    for name in ("astronaut.jpg", "chelsea.jpg"):
        with Image.open(EXAMPLES / name) as picture:
            ours = preprocess(picture, 64, out=memory)
        assert ours is memory
        assert np.array_equal(ours, card_preprocess(EXAMPLES / name, 64))


def test_a_read_only_strided_view_works():
    pixels = np.asarray(Image.open(EXAMPLES / "coffee.jpg"))[::2, ::-1]
    copied = preprocess(pixels.copy(), 300)
    assert np.array_equal(preprocess(pixels, 300), copied)


@pytest.mark.parametrize(
    ("picture", "fact"),
    [*((Image.new(mode, (8, 8)), mode) for mode in ("L", "RGBA", "CMYK")),
     *((np.zeros(shape, np.uint8), shape) for shape in ((4, 4), (4, 4, 4), (3, 4, 4), (0, 4, 3))),
     (np.zeros((4, 4, 3), np.float32), "float32")],
)  # fmt: skip
def test_what_is_no_rgb_picture(picture, fact):
    with refused(ImageError, fact):
        preprocess(picture, 300)
