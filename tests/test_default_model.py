"""The model that comes with the package, as an int8 file with its proof and as a float file."""

import hashlib
import json
import re
from inspect import signature
from pathlib import Path

import pytest

import ssd34
from ssd34.cli.app import commands
from ssd34.cli.data.group import label
from ssd34.cluster.job import BatchOptions
from ssd34.core.boxes import pairwise_iou
from ssd34.core.labels import COCO_LABELS
from ssd34.runtime.detector import DEFAULT_SCORE, Detector
from ssd34.video.look import look_at
from ssd34.workflows.label import Labelling
from ssd34.zoo.names import EMBEDDED, model_path
from tests.conftest import EXAMPLES, ROOT

PACKAGE = Path(ssd34.__file__).parent
WEIGHTS = PACKAGE / "weights"


@pytest.fixture(scope="module", params=EMBEDDED)
def detector(request):
    return Detector.load(request.param)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_files_are_small_and_the_card_is_about_these_very_ones():
    card = (WEIGHTS / "README.md").read_text()
    assert re.search(r"AP \| 0\.\d{4}", card)
    for name in EMBEDDED:
        assert model_path(name).stat().st_size <= 25_000_000
        assert sha256(model_path(name)) in card
    files = {path.name for path in WEIGHTS.iterdir() if path.suffix == ".onnx"}
    assert files == set(EMBEDDED.values())


def test_the_int8_file_comes_with_its_proof():
    path = model_path("default")
    proof = json.loads(path.with_suffix(".json").read_text())
    assert proof["model_sha256"] == sha256(path)
    trial, criterion = proof["trial"], proof["criterion"]
    assert trial["ap"] >= (1 - criterion["max_drop"]) * trial["float_ap"]
    assert trial["speedup"]["low"] >= criterion["min_speedup"] >= 1.5
    assert criterion["max_drop"] <= 0.003


@pytest.mark.parametrize(
    "file", sorted((ROOT / "docs" / "measured").glob("*.json")), ids=lambda file: file.stem
)
def test_measured_numbers_are_of_these_very_files(file):
    """And each says when, where and by which command, or that it was typed from a report."""
    values = json.loads(file.read_text())
    assert values["date"] and values["command"]
    assert ("cpu" in values and "ssd34" in values) != ("machine" in values and "typed" in values)
    for name in EMBEDDED.keys() & values["sha256"].keys():
        assert values["sha256"][name] == sha256(model_path(name))
    assert file.stem != "embedded" or set(EMBEDDED) < set(values["sha256"])


def test_its_network_and_classes(detector):
    assert detector.spec.name == "ssd300-resnet34"
    assert detector.labels == COCO_LABELS
    assert not detector.session.raw


@pytest.mark.parametrize(
    ("picture", "name"), [("astronaut", "person"), ("chelsea", "cat"), ("coffee", "cup")]
)
def test_the_best_detection_is_what_the_picture_shows(detector, picture, name):
    found = detector.detect(EXAMPLES / f"{picture}.jpg")
    assert found.names[0] == name
    left, top, right, bottom = found.boxes[0]
    share = (right - left) * (bottom - top) / (found.width * found.height)
    assert share > 0.25


def test_int8_finds_what_float_finds():
    int8, in_float = (
        Detector.load(name).detect(EXAMPLES / "chelsea.jpg")
        for name in ("default", "default-float")
    )
    assert pairwise_iou(int8.boxes[:1], in_float.boxes[:1])[0, 0] > 0.85
    assert abs(int8.scores[0] - in_float.scores[0]) < 0.1


def test_the_default_score_is_one_everywhere_and_most_of_what_it_shows_is_right():
    assert Labelling().score == BatchOptions().score == DEFAULT_SCORE
    for function in (Detector.detect, Detector.detect_many, Detector.detect_batch, look_at):
        assert signature(function).parameters["score"].default == DEFAULT_SCORE
    for command in (commands.commands["detect"], commands.commands["batch"], label):
        (option,) = (one for one in command.params if one.name == "score")
        assert option.default == DEFAULT_SCORE
    served = json.loads((PACKAGE / "serve" / "openapi.json").read_text())
    (query,) = (one for one in served["paths"]["/detect"]["post"]["parameters"]
                if one.get("name") == "score")  # fmt: skip
    assert query["schema"]["default"] == DEFAULT_SCORE
    page = (PACKAGE / "serve" / "page" / "index.html").read_text()
    assert re.findall(r'id="score"[^>]*value="(\d+)"', page) == [f"{DEFAULT_SCORE:.0%}"[:-1]]
    for page in ("python", "serving"):
        text = (ROOT / "docs" / f"{page}.md").read_text()
        assert re.findall(r"default(?: is)? (0\.\d)", text) == [str(DEFAULT_SCORE)]
    measured = json.loads((ROOT / "docs" / "measured" / "embedded.json").read_text())
    for model in measured["by_model"].values():
        assert model["all"]["precision_at"][str(DEFAULT_SCORE)]["precision"] > 0.7
