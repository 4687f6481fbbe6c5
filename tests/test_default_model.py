"""The model that comes with the package."""

import hashlib
import re
from pathlib import Path

import pytest

import ssd34
from ssd34.core.labels import COCO_LABELS
from ssd34.runtime.detector import Detector, model_path
from tests.conftest import EXAMPLES

WEIGHTS = Path(ssd34.__file__).parent / "weights"


@pytest.fixture(scope="module")
def detector():
    return Detector.load()


def test_it_is_small_and_its_card_is_about_this_very_file():
    path = model_path("default")
    assert path.stat().st_size <= 25_000_000
    card = (WEIGHTS / "README.md").read_text()
    assert hashlib.sha256(path.read_bytes()).hexdigest() in card
    assert re.search(r"AP \| 0\.\d{4}", card)
    assert [p.name for p in WEIGHTS.iterdir() if p.suffix == ".onnx"] == [path.name]


def test_its_network_and_classes(detector):
    assert detector.spec.name == "ssd300-resnet18"
    assert detector.labels == COCO_LABELS
    assert not detector.session.raw


@pytest.mark.parametrize(("picture", "name"), [("astronaut", "person"), ("chelsea", "cat")])
def test_the_best_detection_is_what_the_picture_shows(detector, picture, name):
    found = detector.detect(EXAMPLES / f"{picture}.jpg")
    assert found.names[0] == name
    left, top, right, bottom = found.boxes[0]
    share = (right - left) * (bottom - top) / (found.width * found.height)
    assert share > 0.25
