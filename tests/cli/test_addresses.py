"""Pictures that lie at addresses of the web, here those of a local server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ssd34
from ssd34.errors import ImageError
from ssd34.images.sources import find_pictures
from ssd34.video.source import find_video
from tests.conftest import EXAMPLES
from tests.support.cli import invoke
from tests.support.mirror import PAGE, redirect, status, whole
from tests.support.refusals import refused

CAT = (EXAMPLES / "chelsea.jpg").read_bytes()


@pytest.fixture
def cat(mirror):
    return mirror.serve(whole(CAT, content_type="image/jpeg"), name="cats/12.jpg?size=1")


def test_from_python_it_is_what_the_file_is(cat, mirror, tiny_model):
    file = EXAMPLES / "chelsea.jpg"
    model = ssd34.load(tiny_model)
    expected = model.detect(file, score=0.3)
    found = model.detect(cat, score=0.3)
    assert len(found) == len(expected) > 0 and found.path is None
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    fast = ssd34.load(tiny_model, preprocessing="fast")
    of_url, of_file = (fast.detect(one, score=0.3).boxes for one in (cat, file))
    np.testing.assert_array_equal(of_url, of_file)
    assert [len(one) for one in model.detect_many(iter([cat, file]), score=0.3)] == [len(found)] * 2
    np.testing.assert_array_equal(ssd34.read_image(cat), ssd34.read_image(file))
    np.testing.assert_array_equal(np.asarray(found.draw(cat)), np.asarray(expected.draw()))
    with refused(ImageError, "404", mirror.host):
        model.detect(mirror.serve(status(404)))
    with refused(ImageError, mirror.host, "web page"):
        model.detect(mirror.serve(whole(PAGE)))
    with pytest.raises(ImageError):  # a path is no address
        model.detect(Path(cat))


def test_from_the_command_line(cat, mirror, tiny_model, tmp_path):
    gone = mirror.serve(status(404), name="gone.jpg")
    bare = mirror.serve(
        redirect(cat), whole(CAT, content_type="image/jpeg"), name="photo-123?width=9"
    )
    arguments = ("detect", "--model", tiny_model, "--score", "0.3", cat, gone)
    result = invoke(*arguments, bare, "--format", "json", "--save", tmp_path, code=1)
    told = json.loads(result.stdout)
    assert [one["file"] for one in told["pictures"]] == [cat, bare]
    assert told["pictures"][0]["detections"] == told["pictures"][1]["detections"] != []
    (failed,) = told["failed"]
    assert failed["file"] == gone and "404" in failed["reason"]
    assert sorted(os.listdir(tmp_path)) == ["12.jpg", "photo-123.png"]
    coco = json.loads(invoke(*arguments[:-1], "--format", "coco").stdout)
    assert {(one["image_id"], one["file_name"]) for one in coco} == {(12, cat)}


@pytest.mark.parametrize(
    ("url", "name"),
    [("http://h/a/b.jpg?c=/d.png#e", "b.jpg"), ("http://h/..%2F..%2Fetc%2Fpasswd", "passwd"),
     ("HTTPS://h", "picture"), ("http://h/..", "picture"), ("http://h/a%00%5C.b.png", "b.png"),
     ("http://h/K%C3%A4se.webp", "Käse.webp"), (f"http://h/{'ä' * 300}.jpg", "ä" * 56 + ".jpg")],
)  # fmt: skip
def test_the_name_that_a_picture_gets_is_one_in_its_folder(url, name):
    (one,) = find_pictures([url], urls=True)
    assert (str(one.relative), one.source) == (name, url)


def test_what_is_a_picture_and_what_a_film(mirror):
    picture = mirror.serve(whole(CAT, content_type="image/png"), name="shot")
    camera = mirror.serve(
        whole(b"--x", content_type="multipart/x-mixed-replace; boundary=x"), name="camera"
    )
    assert find_video([picture]) is None
    asked = len(mirror.requests)
    for address in (
        mirror.url("a.mp4"), mirror.url("a.m3u8"), "rtsp://127.0.0.1/a.jpg",
        f"http://me:secret@{mirror.host}/shot",
    ):  # fmt: skip
        video = find_video([address])
        assert video is not None and video.address == address
    assert find_video([mirror.url("a.jpg")]) is None and len(mirror.requests) == asked
    for address in (camera, mirror.serve(status(500))):
        assert find_video([address]) is not None


@pytest.mark.parametrize(
    "command", [("data", "label", "--output", "new"), ("benchmark", "default", "--images")]
)
def test_others_say_that_they_want_a_file(command, cat, mirror, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with refused(ImageError, cat, "download"):
        invoke(*command, cat)
    assert not mirror.requests


def test_no_network_code_is_loaded_for_files():
    code = "import sys, ssd34; sys.exit('urllib.request' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
