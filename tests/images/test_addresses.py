"""Pictures that lie at addresses of the web, here those of a local server."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest

import ssd34
from ssd34.errors import ImageError, OptionError, VideoError
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
    for detector in (model, fast):
        with refused(ImageError, mirror.serve(whole(CAT[:999]), name="half.jpg")):
            detector.detect(mirror.url("half.jpg"))
    with pytest.raises(ImageError):  # a path is no address
        model.detect(Path(cat))


@pytest.mark.parametrize("name", ["moving", "moving.mp4"])
def test_a_film_that_is_not_there_is_no_bad_film(mirror, monkeypatch, name):
    monkeypatch.setenv("no_proxy", "*")
    with refused(VideoError, "404", mirror.url(name), "address"):
        invoke("detect", mirror.serve(status(404), name=name))


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


def test_ctrl_c_does_not_wait_for_a_server(mirror, tiny_model):
    asked, over = threading.Event(), threading.Event()

    def answer(_):
        asked.set()
        over.wait(60)

    url = mirror.serve(answer, name="a.jpg")
    process = subprocess.Popen(
        [sys.executable, "-m", "ssd34", "detect", url, "--model", str(tiny_model)],
        stderr=subprocess.PIPE, text=True, env=os.environ | {"no_proxy": "*"},
    )  # fmt: skip
    try:
        assert asked.wait(60)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)  # it would wait for 30 s, three times
    finally:
        process.kill()
        over.set()
    assert (process.returncode, err.strip()) == (130, "error: interrupted")


def test_whoever_wants_no_more_does_not_wait_for_a_server(cat, mirror, tiny_model):
    asked, over, answered = threading.Event(), threading.Event(), []

    def answer(handler):
        asked.set()
        answered.append(over.wait(20))
        status(404)(handler)

    coming = ssd34.load(tiny_model).detect_many([cat, mirror.serve(answer, name="late")])
    assert isinstance(coming, Generator)
    next(coming)
    assert asked.wait(20)
    coming.close()
    assert not answered
    over.set()


def test_what_cannot_be_an_address(mirror):
    for command in (("detect", "http://[a/b.jpg"), ("detect", "rtsp://[a/b")):
        with refused(OptionError, command[1]):
            invoke(*command)
    with pytest.raises(ImageError, match=re.escape(mirror.host)) as caught:
        invoke("detect", EXAMPLES / "chelsea.jpg", f"http://me:secret@{mirror.host}/a.jpg")
    assert "secret" not in str(caught.value)


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
