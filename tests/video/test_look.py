"""Objects are followed."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from ssd34.core.detections import Detections
from ssd34.runtime.detector import Detector
from ssd34.video.feed import Feed
from ssd34.video.look import LOST_AFTER, Follower, look_at
from tests.conftest import TINY_LABELS
from tests.support.films import film, source_of
from tests.support.pictures import noise

SCORE = 0.37


def found(*objects, score=0.9):
    """Detections of (left, label), 60 wide and 80 high."""
    boxes = np.array([(left, 100, left + 60, 180) for left, _ in objects], np.float32)
    labels = np.array([label for _, label in objects], np.int64)
    scores = np.full(len(objects), score, np.float32)
    return Detections(boxes.reshape(-1, 4), labels, scores, TINY_LABELS, 640, 360)


def test_who_passes_by_another_keeps_the_number():
    follower = Follower(score=0.5)
    tracks = [follower.follow(found((10 * k, 1), (400 - 10 * k, 2)), k / 10) for k in range(40)]
    assert tracks == [[1, 2]] * 40


def test_the_same_class_beside_another():
    follower = Follower(score=0.5)
    tracks = [follower.follow(found((5 * k, 1), (300 + 5 * k, 1)), k / 25) for k in range(40)]
    assert tracks == [[1, 2]] * 40


@pytest.mark.parametrize(("away", "number"), [(0.6 * LOST_AFTER, 1), (1.5 * LOST_AFTER, 2)])
def test_who_is_away_for_long_is_another(away, number):
    follower = Follower(score=0.5)
    for k in range(10):
        assert follower.follow(found((100, 1)), k / 10) == [1]
    for k in range(5):
        assert follower.follow(found(), 1 + away * k / 5) == []
    assert follower.follow(found((100, 1)), 0.95 + away) == [number]
    assert len(follower._numbers) == 1


def test_a_weak_box_continues_a_track_and_begins_none():
    follower = Follower(score=0.5)
    assert follower.follow(found((100, 1), score=0.3), 0.0) == [0]
    assert follower.follow(found((100, 1)), 0.1) == [1]
    for k in range(30):
        assert follower.follow(found((100, 1), score=0.3), 0.2 + k / 10) == [1]


def test_following_changes_nothing_of_what_is_found(tmp_path, tiny_model):
    path = film(tmp_path / "a.mp4", frames=6, picture=noise(48, 64, seed=1))
    detector = Detector.load(tiny_model)
    looks: dict[bool, Any] = {}
    for track in (False, True):
        with Feed(source_of(path)) as feed:
            looks[track] = list(look_at(feed, detector, score=SCORE, track=track))
    assert len(looks[True]) == 6 and len(looks[True][0].found) > 3
    for plain, followed in zip(looks[False], looks[True], strict=True):
        alone = detector.detect(plain.pixels, score=SCORE)
        assert plain.to_dict()["detections"] == alone.to_dict()["detections"]
        assert dataclasses.replace(followed, tracks=None).to_dict() == plain.to_dict()
        assert len(set(followed.tracks)) == len(followed.found)
    first, last = (set(looks[True][k].tracks) for k in (0, 5))  # the picture stands still
    assert len(first & last) > 0.8 * len(first)
