from __future__ import annotations

import threading
import time

import pytest

from ssd34.errors import DownloadError
from ssd34.files.web import read_content_type, read_url
from tests.support.mirror import (
    CONTENT,
    PAGE,
    SIZE,
    garbage,
    ranged,
    redirect,
    silence,
    status,
    whole,
)


def fetch(url, **options):
    return read_url(url, **{"limit": SIZE, "timeout": 5.0, "pause": 0.0} | options)


def chunked(*pieces, pause=0.0, end=b"0\r\n\r\n"):
    def answer(handler):
        handler.protocol_version = "HTTP/1.1"
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for piece in pieces:
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            handler.wfile.flush()
            time.sleep(pause)
        handler.wfile.write(end)

    return answer


def test_what_lies_there(mirror):
    assert fetch(mirror.serve(whole())) == CONTENT
    assert fetch(mirror.serve(whole(length=None))) == CONTENT
    assert fetch(mirror.serve(chunked(CONTENT[:5], CONTENT[5:]))) == CONTENT
    mirror.serve(whole(), name="K%C3%A4se%20%26.jpg?a=%20b")
    assert fetch(mirror.url("Käse %26.jpg?a=%20b#part")) == CONTENT
    assert fetch(mirror.serve(redirect(mirror.url()), name="moved")) == CONTENT
    mirror.serve(whole(), name="%FF.jpg")
    assert fetch(mirror.url("\udcff.jpg")) == CONTENT  # a byte of a command line that is no UTF-8


def test_a_broken_off_answer_is_asked_for_again(mirror):
    assert fetch(mirror.serve(ranged(stop_after=99), chunked(b"ab", end=b"5\r\nc"), whole())) == (
        CONTENT
    )
    with pytest.raises(DownloadError, match=r"99 of 300000"):
        fetch(mirror.serve(ranged(stop_after=99)), attempts=2)
    assert len(mirror.requests) == 5


def test_what_is_refused(mirror):
    silent = threading.Event()
    for answer, fact in (
        (status(404), "404"), (whole(length=SIZE + 1), str(SIZE + 1)), (status(206), "206"),
        (whole(CONTENT + b"x", length=None), str(SIZE)), (whole(PAGE), "web page"),
        (chunked(CONTENT, b"x"), str(SIZE)), (garbage(b"SSH-2.0\r\n"), "nonsense"),
        (redirect("file:///etc/passwd"), "http"), (redirect("/file"), "302"),
        (silence(silent), "0.2 s"),
    ):  # fmt: skip
        with pytest.raises(DownloadError, match=fact) as caught:
            fetch(mirror.serve(answer), timeout=0.2)
        assert mirror.url() in str(caught.value) and "\n" not in str(caught.value)
    silent.set()
    with pytest.raises(DownloadError, match="too long"):
        fetch(mirror.serve(chunked(*[b"a"] * 50, pause=0.05)), longest=0.3)


def test_addresses_that_are_none(mirror):
    for url in ("file:///etc/passwd", "ftp://host/a", "http://", "http:///a.jpg", "http://[1/a"):
        with pytest.raises(DownloadError):
            fetch(url)
    for ask in (fetch, lambda url: read_content_type(url, timeout=1)):
        with pytest.raises(DownloadError, match=r"user name") as caught:
            ask(f"http://me:se@cret@{mirror.host}/a.jpg")
        assert "cret" not in str(caught.value) and mirror.host in str(caught.value)
    assert not mirror.requests


def test_the_type_is_asked_for_alone(mirror):
    url = mirror.serve(whole(content_type="image/png; charset=x"))
    assert read_content_type(url, timeout=5.0) == "image/png"
    with pytest.raises(DownloadError):
        read_content_type(mirror.serve(status(500)), timeout=5.0)
