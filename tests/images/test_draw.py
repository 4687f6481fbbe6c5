from itertools import pairwise

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ssd34.core.detections import Detections
from ssd34.core.labels import LabelSet
from ssd34.errors import ImageError
from ssd34.images.draw import choose_colour, draw, draw_dashed_box
from tests.support.pictures import noise

GREY = 128


def found_in(image, boxes, *, labels=None, scores=None, names=("thing", "other")):
    count = len(boxes)
    height, width = image.shape[:2]
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4), np.array(labels or [1] * count, np.int64),
        np.array(scores or [0.5] * count, np.float32), LabelSet.from_names(names), width, height,
    )  # fmt: skip


def grey(height=100, width=140):
    return np.full((height, width, 3), GREY, np.uint8)


def test_outline_name_and_score_have_the_colour_of_the_class():
    image, box = grey(), (20, 40, 90, 80)
    drawn = np.asarray(draw(image, found_in(image, [box])))
    colour = choose_colour(1)
    assert colour != (GREY, GREY, GREY)
    for side in (drawn[80, 20:91], drawn[40:81, 20], drawn[40:81, 90]):
        assert (side == colour).all()
    for untouched in (drawn[45:75, 25:85], drawn[85:], drawn[:, 125:]):
        assert (untouched == GREY).all()
    label = drawn[25:38, 20:60].reshape(-1, 3)
    assert (label == colour).all(axis=1).any()
    assert len(np.unique(label, axis=0)) > 2
    other = np.asarray(draw(image, found_in(image, [box], scores=[0.9])))
    assert not np.array_equal(drawn, other)


def test_a_track_gives_the_colour():
    image, boxes = grey(), [(20, 40, 60, 80), (70, 40, 110, 80)]
    drawn = np.asarray(draw(image, found_in(image, boxes), tracks=[7, 8]))
    assert (drawn[80, 20:61] == choose_colour(7)).all() and (
        drawn[80, 70:111] == choose_colour(8)
    ).all()


def test_every_kind_of_picture_that_is_detected_in_is_drawn_on(tmp_path):
    """And stays as it was; it may be read-only."""
    image = noise(60, 80)
    image.setflags(write=False)
    found = found_in(image, [(5, 5, 50, 50)])
    expected = np.asarray(draw(image, found))
    assert not np.array_equal(expected, image)
    path = tmp_path / "a.png"
    Image.fromarray(image).save(path)
    before = Image.fromarray(image)
    for form in (path, str(path), path.read_bytes(), before):
        np.testing.assert_array_equal(np.asarray(draw(form, found)), expected)
    np.testing.assert_array_equal(np.asarray(before), image)
    np.testing.assert_array_equal(image, noise(60, 80))


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (333, 500)])
def test_result_is_an_rgb_picture_of_the_same_size(size):
    image = grey(*size)
    drawn = draw(image, found_in(image, [(0, 0, size[1], size[0])]))
    assert drawn.mode == "RGB" and drawn.size == (size[1], size[0])
    np.testing.assert_array_equal(np.asarray(draw(image, found_in(image, []))), image)


@pytest.mark.parametrize("wrong", ["no/such.jpg", b"no picture", np.zeros((9, 9), np.uint8), 3])
def test_what_cannot_be_drawn_on(wrong):
    with pytest.raises(ImageError):
        draw(wrong, found_in(grey(), []))


@pytest.mark.parametrize("name", ["a very long name of a class " * 8, "名前 😀", "two\nlines", ""])
@pytest.mark.parametrize(
    "box",
    [(0, 0, 10, 10), (130, 0, 140, 10), (0, 90, 10, 100), (130, 90, 140, 100), (0, 0, 140, 100),
     (140, 100, 140, 100), (70.2, 50.7, 70.2, 50.7)],
)  # fmt: skip
def test_labels_at_the_edges_do_not_fail(box, name):
    image = grey()
    drawn = draw(image, found_in(image, [box], names=(name,)))
    assert drawn.size == (140, 100)
    assert not np.array_equal(np.asarray(drawn), image)


def test_of_a_long_name_beginning_and_end_are_drawn(monkeypatch):
    drawn = []
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda _, __, text, **___: drawn.append(text))
    for name in ("cup", "c" * 5000):
        draw(grey(), found_in(grey(), [(5, 5, 20, 20)], names=(name,)))
    assert drawn[0] == "cup 50%" and len(drawn[1]) == 80
    assert drawn[1].startswith("ccc") and drawn[1].endswith("ccc 50%")


def test_labels_stay_inside_the_picture_and_the_best_lies_on_top():
    image = grey()
    drawn = np.asarray(draw(image, found_in(image, [(120, 50, 140, 70)])))
    assert not (drawn[:50, :120] == GREY).all()  # moved left, to begin left of its box
    drawn = np.asarray(draw(image, found_in(image, [(10, 0, 130, 99)])))
    assert (drawn[2, 12] == choose_colour(1)).all()
    boxes = [(20, 40, 90, 80)] * 2
    drawn = np.asarray(draw(image, found_in(image, boxes, labels=[2, 1], scores=[0.9, 0.4])))
    assert (drawn[80, 20:91] == choose_colour(2)).all()


def test_labels_of_boxes_at_one_place_do_not_hide_each_other():
    image = grey()
    one = np.asarray(draw(image, found_in(image, [(20, 40, 90, 80)])))
    boxes, scores = [(20, 40, 90, 80)] * 2, [0.5, 0.5]
    two = np.asarray(draw(image, found_in(image, boxes, labels=[1, 2], scores=scores)))
    np.testing.assert_array_equal(two[25:40, 20:90], one[25:40, 20:90])
    assert (two[41, 20:60] == choose_colour(2)).all()


def test_lines_grow_with_the_picture():
    def thickness(height, width):
        image = grey(height, width)
        box = (width // 4, height // 4, width // 2, height // 2)
        drawn = np.asarray(draw(image, found_in(image, [box])))
        row = drawn[height * 7 // 16, : width * 3 // 8]
        return int((row != GREY).any(axis=1).sum())

    assert thickness(100, 140) == 1
    assert thickness(900, 900) == 5


def test_neighbouring_labels_have_distant_bright_colours():
    colours = [np.array(choose_colour(label)) for label in range(1, 91)]
    for colour in colours:
        assert colour.dtype.kind == "i" and colour.min() >= 0 and colour.max() > 200
    assert min(abs(a - b).sum() for a, b in pairwise(colours)) > 150
    assert len({tuple(colour.tolist()) for colour in colours}) > 80


def test_dashes_follow_the_outline_and_leave_gaps():
    picture = Image.fromarray(grey())
    draw_dashed_box(ImageDraw.Draw(picture), (20, 40, 90, 80), colour=(255, 0, 0), line=1)
    red = (np.asarray(picture) == (255, 0, 0)).all(axis=2)
    for side in (red[40, 20:91], red[80, 20:91], red[40:81, 20], red[40:81, 90]):
        assert 0.4 < side.mean() < 0.8
    assert not red[41:80, 21:90].any()
    assert red[40:81, 20:91].sum() == red.sum()
