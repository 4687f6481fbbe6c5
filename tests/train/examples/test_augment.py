import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssd34.core.boxes import pairwise_iou
from ssd34.images.reduced import FACTORS
from ssd34.train.examples.augment import (
    FILL,
    Augmentation,
    apply_variation,
    crop,
    draw_variation,
    zoom,
)
from tests.conftest import EXAMPLES

PLAIN = Augmentation(expand=0, crop=False, flip=0, brightness=0, contrast=0, saturation=0, hue=0)
WIDTH, HEIGHT = 200, 160
BOX = np.array([[20, 40, 100, 120]], np.float32)


def vary(boxes, seed=0, *, size=64, whole=(WIDTH, HEIGHT), options=PLAIN, **given):
    """A variation; changed options, such as ``crop=True``, are arguments."""
    names = [name for name in given if hasattr(options, name)]
    options = dataclasses.replace(options, **{name: given.pop(name) for name in names})
    rng = np.random.default_rng(seed)
    width, height = whole
    given = {"ignored": np.zeros(len(boxes), bool), "labels": np.ones(len(boxes), int), **given}
    return draw_variation(width, height, boxes, size=size, options=options, rng=rng, **given)


def shown(variation, image):
    return apply_variation(Image.fromarray(image), variation, factor=1)


def marked(boxes):
    """Black, with each box filled in white."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for left, top, right, bottom in np.rint(boxes).astype(int):
        image[top:bottom, left:right] = 255
    return image


@pytest.mark.parametrize("seed", range(20))
def test_boxes_stay_on_their_objects(seed):
    """After expand, crop and flip the white pixels still fill the box."""
    boxes = np.array([[60, 50, 140, 110]], np.float32)
    variation = vary(boxes, seed, size=300, expand=0.5, crop=True, flip=0.5)
    assert variation.kept.tolist() == [0]
    white = (shown(variation, marked(boxes)).min(axis=2) > 127).nonzero()
    found = [white[1].min(), white[0].min(), white[1].max() + 1, white[0].max() + 1]
    np.testing.assert_allclose(variation.boxes[0] * 300, found, atol=3.5)


def test_flip_mirrors_picture_and_boxes():
    """And a sliver is left out."""
    boxes = np.array([[0, 0, 50, 160], [20, 40, 20.00005, 120]], np.float32)
    variation = vary(boxes, size=100, flip=1.0)
    assert variation.kept.tolist() == [0]
    np.testing.assert_allclose(variation.boxes, [[0.75, 0, 1, 1]], atol=1e-6)
    assert shown(variation, marked(boxes))[50, 90].tolist() == [255] * 3


def test_expand_surrounds_with_the_mean_colour():
    boxes = np.array([[0, 0, WIDTH, HEIGHT]], np.float32)
    variation = vary(boxes, 5, size=200, expand=1.0, largest_expand=3.0)
    left, top, right, bottom = variation.boxes[0]
    assert right - left == pytest.approx(bottom - top, abs=1e-5)
    assert right - left < 0.9
    image = shown(variation, marked(boxes))
    outside = image[0, 0] if left > 0.02 and top > 0.02 else image[-1, -1]
    assert outside.tolist() == list(FILL)


def test_crops_keep_objects_by_their_centre():
    corner = np.random.default_rng(9).uniform(0, 120, (6, 2))
    boxes = np.concatenate([corner, corner + 30], axis=1).astype(np.float32)
    kept_counts = set()
    for seed in range(60):
        variation = vary(boxes, seed, crop=True)
        left, top, right, bottom = variation.window
        x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
        inside = (left < x) & (x < right) & (top < y) & (y < bottom)
        assert variation.kept.tolist() == np.flatnonzero(inside).tolist()
        assert 1 <= len(variation.kept) == len(variation.boxes)
        assert (variation.boxes >= 0).all() and (variation.boxes <= 1).all()
        assert (variation.boxes[:, 2:] > variation.boxes[:, :2]).all()
        kept_counts.add(len(variation.kept))
    assert len(kept_counts) > 2


def bounded(choice: int, seed: int) -> Any:
    """A generator that always draws the same of the seven published choices for a crop."""
    return SimpleNamespace(
        integers=lambda choices: min(choice, choices - 1),
        uniform=np.random.default_rng(seed).uniform,
    )


@pytest.mark.parametrize(("choice", "bound"), list(enumerate((None, 0.1, 0.3, 0.5, 0.7, 0.9, 0))))
def test_crops_overlap_all_objects_by_the_bound_asked_for(choice, bound):
    boxes = np.array([[20, 16, 180, 144], [22, 18, 179, 143], [80, 60, 90, 70]], np.float32)
    respected = np.array([True, True, False])
    picture = np.array([0, 0, 200, 160], np.float64)
    least = []
    for seed in range(12):
        window, _ = crop(picture, boxes, respected, bounded(choice, seed))
        if bound is None:
            assert window.tolist() == picture.tolist()
            continue
        share = (window[2:] - window[:2]) / picture[2:]
        assert (share >= 0.3).all() and 0.5 <= share[0] / share[1] <= 2
        assert (window[:2] >= 0).all() and (window[2:] <= picture[2:]).all()
        least.append(pairwise_iou(boxes[:2], window[None]).min())
    if bound is not None:
        assert min(least) > bound
        # And by little more: nothing else asks for it.
        assert min(least) < bound + 0.4


def test_zooming_in_on_a_box_that_is_off_by_one_rounding():
    """A float box's left end above 0 by less than its right end resolves."""
    box = np.array([[4e-14, 0, 300, 200]], np.float32)
    for seed in range(200):
        window = zoom(400, 300, box, np.array([1]), np.random.default_rng(seed))
        assert (window[2:] > window[:2]).all()


def test_jitter_changes_colours_and_nothing_else():
    image = np.full((HEIGHT, WIDTH, 3), (200, 100, 50), np.uint8)
    seen = set()
    for seed in range(5):
        variation = vary(BOX, seed, options=Augmentation(crop=False, flip=0))
        np.testing.assert_allclose(variation.boxes, [[0.1, 0.25, 0.5, 0.75]], atol=1e-6)
        seen.add(tuple(shown(variation, image)[5, 5].tolist()))
    assert len(seen) == 5


def test_crops_need_not_respect_ignored_boxes():
    crowd = np.array([[0, 0, 200, 160], [150, 120, 160, 130]], np.float32)
    sizes = []
    for seed in range(40):
        variation = vary(crowd, seed, crop=True, ignored=np.array([True, False]))
        assert 1 in variation.kept
        sizes.append(variation.boxes[-1, 2] - variation.boxes[-1, 0])
    # Only a box of 10 pixels constrains the crop: small windows, in which it looks large.
    assert max(sizes) > 2 * 10 / 200


def test_the_factor_leaves_more_than_the_result_needs():
    """As far as 1/8; no factor where the window is hardly larger than the result."""
    boxes = np.array([[100, 200, 1500, 1000]], np.float32)
    seen = set()
    for seed in range(100):
        variation = vary(boxes, seed, whole=(1600, 1200), options=Augmentation(expand=0.5))
        factor, shortest = variation.factor, (variation.window[2:] - variation.window[:2]).min()
        assert shortest / factor >= 1.5 * 64 or factor == 1
        assert factor == 8 or shortest / (2 * factor) < 1.5 * 64
        seen.add(factor)
    assert seen == {4, 8}
    assert vary(boxes / np.float32(10), whole=(191, 150)).factor == 1


@pytest.mark.parametrize("size", [(1600, 1200), (1031, 777)])
@pytest.mark.parametrize("seed", range(4))
def test_a_reduced_picture_gives_nearly_the_same(size, seed):
    """Geometry and colours are those of the whole picture; bounds are in docs/training.md."""
    with Image.open(EXAMPLES / "coffee.jpg") as image:
        picture = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    boxes = np.array([[100, 200, 900, 700]], np.float32)
    variation = vary(boxes, seed, whole=size, expand=0.5, crop=True, flip=0.5)
    whole = apply_variation(picture, variation, factor=1).astype(int)
    assert variation.factor > 1
    for factor in FACTORS:
        if factor <= variation.factor:
            reduced = apply_variation(picture.reduce(factor), variation, factor=factor)
            assert np.abs(reduced - whole).mean() <= 1.6
            assert np.abs(reduced - whole).max() <= 16


@pytest.mark.parametrize("seed", range(20))
def test_zooming_in_shows_one_object_large_and_whole(seed):
    boxes = np.array([[60, 50, 90, 80], [150, 100, 190, 110], [0, 40, 20, 60]], np.float32)
    variation = vary(boxes, seed, size=300, zoom=1.0, labels=np.array([1, 2, 2]))
    sides = (variation.boxes[:, 2:] - variation.boxes[:, :2]).max(axis=1)
    assert sides.max() > 0.25 * np.exp(-0.4)
    white = shown(variation, marked(boxes)).min(axis=2) > 127
    for left, top, right, bottom in np.rint(variation.boxes * 300).astype(int):
        assert white[top + 6 : bottom - 6, left + 6 : right - 6].all()


def test_what_is_zoomed_in_on_is_drawn_by_class():
    """One cup among nine persons is shown half of the time."""
    boxes = np.array([[20 * i, 20, 20 * i + 6, 26] for i in range(10)], np.float32)
    given = {"labels": np.array([1] * 9 + [2]), "ignored": np.arange(10) == 0}
    every = [vary(boxes, seed, zoom=1.0, **given).kept for seed in range(200)]
    assert 80 < sum(9 in kept for kept in every) < 130
    assert max(map(len, every)) <= 4
    assert 0 < sum(0 in kept for kept in every) < 20


@pytest.mark.parametrize("crop", [False, True])
@pytest.mark.parametrize("zoom", [0.0, 1.0])
def test_what_is_ignored_is_kept_as_far_as_it_is_seen(crop, zoom):
    """A crowd on the right half, an object on the left: windows that end within the crowd."""
    boxes = np.array([[20, 40, 60, 100], [100, 0, 200, 160]], np.float32)
    cut = 0
    for seed in range(60):
        variation = vary(boxes, seed, crop=crop, zoom=zoom, ignored=np.array([False, True]))
        left, right = variation.window[[0, 2]]
        seen = (right - 100) / (right - left) * 64
        assert (1 in variation.kept) == (seen >= 0.1)
        if seen >= 0.1 and right < 150:
            cut += 1
            place = variation.kept.tolist().index(1)
            expected = [(100 - left) / (right - left), 0, 1, 1]
            np.testing.assert_allclose(variation.boxes[place], expected, atol=1e-5)
    assert cut > 3 or not (zoom or crop)


def test_zooming_never_leaves_the_picture():
    boxes = np.array([[0, 0, WIDTH, HEIGHT]], np.float32)
    for seed in range(20):
        variation = vary(boxes, seed, zoom=1.0)
        np.testing.assert_allclose(variation.window, [0, 0, WIDTH, HEIGHT], atol=1e-9)
        np.testing.assert_allclose(variation.boxes, [[0, 0, 1, 1]], atol=1e-6)
