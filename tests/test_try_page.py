"""docs/try: the embedded model in a real browser, beside Python."""

from __future__ import annotations

import base64
import io
import json
import re
import runpy
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import ssd34
from ssd34.core.boxes import pairwise_iou
from ssd34.core.preprocess import resize
from ssd34.images.read import read_image
from ssd34.runtime.detector import DEFAULT_SCORE
from tests.conftest import ROOT
from tests.support.browser import CHROMIUM, HOW_TO_GET_IT, chromium
from tests.support.page import (
    HOW_TO_GET_PROGRAM,
    PROGRAM,
    assert_readable,
    assert_stays_at,
    hand_over,
    serving_folder,
    upload,
    wait_until,
)

pytestmark = [
    pytest.mark.skipif(not CHROMIUM, reason=HOW_TO_GET_IT),
    pytest.mark.skipif(not PROGRAM.is_dir(), reason=HOW_TO_GET_PROGRAM),
]

EXAMPLES = ROOT / "src" / "ssd34" / "serve" / "page" / "examples"
NAMES = ("astronaut", "chelsea", "coffee")
SIDE = 300


@pytest.fixture(scope="module")
def isolated(tmp_path_factory):
    """The address of the page with the headers that allow threads, as `make try` serves it, and
    the page's folder."""
    folder = tmp_path_factory.mktemp("try") / "page"
    command = [sys.executable, ROOT / "docs" / "try" / "build.py", folder, "--serve", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout
        found = re.match(r"(http://127\.0\.0\.1:\d+/) ", process.stdout.readline())
        assert found
        yield found[1], folder
        process.kill()


@pytest.fixture(scope="module")
def site(isolated):
    """The address of the page on a web server that knows nothing of it."""
    with serving_folder(isolated[1]) as address:
        yield address


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as one:
        yield one


def text(browser, name):
    return browser.run(f"document.getElementById('{name}').innerText")


def load(browser):
    browser.run("document.getElementById('start').click()")
    wait_until(browser, "document.getElementById('drop').offsetWidth > 0")


def detections(browser, name):
    """What the page finds in one of its examples."""
    browser.run(f"state.answer = null; document.querySelector('[data-example={name}]').click()")
    wait_until(browser, "state.answer !== null")
    return json.loads(browser.run("JSON.stringify(state.answer.detections)"))


def test_finds_what_python_finds(browser, site):
    browser.open(site, width=1280, dark=False)
    assert not [url for url in browser.requests if re.search("onnx|wasm|model", url)]
    assert re.search(r"\b3\d MB", text(browser, "start"))
    assert browser.run("document.getElementById('score').value") == str(round(100 * DEFAULT_SCORE))
    load(browser)
    assert "One thread" in text(browser, "loaded")
    detector = ssd34.load("default")
    for name in NAMES:
        found = [one for one in detections(browser, name) if one["score"] >= 0.5]
        expected = detector.detect(EXAMPLES / f"{name}.jpg", score=0.5)
        assert [one["name"] for one in found] == list(expected.names)
        boxes = np.array([one["box"] for one in found])
        assert np.diag(pairwise_iou(boxes, expected.boxes)).min() > 0.99
        scores = [one["score"] for one in found]
        np.testing.assert_allclose(scores, expected.scores, rtol=0, atol=0.01)
        if name == "chelsea":
            assert found[0]["name"] == "cat" and scores[0] >= 0.98
    assert "cat" not in text(browser, "summary") and "cup" in text(browser, "status")
    assert_stays_at(browser, site)
    assert_readable(browser, dark=False)


def test_it_leads_back_to_the_site_that_it_is_part_of(isolated, tmp_path):
    (tmp_path / "index.html").touch()
    subprocess.run(
        [sys.executable, ROOT / "docs" / "try" / "build.py", tmp_path / "try"], check=True
    )
    check = runpy.run_path(str(ROOT / "docs" / "build_site.py"))["check_site"]
    assert not check(tmp_path)
    alone = (isolated[1] / "index.html").read_text()
    part = (tmp_path / "try" / "index.html").read_text()
    assert 'href="../index.html"' in part and "../" not in alone


def test_a_dropped_picture_in_several_threads(browser, isolated):
    address, _ = isolated
    browser.open(address, width=1280, dark=False)
    load(browser)
    assert browser.run("crossOriginIsolated")
    assert "Threads" in text(browser, "loaded")
    hand_over(browser, "drop", "dataTransfer")
    wait_until(browser, "!document.getElementById('result').hidden")
    assert "cat" in text(browser, "summary")
    assert_stays_at(browser, address)


def test_errors_are_shown_and_end(browser, site, tmp_path):
    """On a phone, in the dark."""
    (tmp_path / "no.jpg").write_bytes(b"no picture")
    browser.open(site, width=360, dark=True)
    hand_over(browser, "paste", "clipboardData")
    wait_until(browser, "!document.getElementById('error').hidden")
    assert "Load the model" in text(browser, "message")
    assert not [url for url in browser.requests if "onnx" in url]
    browser.ask("Network.setBlockedURLs", urls=["*.onnx"])
    browser.run("document.getElementById('start').click()")
    wait_until(browser, "document.getElementById('message').innerText.includes('.onnx')")
    browser.ask("Network.setBlockedURLs", urls=[])
    load(browser)
    assert browser.run("document.activeElement.id") == "choose"
    upload(browser, tmp_path / "no.jpg")
    wait_until(browser, "document.getElementById('message').innerText.includes('JPEG')")
    # What WebAssembly says where it gets no more.
    assert "memory" in browser.run("explain({ doing: 'starting', error: 'std::bad_alloc' })")
    assert detections(browser, "chelsea")[0]["name"] == "cat"
    assert browser.run("document.getElementById('error').hidden")
    assert_readable(browser, dark=True)


def test_what_the_browser_lacks_is_said(browser, isolated, site):
    browser.open(isolated[1] / "index.html", width=360, dark=False)
    assert "folder" in text(browser, "message")
    source = "delete window.WebAssembly"
    added = browser.ask("Page.addScriptToEvaluateOnNewDocument", source=source)
    browser.open(site, width=360, dark=False)
    browser.ask("Page.removeScriptToEvaluateOnNewDocument", **added)
    assert "WebAssembly" in text(browser, "message")
    assert not browser.run("document.getElementById('start').offsetWidth")


def test_the_script_in_the_documentation_runs(browser, isolated, site):
    text = (ROOT / "docs" / "models.md").read_text()
    [script] = re.findall(r"^```js\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    _, folder = isolated
    (folder / "find_best.js").write_text(script)
    where = {"imports": {"onnxruntime-web/wasm": "./onnxruntime/ort.wasm.bundle.min.mjs"}}
    page = f'<!doctype html><script type="importmap">{json.dumps(where)}</script>'
    (folder / "find_best.html").write_text(page)
    browser.open(f"{site}find_best.html", width=400, dark=False)
    [model] = folder.glob("*.onnx")
    best = browser.run(
        f"""(async () => {{
          const {{ findBest }} = await import('./find_best.js');
          const picture = await (await fetch('examples/chelsea.jpg')).blob();
          return findBest(await createImageBitmap(picture), '{model.name}');
        }})()"""
    )
    found = ssd34.load().detect(EXAMPLES / "chelsea.jpg", score=0.5)
    assert best["label"] == found.labels[0]
    assert abs(best["score"] - found.scores[0]) < 0.05
    box = np.clip([best["box"]], 0, 1) * ([found.width, found.height] * 2)
    assert pairwise_iou(box, found.boxes)[0, 0] > 0.9


def input_of(browser, picture):
    """(300, 300, 3) uint8: what the page makes of a file's bytes, before it normalises."""
    told = base64.b64encode(picture).decode()
    pixels = browser.run(
        f"""import('./worker.js').then(async ({{ shrink }}) => {{
          const data = Uint8Array.from(atob('{told}'), c => c.charCodeAt(0));
          const options = {{ colorSpaceConversion: 'none' }};
          const rgb = shrink(await createImageBitmap(new Blob([data]), options), {SIDE});
          return btoa(Array.from(rgb, b => String.fromCharCode(b)).join(''));
        }})"""
    )
    return np.frombuffer(base64.b64decode(pixels), np.uint8).reshape(SIDE, SIDE, 3)


@pytest.mark.parametrize(
    ("width", "height"),
    [(1, 1), (7, 500), (299, 301), (300, 300), (640, 427), (427, 640), (2500, 33), (310, 900)],
)
def test_stretches_bit_for_bit_as_pillow(browser, site, width, height):
    browser.open(site, width=1280, dark=False)
    picture = np.random.default_rng(width).integers(0, 256, (height, width, 3)).astype(np.uint8)
    picture[: height // 2] = 255 * (picture[: height // 2] > 127)
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "png")
    np.testing.assert_array_equal(input_of(browser, stream.getvalue()), resize(picture, SIDE))


def test_pictures_come_to_the_network_as_in_python(browser, site):
    """Decoded by the browser, turned upright, transparent parts on white."""
    cat = Image.open(EXAMPLES / "chelsea.jpg")
    turned = Image.Exif()
    turned[0x0112] = 6
    faded = cat.convert("RGBA")
    faded.putalpha(Image.linear_gradient("L").resize(cat.size))
    pictures = {"jpeg": (EXAMPLES / "coffee.jpg").read_bytes()}
    for name, image, kind, exif in (
        ("png", cat, "png", None), ("turned", cat, "jpeg", turned), ("faded", faded, "png", None),
        ("grey", cat.convert("L"), "jpeg", None),
    ):  # fmt: skip
        stream = io.BytesIO()
        image.save(stream, kind, exif=exif or b"")
        pictures[name] = stream.getvalue()
    browser.open(site, width=1280, dark=False)
    for name, data in pictures.items():
        gap = np.abs(input_of(browser, data).astype(int) - resize(read_image(data), SIDE))
        assert gap.max() <= 1, name
