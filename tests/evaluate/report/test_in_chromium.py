"""The page as a browser shows it."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.browser import CHROMIUM, HOW_TO_GET_IT, chromium
from tests.support.page import assert_contrast

pytestmark = pytest.mark.skipif(not CHROMIUM, reason=HOW_TO_GET_IT)

VIEWS = ((400, False), (1280, False), (1280, True))
"""Width, and whether the scheme is dark."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.fixture(scope="module")
def shown(browser, written):
    """For each view: screenshot, and what the page and the browser say."""
    told = {}
    for width, dark in VIEWS:
        browser.open(written, width=width, dark=dark)
        told[width, dark] = {
            "overflow": browser.run("document.documentElement.scrollWidth - innerWidth"),
            "broken": browser.run(
                "[...document.images].filter(i => !i.naturalWidth).map(i => i.alt)"
            ),
            "images": browser.run("document.images.length"),
            "small": browser.run(
                "[...document.images].filter(i => i.getBoundingClientRect().width < 120).length"
            ),
            "messages": list(browser.messages),
            "requests": list(browser.requests),
            "columns": browser.run(
                "getComputedStyle(document.querySelector('.columns'))"
                ".gridTemplateColumns.split(' ').length"
            ),
            "picture": browser.screenshot(),
        }
    return told


def test_nothing_is_wider_than_the_window(shown):
    assert {key: one["overflow"] for key, one in shown.items()} == dict.fromkeys(shown, 0)


def test_all_images_are_there(shown):
    for key, one in shown.items():
        assert one["images"] == 16 and one["broken"] == [], key
        assert one["small"] == 0, key


def test_the_console_is_quiet_and_nothing_is_fetched(shown):
    for key, one in shown.items():
        assert one["messages"] == [], key
        away = [r for r in one["requests"] if not r.startswith(("data:image/", "data:,"))]
        assert len(away) == 1 and away[0].startswith("file:///"), key


def test_wide_windows_have_columns(shown):
    assert [shown[view]["columns"] for view in VIEWS] == [1, 2, 2]


def test_light_is_light_and_dark_is_dark(shown):
    small, light, dark = (shown[view]["picture"].mean(axis=-1) for view in VIEWS)
    assert small.shape[1] == 400 and light.shape == dark.shape and light.shape[1] == 1280
    assert np.median(small) > 230 and np.median(light) > 230 and np.median(dark) < 50
    # Not blank: text and plots from top to bottom.
    for picture in (small, light, dark):
        stripes = np.array_split(picture, 12)
        assert min(stripe.std() for stripe in stripes) > 8


def test_text_stands_out(browser, written):
    for dark in (False, True):
        browser.open(written, width=1280, dark=dark)
        assert_contrast(browser)
