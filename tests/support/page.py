"""The page that `ssd34 serve` has and the one in docs/try share, as a person uses it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np

from tests.conftest import ROOT
from tests.support.browser import Browser
from tests.support.cli import wait_for

PROGRAM = ROOT / ".venv" / "npm" / "node_modules" / "onnxruntime-web"
HOW_TO_GET_PROGRAM = "onnxruntime-web is not installed; install npm, then: make browser"


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving_folder(folder: Path) -> Iterator[str]:
    """The address of a web server that knows nothing of what is in a folder."""
    handler = partial(_Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def wait_until(browser: Browser, script: str) -> None:
    wait_for(lambda: browser.run(script))


def upload(browser: Browser, *files: Path) -> None:
    """Choose files, as the window for it would."""
    node = browser.ask("DOM.getDocument")["root"]["nodeId"]
    chosen = browser.ask("DOM.querySelector", nodeId=node, selector="#file")["nodeId"]
    browser.ask("DOM.setFileInputFiles", nodeId=chosen, files=[*map(str, files)])


def hand_over(browser: Browser, kind: str, field: str) -> None:
    """Paste or drop the cat."""
    browser.run(
        f"""fetch('examples/chelsea.jpg').then(r => r.blob()).then(b => {{
          const data = new DataTransfer();
          data.items.add(new File([b], 'cat.jpg', {{type: b.type}}));
          const event = new Event('{kind}', {{bubbles: true}});
          event.{field} = data;
          document.body.dispatchEvent(event);
        }})"""
    )


def rows(browser: Browser) -> list[list[str]]:
    script = (
        "[...document.querySelectorAll('#rows tr')].map(r => [...r.cells].map(c => c.innerText))"
    )
    found: list[list[str]] = browser.run(script)
    return found


def set_score(browser: Browser, percent: int) -> None:
    browser.run(
        f"{{ const s = document.getElementById('score'); s.value = {percent};"
        " s.dispatchEvent(new Event('input')); }"
    )


def assert_stays_at(browser: Browser, address: str) -> None:
    """Nothing was asked of another host, and nothing refused or thrown."""
    assert browser.messages == []
    away = [r for r in browser.requests if not r.startswith(("data:,", "blob:"))]
    assert away and all(r.startswith(address) for r in away)


def luminance(colour: str) -> float:
    values = np.array([int(v) for v in colour[4:-1].split(",")[:3]]) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def assert_contrast(browser: Browser) -> None:
    """WCAG's contrast of the colours of text and its background, at least 4.5 to 1."""
    colours = browser.run(
        """[...document.querySelectorAll('main *, header *, footer *')]
        .filter(e => e.offsetWidth > 1)
        .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
        .map(e => {
          let b = e;
          while (getComputedStyle(b).backgroundColor === 'rgba(0, 0, 0, 0)') b = b.parentElement;
          return [e.tagName, getComputedStyle(e).color, getComputedStyle(b).backgroundColor];
        })"""
    )
    assert len(colours) > 15
    for tag, text, paper in {tuple(one) for one in colours}:
        low, high = sorted((luminance(text), luminance(paper)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (tag, text, paper)


def assert_readable(browser: Browser, *, dark: bool) -> None:
    """It fits the window's width, is as light or dark as asked for, and can be read and used."""
    assert browser.run("document.documentElement.scrollWidth - innerWidth") == 0
    picture = browser.screenshot().mean(axis=-1)
    assert np.median(picture) < 60 if dark else np.median(picture) > 200
    assert_contrast(browser)
    # Whatever can be used has a name, and is large enough for a finger.
    unnamed = browser.run(
        """[...document.querySelectorAll('button, input:not([hidden]), canvas, [role=region]')]
        .filter(e => !(e.innerText?.trim() || e.labels?.length || e.ariaLabel
                       || e.querySelector('img')?.alt)).map(e => e.outerHTML)"""
    )
    assert unnamed == []
    small = browser.run(
        "[...document.querySelectorAll('button, .button')].filter(e => e.offsetWidth"
        " && e.offsetHeight < 36).map(e => e.outerHTML)"
    )
    assert small == []
