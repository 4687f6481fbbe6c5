from __future__ import annotations

import hashlib
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from ssd34.errors import DownloadError
from ssd34.files.cache import PublishedFile
from ssd34.files.web import download, read_content_type, read_url
from tests.conftest import ROOT
from tests.support.mirror import (
    CONTENT,
    PAGE,
    POINTER,
    SHA256,
    SIZE,
    garbage,
    ranged,
    redirect,
    shifted,
    silence,
    status,
    whole,
)

HALF = SIZE // 2
REST = f"bytes={HALF}-"
WRONG = bytes(SIZE)

# The package's own __init__ is left out: it loads ONNX Runtime, which takes a second.
PULL = f"""
import sys, types
from pathlib import Path
package = sys.modules["ssd34"] = types.ModuleType("ssd34")
package.__path__ = [{str(ROOT / "src" / "ssd34")!r}]
from ssd34.files.web import download
from ssd34.files.cache import PublishedFile
download(
    PublishedFile("file.onnx", {SIZE}, {SHA256!r}, tuple(sys.argv[1:2])), Path(sys.argv[2]),
    pause=0, progress=lambda have: print(have, flush=True),
)
"""


@pytest.fixture
def target(tmp_path):
    return tmp_path / "models" / "file.onnx"


@pytest.fixture
def part(target):
    return target.with_name("file.onnx.part")


def fetch(target, *urls, **options):
    defaults: dict[str, Any] = {"timeout": 5.0, "pause": 0.0}
    download(PublishedFile(target.name, SIZE, SHA256, urls), target, **defaults | options)


def pulling(url, target):
    """The same in a process of its own, which prints its progress."""
    command = [sys.executable, "-c", PULL, url, target]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


class Pause:
    """An answer of half of the file, which ends when it is told to; then the rest."""

    def __init__(self, mirror):
        self.sent, self.over = threading.Event(), threading.Event()
        self.url = mirror.serve(ranged(stop_after=HALF, then=self.wait), ranged())

    def wait(self):
        self.sent.set()
        self.over.wait(10)


def failure(target, *urls, **options):
    """The message of a download that fails; nothing may count as cached afterwards."""
    with pytest.raises(DownloadError) as caught:
        fetch(target, *urls, **options)
    assert not target.exists()
    message = str(caught.value)
    assert "\n" not in message
    return message


def begin(part, content):
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(content)


def assert_fetched(target):
    assert target.read_bytes() == CONTENT
    assert sorted(p.name for p in target.parent.iterdir()) == ["file.onnx"]


@pytest.mark.parametrize("answer", [whole(), whole(length=None), ranged()])
def test_fetches_a_file(mirror, target, tmp_path, answer):
    fetch(target, mirror.serve(answer))
    assert_fetched(target)
    assert mirror.ranges() == [None]
    (tmp_path / "other").touch()
    assert target.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_follows_redirects_reports_progress_and_says_who_asks(mirror, second, target):
    agents: list[str] = []
    seen: list[int] = []

    def answer(handler):
        agents.append(handler.headers["User-Agent"])
        whole()(handler)

    url = mirror.serve(redirect(second.serve(answer, name="elsewhere")))
    fetch(target, url, progress=seen.append)
    assert_fetched(target)
    assert agents[0].startswith("ssd34/")
    assert seen == sorted(seen) and seen[-1] == SIZE and len(seen) > 2


@pytest.mark.parametrize("name", ["file.onnx", "file.onnx.part"])
def test_a_file_that_is_there_is_not_fetched(mirror, target, name):
    begin(target.with_name(name), CONTENT)
    fetch(target, mirror.serve(whole()))
    assert_fetched(target)
    assert mirror.requests == []


@pytest.mark.parametrize("content", [WRONG, CONTENT[:-1], POINTER], ids=range(3))
def test_a_wrong_file_that_is_there_is_replaced(mirror, target, content):
    begin(target, content)
    fetch(target, mirror.serve(whole()))
    assert_fetched(target)


def test_starts_over_where_the_server_ignores_ranges_or_sends_another(mirror, target, part):
    begin(part, WRONG[:HALF])
    seen: list[int] = []
    fetch(target, mirror.serve(whole()), progress=seen.append)
    assert_fetched(target)
    assert mirror.ranges() == [REST] and seen[0] < HALF
    target.unlink()
    part.write_bytes(CONTENT[:HALF])
    fetch(target, mirror.serve(shifted(), whole()))
    assert_fetched(target)
    assert mirror.ranges() == [REST, REST, None]


@pytest.mark.parametrize("beginning", [WRONG[:HALF], WRONG, WRONG + b"more"])
def test_a_wrong_beginning_is_thrown_away(mirror, target, part, beginning):
    """It may be from another mirror: this one must not be blamed for it."""
    begin(part, beginning)
    fetch(target, mirror.serve(ranged()))
    assert_fetched(target)
    assert mirror.ranges()[-1] is None


def test_the_second_mirror_goes_on_where_the_first_broke_off(mirror, second, target):
    first = mirror.serve(ranged(stop_after=HALF), status(503))
    fetch(target, first, second.serve(ranged()))
    assert_fetched(target)
    assert second.ranges() == [REST]
    target.unlink()
    fetch(target, mirror.serve(ranged(WRONG)), second.serve(ranged()))
    assert_fetched(target)


def test_a_server_that_breaks_off_again_and_again(mirror, target, part):
    message = failure(target, mirror.serve(ranged(stop_after=1000)), attempts=3)
    assert mirror.host in message and f"3000 of {SIZE}" in message
    assert mirror.ranges() == [None, "bytes=1000-", "bytes=2000-"]
    assert part.read_bytes() == CONTENT[:3000]
    fetch(target, mirror.serve(ranged()))
    assert mirror.ranges()[-1] == "bytes=3000-"
    assert_fetched(target)


def test_a_pull_that_was_killed_goes_on(mirror, target):
    pause = Pause(mirror)
    process = pulling(pause.url, target)
    assert pause.sent.wait(10)
    assert str(HALF) in (line.strip() for line in process.stdout)
    process.kill()
    process.communicate()
    pause.over.set()
    seen: list[int] = []
    fetch(target, pause.url, progress=seen.append)
    assert_fetched(target)
    assert mirror.ranges() == [None, REST] and seen[0] == HALF and seen[-1] == SIZE


@pytest.mark.parametrize(
    ("answer", "fact"),
    [(whole(length=SIZE + 1000), SIZE + 1000), (whole(length=SIZE - 1000), SIZE - 1000),
     (whole(WRONG), "SHA-256"), (whole(POINTER), "Git LFS pointer"),
     *((whole(page, content_type="text/html"), "web page") for page in (
         PAGE, b"\xef\xbb\xbf<html lang=en>", PAGE * 200)),
     *((status(code), code) for code in (404, 416, 503)),
     *((redirect(place), place)
       for place in ("file:///etc/passwd", "ftp://127.0.0.1/file", "data:,x")),
     *((garbage(line), "") for line in (
         b"nonsense\r\n\r\n", b"HTTP/1.0 404 Not\x1b[31m\x07Found\r\n\r\n", b"\0" * 99_999))],
    ids=range(16),
)  # fmt: skip
def test_a_server_that_sends_something_else(mirror, target, part, answer, fact):
    """It is not asked again, and what it says is told in one printable line."""
    message = failure(target, mirror.serve(answer))
    assert mirror.host in message and str(fact) in message
    assert message.isprintable() and len(message) < 600
    assert len(mirror.requests) == 1 and not part.exists()


def test_no_more_than_the_published_size_is_read(mirror, target):
    """A server that announces nothing and never ends."""
    sent = 0
    hung_up = threading.Event()

    def endless(handler):
        nonlocal sent
        whole(length=None)(handler)
        try:
            while True:
                sent += handler.wfile.write(bytes(1 << 16))
        except OSError:
            hung_up.set()

    fetch(target, mirror.serve(endless))
    assert_fetched(target)
    assert hung_up.wait(5) and sent < 50_000_000


@pytest.mark.parametrize("content", [POINTER, PAGE])
def test_a_pointer_or_page_leaves_what_has_come(mirror, second, target, part, content):
    begin(part, CONTENT[:HALF])
    failure(target, mirror.serve(ranged(content)), second.serve(whole(content)))
    assert mirror.ranges() == [REST, None] and second.ranges() == [REST]
    assert part.read_bytes() == CONTENT[:HALF]


def test_other_schemes_and_redirects_in_circles_are_refused(mirror, target, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(CONTENT)
    for url in (secret.as_uri(), "ftp://127.0.0.1/x", str(secret), ""):
        assert "https" in failure(target, url)
    assert secret.as_uri() in failure(target, mirror.serve(redirect(secret.as_uri())))
    assert "302" in failure(target, mirror.serve(redirect("/file")))


def test_a_server_that_is_not_there_never_answers_or_falls_silent(mirror, target, part):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{free.getsockname()[1]}"
    assert host in failure(target, f"http://{host}/x")
    assert mirror.host in failure(target, mirror.serve(garbage(b"")), attempts=3)
    assert len(mirror.requests) == 3
    done = threading.Event()
    hanging = ranged(stop_after=HALF, then=lambda: done.wait(10))
    for answer, facts in ((silence(done), ("0.2 s",)), (hanging, ("0.2 s", f"{HALF} of {SIZE}"))):
        message = failure(target, mirror.serve(answer), timeout=0.2, attempts=1)
        assert all(fact in message for fact in (mirror.host, *facts))
    done.set()
    assert part.stat().st_size == HALF


def test_the_error_says_what_each_answered_and_what_to_do(mirror, second, target):
    message = failure(target, mirror.serve(status(404)), second.serve(whole(POINTER)))
    parts = ("file.onnx", mirror.host, "404", second.host, "LFS", str(target), str(SIZE), SHA256)
    places = [message.index(part) for part in parts]
    assert places == sorted(places)


def test_a_wrong_file_that_was_put_there_is_named(mirror, target):
    """Who put it there reads what is wrong with it before anything else."""
    begin(target, WRONG)
    with pytest.raises(DownloadError) as caught:
        fetch(target, mirror.serve(status(404)))
    parts = (hashlib.sha256(WRONG).hexdigest(), SHA256, "file.onnx", str(target))
    places = [str(caught.value).index(part) for part in parts]
    assert places == sorted(places)


def test_two_processes_fetch_a_file_once(mirror, target):
    pause = Pause(mirror)
    first = pulling(pause.url, target)
    assert pause.sent.wait(10)
    second = pulling(pause.url, target)
    # It reports progress before the first can go on: so it waits.
    assert int(second.stdout.readline()) <= HALF
    pause.over.set()
    assert [process.communicate(timeout=20)[1] for process in (first, second)] == ["", ""]
    assert first.returncode == second.returncode == 0
    assert_fetched(target)
    assert mirror.ranges() == [None, REST]


def test_a_folder_that_cannot_be_written(mirror, tmp_path):
    (tmp_path / "models").write_text("a file")
    with pytest.raises(OSError) as caught:
        fetch(tmp_path / "models" / "file.onnx", mirror.serve(whole()))
    assert caught.value.filename and mirror.requests == []


def read(url, **options):
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
    assert read(mirror.serve(whole())) == CONTENT
    assert read(mirror.serve(whole(length=None))) == CONTENT
    assert read(mirror.serve(chunked(CONTENT[:5], CONTENT[5:]))) == CONTENT
    mirror.serve(whole(), name="K%C3%A4se%20%26.jpg?a=%20b")
    assert read(mirror.url("Käse %26.jpg?a=%20b#part")) == CONTENT
    assert read(mirror.serve(redirect(mirror.url()), name="moved")) == CONTENT
    mirror.serve(whole(), name="%FF.jpg")
    assert read(mirror.url("\udcff.jpg")) == CONTENT  # a byte of a command line that is no UTF-8


def test_a_broken_off_answer_is_asked_for_again(mirror):
    assert read(mirror.serve(ranged(stop_after=99), chunked(b"ab", end=b"5\r\nc"), whole())) == (
        CONTENT
    )
    with pytest.raises(DownloadError, match=r"99 of 300000"):
        read(mirror.serve(ranged(stop_after=99)), attempts=2)
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
            read(mirror.serve(answer), timeout=0.2)
        assert mirror.url() in str(caught.value) and "\n" not in str(caught.value)
    silent.set()
    with pytest.raises(DownloadError, match="too long"):
        read(mirror.serve(chunked(*[b"a"] * 50, pause=0.05)), longest=0.3)


def test_addresses_that_are_none(mirror):
    for url in ("file:///etc/passwd", "ftp://host/a", "http://", "http:///a.jpg", "http://[1/a"):
        with pytest.raises(DownloadError):
            read(url)
    for ask in (read, lambda url: read_content_type(url, timeout=1)):
        with pytest.raises(DownloadError, match=r"user name") as caught:
            ask(f"http://me:se@cret@{mirror.host}/a.jpg")
        assert "cret" not in str(caught.value) and mirror.host in str(caught.value)
    assert not mirror.requests


def test_the_type_is_asked_for_alone(mirror):
    url = mirror.serve(whole(content_type="image/png; charset=x"))
    assert read_content_type(url, timeout=5.0) == "image/png"
    with pytest.raises(DownloadError):
        read_content_type(mirror.serve(status(500)), timeout=5.0)
