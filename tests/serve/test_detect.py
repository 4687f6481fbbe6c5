"""``POST /detect`` says what ``ssd34 detect`` says."""

from __future__ import annotations

import base64
import json

import pytest
import requests
from PIL import Image

from tests.conftest import EXAMPLES
from tests.support.cli import invoke, wait_for
from tests.support.pictures import ORIENTATION, encoded, noise
from tests.support.refusals import assert_facts
from tests.support.server import CHELSEA, COFFEE, LOW, serving


def said_by_command(model, *names, form="json", **options):
    options = {"score": 0.3, **options}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    files = [EXAMPLES / name for name in names]
    result = invoke("detect", *files, "--model", model, "--format", form, *words)
    return json.loads(result.stdout)


def without_file(picture):
    return {key: value for key, value in picture.items() if key not in ("file", "file_name")}


def as_form(*files):
    """Headers and body of a multipart form, as the library requests writes it."""
    prepared = requests.Request("POST", "http://x", files=[("picture", f) for f in files]).prepare()
    return prepared.body, prepared.headers["Content-Type"]


@pytest.mark.parametrize(
    "options", [{"score": 0.3}, {"score": 0.1}, {"policy": "mlperf", "score": 0.2}]
)
def test_one_picture_in_a_body(server, tiny_raw_model, options):
    query = "?" + "&".join(f"{name}={value}" for name, value in options.items())
    answer = server.detect(CHELSEA, query)
    expected = said_by_command(tiny_raw_model, "chelsea.jpg", **options)
    assert answer.status == 200 and answer.json["model"] == "tiny-raw"
    [one], [other] = answer.json["pictures"], expected["pictures"]
    assert one["detections"] and without_file(one) == without_file(other)
    assert answer.json["failed"] == []


def test_a_policy_leaves_the_preprocessing(tiny_raw_model, tmp_path):
    with serving(tmp_path, tiny_raw_model, "--instances", 1, "--preprocess", "fast") as one:
        answer = one.detect(CHELSEA, "?policy=mlperf&score=0.2").json
    options = {"policy": "mlperf", "score": 0.2}
    card, fast = (
        said_by_command(tiny_raw_model, "chelsea.jpg", preprocess=kind, **options)["pictures"]
        for kind in ("card", "fast")
    )
    found, of_card, of_fast = map(without_file, (*answer["pictures"], *card, *fast))
    assert found == of_fast != of_card


def test_a_file_with_its_own_nms(tail_server, tiny_model):
    [one] = tail_server.detect(COFFEE).json["pictures"]
    [other] = said_by_command(tiny_model, "coffee.jpg")["pictures"]
    assert one["detections"] and without_file(one) == without_file(other)
    assert tail_server.detect(COFFEE, "?policy=zoo").status == 400


def test_several_pictures_in_a_form(server, tiny_raw_model):
    body, kind = as_form(("chelsea.jpg", CHELSEA), ("../no.jpg", b"no"), ("coffee.jpg", COFFEE))
    answer = server.ask("POST", f"/detect{LOW}", body, kind=kind)
    expected = said_by_command(tiny_raw_model, "chelsea.jpg", "coffee.jpg")
    assert answer.status == 200
    assert [p["file"] for p in answer.json["pictures"]] == ["chelsea.jpg", "coffee.jpg"]
    assert [*map(without_file, answer.json["pictures"])] == [
        *map(without_file, expected["pictures"])
    ]
    [failed] = answer.json["failed"]
    assert failed["file"] == "../no.jpg" and "JPEG" in failed["reason"]


def test_coco(server, tiny_raw_model):
    body, kind = as_form(("chelsea.jpg", CHELSEA), ("coffee.jpg", COFFEE))
    answer = server.ask("POST", "/detect?format=coco&score=0.4", body, kind=kind)
    expected = said_by_command(tiny_raw_model, "chelsea.jpg", "coffee.jpg", form="coco", score=0.4)
    assert answer.json and [*map(without_file, answer.json)] == [*map(without_file, expected)]


@pytest.mark.parametrize("several", [False, True])
def test_base64_in_json(server, several):
    text = base64.b64encode(CHELSEA).decode()
    told = {"images": [text, text]} if several else {"image": text}
    answer = server.detect(json.dumps(told).encode(), kind="application/json")
    [same] = server.detect(CHELSEA).json["pictures"]
    assert [*map(without_file, answer.json["pictures"])] == [without_file(same)] * (1 + several)


def test_a_picture_with_its_boxes(server, tiny_raw_model, tmp_path):
    answer = server.detect(CHELSEA, f"{LOW}&format=image")
    assert answer.headers["content-type"] == "image/jpeg"
    command = ("detect", EXAMPLES / "chelsea.jpg", "--model", tiny_raw_model, "--score", 0.3)
    invoke(*command, "--save", tmp_path)
    assert answer.body == (tmp_path / "chelsea.jpg").read_bytes()


def test_a_picture_that_a_jpeg_cannot_hold(server):
    long = encoded(Image.new("RGB", (65501, 1)))
    assert server.detect(long).status == 200
    answer = server.detect(long, "?format=image")
    assert answer.status == 422
    assert_facts(answer.body.decode(), "65501 x 1", "format=json")


def test_boxes_are_in_pixels_of_the_picture_as_it_is_seen(server):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    turned = encoded(noise(30, 50), "JPEG", exif=exif)
    [picture] = server.detect(turned).json["pictures"]
    assert (picture["width"], picture["height"]) == (30, 50)


def test_timing_and_request_id(server):
    answer = server.detect(CHELSEA, headers={"X-Request-ID": "mine-1"})
    timing = answer.json["timing"]
    assert list(timing) == ["read", "wait", "prepare", "infer", "finish", "total"]
    parts = [value for name, value in timing.items() if name != "total"]
    assert timing["infer"] > 0 and sum(parts) <= timing["total"] + 0.1
    assert f"total;dur={timing['total']}" in answer.headers["server-timing"]
    assert answer.headers["x-request-id"] == "mine-1"
    [line] = wait_for(lambda: [line for line in server.logged() if line["id"] == "mine-1"])
    assert (line["path"], line["status"], line["pictures"]) == ("/detect", 200, 1)
    assert line["timing_ms"] == timing
    strange = server.detect(CHELSEA, headers={"X-Request-ID": 'a"b'}).headers["x-request-id"]
    assert len(strange) == 32


@pytest.mark.parametrize(
    "query",
    ["?score=nan", "?score=-0.1", "?score=1.5", "?score=", "?score=x", "?score=0.1&score=0.2",
     "?policy=none", "?format=xml", "?format=../x", "?colour=red"],
)  # fmt: skip
def test_wrong_queries(server, query):
    answer = server.detect(CHELSEA, query)
    assert answer.status == 400
    assert query[1:].split("=")[0] in answer.error


@pytest.mark.parametrize("batch", [1, 4])
def test_the_same_detections_batched_and_alone(tiny_raw_model, tiny_batch_model, tmp_path, batch):
    """Of a file for any number of pictures, and of one for four."""
    model = tiny_batch_model if batch == 4 else tiny_raw_model
    pictures = [encoded(noise(40 + k, 60, seed=k)) for k in range(7)]
    options = ("--instances", 1, "--max-batch", 4, "--max-wait-ms", 200)
    body, kind = as_form(*((f"{k}.png", one) for k, one in enumerate(pictures)))
    with serving(tmp_path, model, *options) as one:
        together = one.ask("POST", "/detect?score=0.1", body, kind=kind).json["pictures"]
        alone = [one.detect(p, "?score=0.1").json["pictures"][0] for p in pictures]
        if batch == 4:
            assert one.metric("ssd34_batch_pictures_count") < 2 * len(pictures)
    assert sum(len(p["detections"]) for p in alone) > 5
    assert [*map(without_file, together)] == [*map(without_file, alone)]
