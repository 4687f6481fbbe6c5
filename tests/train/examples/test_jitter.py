import colorsys

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from ssd34.train.examples.augment import BLOCK, apply_changes, draw_changes, turn_hue
from tests.conftest import EXAMPLES

AMOUNTS = {"brightness": 0.125, "contrast": 0.5, "saturation": 0.5, "hue": 0.05}


def picture(side=90):
    with Image.open(EXAMPLES / "coffee.jpg") as image:
        return image.convert("RGB").resize((side, side))


@pytest.mark.parametrize(
    ("kind", "enhancer"),
    [
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("saturation", ImageEnhance.Color),
    ],
)
@pytest.mark.parametrize("drawn", [-1.0, -0.5, -0.013, 0.0, 0.125, 0.5, 1.0])
def test_three_of_them_are_pillows_enhancers_bit_for_bit(kind, enhancer, drawn):
    ours = apply_changes(picture(), ((kind, drawn),))
    theirs = enhancer(picture()).enhance(1 + drawn)
    assert np.array_equal(np.asarray(ours), np.asarray(theirs))


@pytest.mark.parametrize(
    "share", [-1.0, -0.5, -0.4, -1 / 3, -0.2, -0.05, -0.01, 0.0, 0.03, 1 / 6, 0.25, 0.45, 0.5, 1.0]
)
def test_hue_is_turned_as_colorsys_turns_it(share):
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (800, 3)).astype(np.uint8)
    pixels[:200] = pixels[:200, :1]  # grey
    pixels[200:400, 1] = pixels[200:400, 0]  # two equal channels
    pixels[400:500] = generator.integers(0, 2, (100, 3)) * 255
    expected = []
    for rgb in pixels / 255:
        hue, saturation, value = colorsys.rgb_to_hsv(*rgb)
        expected.append(colorsys.hsv_to_rgb((hue + share) % 1, saturation, value))
    difference = np.abs(turn_hue(pixels.T, share).T - np.array(expected) * 255)
    assert difference.max() <= 0.5 + 1e-4


def test_a_picture_of_several_blocks_is_turned_everywhere():
    side = int(BLOCK**0.5) + 40
    image = picture(side)
    ours = np.asarray(apply_changes(image, (("hue", 0.04),)))
    expected = turn_hue(np.asarray(image).reshape(-1, 3).T, 0.04)
    assert np.array_equal(ours, expected.T.reshape(side, side, 3))


def test_changes_come_in_every_order_and_within_their_amounts():
    orders = set()
    for seed in range(300):
        changes = draw_changes(AMOUNTS, np.random.default_rng(seed))
        orders.add(tuple(kind for kind, _ in changes))
        assert all(abs(drawn) <= AMOUNTS[kind] for kind, drawn in changes)
    assert len(orders) == 24


def test_what_has_no_amount_is_left_out():
    changes = draw_changes(AMOUNTS | {"hue": 0, "contrast": 0}, np.random.default_rng(1))
    assert sorted(kind for kind, _ in changes) == ["brightness", "saturation"]
    assert np.array_equal(np.asarray(apply_changes(picture(), ())), np.asarray(picture()))
