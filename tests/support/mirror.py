"""A local HTTP server whose answers a test chooses, good and bad."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

CONTENT = np.random.default_rng(34).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
SIZE = len(CONTENT)

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:5ec1e058e666ef980a6213ac40088877865aafb2b6676b9af204b3828e4bb9d5\n"
    b"size 80366315\n"
)
PAGE = b"\n<!DOCTYPE html>\n<html><body>" + b"This is not a file. " * 100 + b"</body></html>"

Answer = Callable[[BaseHTTPRequestHandler], None]


class Mirror:
    """Serves `/name` as told by `serve`; `requests` holds name and Range header of each."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str | None]] = []
        self._answers: dict[str, list[Answer]] = {}
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def host(self):
        return f"127.0.0.1:{self._server.server_address[1]}"

    def url(self, name="file"):
        return f"http://{self.host}/{name}"

    def serve(self, *answers, name="file"):
        """One answer a request, the last for all that follow; returns the URL."""
        self._answers[name] = list(answers)
        return self.url(name)

    def ranges(self, name="file"):
        return [value for requested, value in self.requests if requested == name]

    def answer(self, handler):
        name = handler.path.lstrip("/")
        self.requests.append((name, handler.headers["Range"]))
        answers = self._answers[name]
        (answers.pop(0) if len(answers) > 1 else answers[0])(handler)

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """A client that hangs up is nothing to report."""


def _handler(mirror):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            mirror.answer(self)

        def log_message(self, format, *arguments):  # noqa: A002
            pass

    return Handler


def _send(handler, content, *, status=200, length=-1, headers=()):
    """Content-Length: as it is, another, or None for none."""
    handler.send_response(status)
    if length is not None:
        handler.send_header("Content-Length", str(len(content) if length < 0 else length))
    for key, value in headers:
        handler.send_header(key, value)
    handler.end_headers()
    handler.wfile.write(content)


def whole(content=CONTENT, *, length=-1, content_type="application/octet-stream"):
    """The content from its beginning, whatever was asked for."""
    headers = [("Content-Type", content_type)]
    return lambda handler: _send(handler, content, length=length, headers=headers)


def ranged(content=CONTENT, *, stop_after=None, then=None):
    """The content from where it was asked for.

    With `stop_after` only so many bytes of what was announced; `then` is called before the
    connection closes.
    """

    def answer(handler):
        found = re.fullmatch(r"bytes=(\d+)-", handler.headers["Range"] or "")
        start = int(found[1]) if found else 0
        if start >= len(content):
            _send(handler, b"", status=416, headers=[("Content-Range", f"bytes */{len(content)}")])
            return
        body = content[start:]
        last = len(content) - 1
        headers = [("Content-Range", f"bytes {start}-{last}/{len(content)}")] if found else []
        status = 206 if found else 200
        _send(handler, body[:stop_after], status=status, length=len(body), headers=headers)
        handler.wfile.flush()
        if then is not None:
            then()

    return answer


def shifted(content=CONTENT):
    """206, but from the beginning, and saying so."""
    header = ("Content-Range", f"bytes 0-{len(content) - 1}/{len(content)}")
    return lambda handler: _send(handler, content, status=206, headers=[header])


def status(code):
    return lambda handler: handler.send_error(code)


def redirect(target):
    return lambda handler: _send(handler, b"", status=302, headers=[("Location", target)])


def garbage(line):
    def answer(handler):
        handler.wfile.write(line)

    return answer


def silence(until):
    """Nothing at all until the event is set."""
    return lambda _handler: until.wait(10)
