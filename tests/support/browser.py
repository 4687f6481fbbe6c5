"""Chromium without a window, driven over its own debugging protocol through two pipes.

https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import base64
import fcntl
import io
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
HOW_TO_GET_IT = "Chromium is not installed; install it with: make browser"

_SECONDS = 60.0
_SWITCHES = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe", "about:blank",
)  # fmt: skip


class Browser:
    """One page of a running Chromium.

    Attributes:
        messages: what pages wrote to the console, exceptions, and what the browser refused.
        requests: every address that pages and their workers asked for.
    """

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._write, self._read = to_browser, from_browser
        self._last, self._session, self._buffer = 0, "", b""
        self.messages: list[str] = []
        self.requests: list[str] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")
        self.ask("Target.setAutoAttach", autoAttach=True, waitForDebuggerOnStart=True, flatten=True)

    def open(self, page: Path | str, *, width: int, dark: bool) -> None:
        """Show a file or an address in a window of some width; returns when all of it is there."""
        self.messages.clear()
        self.requests.clear()
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=900,
                 deviceScaleFactor=1, mobile=False)  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        url = page if isinstance(page, str) else page.absolute().as_uri()
        self.ask("Page.navigate", url=url)
        end = time.monotonic() + _SECONDS
        while self.run("document.readyState") != "complete" or self.run("location.href") != url:
            assert time.monotonic() < end, f"{page} does not load"
            time.sleep(0.02)
        self.run("Promise.all([...document.images].map(i => i.decode().catch(() => 0)))")

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        told = self.ask(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def screenshot(self) -> NDArray[np.uint8]:
        """The whole page, (H, W, 3) uint8."""
        told = self.ask("Page.captureScreenshot", captureBeyondViewport=True)
        picture = Image.open(io.BytesIO(base64.b64decode(told["data"])))
        return np.asarray(picture.convert("RGB"))

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        number = self._send(method, self._session, parameters)
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer.get("method"), answer.get("params", {}))

    def _send(self, method: str, session: str, parameters: dict[str, Any]) -> int:
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        return self._last

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], _SECONDS)
            data = os.read(self._read, 1 << 20) if ready else b""
            assert data, "Chromium does not answer"
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer

    def _note(self, event: str | None, told: dict[str, Any]) -> None:
        if event == "Target.attachedToTarget":  # a worker, which waits for this
            for method in ("Network.enable", "Runtime.enable", "Runtime.runIfWaitingForDebugger"):
                self._send(method, told["sessionId"], {})
        elif event == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif event == "Runtime.consoleAPICalled":
            self.messages.append(f"{told['type']}: {told['args']}")
        elif event == "Runtime.exceptionThrown":
            self.messages.append(f"exception: {told['exceptionDetails']['text']}")
        elif event == "Log.entryAdded":
            self.messages.append(f"{told['entry']['level']}: {told['entry']['text']}")


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """A browser with a new profile in an empty folder; it ends with the block."""
    assert CHROMIUM, HOW_TO_GET_IT
    our_read, low_write = os.pipe()
    low_read, our_write = os.pipe()
    # Chromium reads commands from descriptor 3 and answers on 4; ours must not be among them.
    their_read, their_write = (fcntl.fcntl(n, fcntl.F_DUPFD, 10) for n in (low_read, low_write))
    os.close(low_read)
    os.close(low_write)
    command = 'exec 3<&"$1" 4>&"$2"; shift 2; exec "$@"'
    process = subprocess.Popen(
        ["bash", "-c", command, "bash", str(their_read), str(their_write), CHROMIUM,
         f"--user-data-dir={profile}", *_SWITCHES],
        pass_fds=(their_read, their_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(their_read)
    os.close(their_write)
    try:
        browser = Browser(our_write, our_read)
        yield browser
        with suppress(AssertionError, OSError):
            browser._session = ""
            browser.ask("Browser.close")
        process.wait(timeout=20)
    finally:
        process.kill()
        process.wait()
        os.close(our_write)
        os.close(our_read)
