"""The page as a person uses it, in a real browser."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ssd34.images.draw import choose_colour
from ssd34.runtime.detector import DEFAULT_SCORE
from tests.conftest import EXAMPLES
from tests.support.browser import CHROMIUM, HOW_TO_GET_IT, chromium
from tests.support.page import (
    assert_readable,
    assert_stays_at,
    hand_over,
    rows,
    set_score,
    upload,
    wait_until,
)
from tests.support.server import CHELSEA, serving

pytestmark = pytest.mark.skipif(not CHROMIUM, reason=HOW_TO_GET_IT)

WIDTHS = (360, 1280)
LEAST = 0.05
"""The score from which on the page asks for detections."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.fixture(scope="module")
def cats(tmp_path_factory):
    """The embedded model, which sees the cat."""
    folder = tmp_path_factory.mktemp("page")
    with serving(folder, "default", "--instances", 1) as one:
        yield one


def open_page(browser, server, *, width=1280, dark=False):
    browser.open(f"http://127.0.0.1:{server.port}/", width=width, dark=dark)


def shown_cat(browser, server, **how):
    open_page(browser, server, **how)
    upload(browser, EXAMPLES / "chelsea.jpg")
    wait_until(browser, "!document.getElementById('result').hidden")


def test_an_upload_shows_what_the_server_finds(browser, cats):
    shown_cat(browser, cats)
    [picture] = cats.detect(CHELSEA, f"?score={LEAST}").json["pictures"]
    expected = [d for d in picture["detections"] if d["score"] >= DEFAULT_SCORE]
    assert rows(browser) == [
        [d["name"], f"{d['score']:.0%}".replace("%", " %"), *(f"{v:.0f}" for v in d["box"])]
        for d in expected
    ]
    assert expected[0]["name"] == "cat"
    assert "cat" in browser.run("document.getElementById('canvas').ariaLabel")
    canvas = browser.run(
        "[document.getElementById('canvas').width, document.getElementById('canvas').height]"
    )
    assert canvas == [picture["width"], picture["height"]]
    # The box's colour is where the box is, and the picture's elsewhere.
    left, top, right, bottom = (round(v) for v in expected[0]["box"])
    pixels = "document.getElementById('canvas').getContext('2d').getImageData"
    edge = browser.run(f"[...{pixels}({right}, {(top + bottom) // 2}, 1, 1).data]")
    inside = browser.run(f"[...{pixels}({(left + right) // 2}, {bottom - 40}, 1, 1).data]")
    assert np.abs(np.subtract(edge[:3], choose_colour(expected[0]["label"]))).max() < 90
    assert edge != inside
    assert "ms" in browser.run("document.getElementById('timing').innerText")


def test_slider_and_chips_filter_at_once(browser, cats):
    shown_cat(browser, cats)
    asked = len(browser.requests)
    found = cats.detect(CHELSEA, f"?score={LEAST}").json["pictures"][0]["detections"]
    for percent in (5, 60, 99):
        set_score(browser, percent)
        assert len(rows(browser)) == sum(d["score"] * 100 >= percent for d in found)
    set_score(browser, 5)
    chip = "document.querySelector('#chips [data-name=cat]')"
    browser.run(f"{chip}.click()")
    assert browser.run(f"{chip}.ariaPressed") == "false"
    assert "cat" not in {row[0] for row in rows(browser)} and rows(browser)
    browser.run(f"{chip}.click()")
    assert len(rows(browser)) == len(found)
    assert len(browser.requests) == asked


def test_by_keyboard(browser, cats):
    """Tab reaches an example, Enter takes it; the slider moves with the arrow keys."""
    open_page(browser, cats)

    def press(key, code):
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            browser.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key,
                        windowsVirtualKeyCode=code, **text)  # fmt: skip

    for _ in range(12):
        press("Tab", 9)
        if browser.run("document.activeElement.dataset.example") == "chelsea":
            break
    press("Enter", 13)
    wait_until(browser, "!document.getElementById('result').hidden")
    assert "cat" in {row[0] for row in rows(browser)}
    for _ in range(12):
        press("Tab", 9)
        if browser.run("document.activeElement.id") == "score":
            break
    press("ArrowRight", 39)
    assert browser.run("document.getElementById('least').innerText") == "51 %"


def test_a_pasted_and_a_dropped_picture(browser, cats):
    for kind, field in (("paste", "clipboardData"), ("drop", "dataTransfer")):
        open_page(browser, cats)
        hand_over(browser, kind, field)
        wait_until(browser, "!document.getElementById('result').hidden")
        assert "cat" in {row[0] for row in rows(browser)}


def test_errors_are_shown_and_end(browser, cats, tmp_path):
    (tmp_path / "no.jpg").write_bytes(b"<b>no picture</b>")
    open_page(browser, cats)
    upload(browser, tmp_path / "no.jpg")
    wait_until(browser, "!document.getElementById('error').hidden")
    message = browser.run("document.getElementById('message').innerText")
    assert cats.detect(b"<b>no picture</b>").error in message
    assert browser.run("document.getElementById('error').role") == "alert"
    upload(browser, EXAMPLES / "chelsea.jpg")
    wait_until(browser, "!document.getElementById('result').hidden")
    assert browser.run("document.getElementById('error').hidden")
    browser.run("fetch = async () => new Response('<p>Too large', {status: 413})")  # a proxy's
    upload(browser, EXAMPLES / "chelsea.jpg")
    wait_until(browser, "document.getElementById('message').innerText.includes('413')")
    open_page(browser, cats)
    browser.ask("Network.setBlockedURLs", urls=["*/examples/*"])
    browser.run("document.querySelector('[data-example=coffee]').click()")
    wait_until(browser, "document.getElementById('message').innerText.includes('example')")
    browser.ask("Network.setBlockedURLs", urls=[])


def test_the_page_asks_for_the_key(browser, tiny_model, tmp_path):
    with serving(tmp_path, tiny_model, "--instances", 1, "--api-key", "k") as one:
        open_page(browser, one)
        upload(browser, EXAMPLES / "chelsea.jpg")
        wait_until(browser, "!document.getElementById('keyform').hidden")
        assert browser.run("document.activeElement.id") == "key"
        browser.run("document.getElementById('key').value = 'k'")
        browser.run("document.querySelector('#keyform button').click()")
        wait_until(browser, "!document.getElementById('result').hidden")


def test_downloads(browser, cats):
    shown_cat(browser, cats)
    saved = browser.run(
        """new Promise(done => {
          const blobs = [];
          URL.createObjectURL = blob => { blobs.push(blob); return 'data:,'; };
          HTMLAnchorElement.prototype.click = function () {
            blobs.at(-1).text().then(text => done([this.download, blobs.at(-1).type, text]));
          };
          document.getElementById('json').click();
        })"""
    )
    name, kind, text = saved
    assert (name, kind) == ("detections.json", "application/json")
    told = json.loads(text)
    assert told["model"] == "default" and [d["name"] for d in told["detections"]] == ["cat"]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
def test_readable_on_phones_and_in_the_dark(browser, cats, width, dark):
    shown_cat(browser, cats, width=width, dark=dark)
    assert_readable(browser, dark=dark)
    assert_stays_at(browser, f"http://127.0.0.1:{cats.port}/")


def test_the_page_may_use_nothing_but_this_server(cats):
    policy = cats.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
