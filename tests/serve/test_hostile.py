"""Hostile input: an error in JSON, bounded memory, and the next request is answered."""

from __future__ import annotations

import base64
import json
import random
import runpy
import socket
import struct
import threading
import time
import zlib
from contextlib import closing, suppress

import pytest

from tests.conftest import ROOT
from tests.support.mirror import whole
from tests.support.pictures import png, png_chunk
from tests.support.server import CHELSEA, serving

MIB = 1 << 20


@pytest.fixture(autouse=True)
def still_good(request):
    """After each test the server answers a good request, and has lost no memory to the bad one."""
    yield
    for name in {"server", "strict"} & set(request.fixturenames):
        one = request.getfixturevalue(name)
        assert one.detect(CHELSEA).json["pictures"][0]["detections"]
        assert one.metric("ssd34_buffer_bytes") == 0
        assert not [line for line in one.logged("a request failed") if "id" in line]


@pytest.fixture(scope="module")
def strict(tiny_model, tmp_path_factory):
    """Short times, small limits, two instances."""
    options = (
        "--instances", 2, "--header-timeout", 0.5, "--read-timeout", 0.5, "--max-body", 2,
        "--max-buffer", 4, "--max-connections", 40, "--max-pixels", 2_000_000,
    )  # fmt: skip
    with serving(tmp_path_factory.mktemp("strict"), tiny_model, *options) as one:
        yield one


def answer_to(server, *pieces, pause=0.0, then=b""):
    """Status and body of what comes back for raw bytes, read until the server closes."""
    with closing(server.connect()) as one:
        for piece in pieces:
            one.sendall(piece)
            time.sleep(pause)
        one.sendall(then)
        received = b""
        with suppress(ConnectionResetError):
            while data := one.recv(1 << 16):
                received += data
    head, _, body = received.partition(b"\r\n\r\n")
    assert head, "closed without an answer"
    return int(head.split()[1]), json.loads(body)


def head(*lines, method="POST", path="/detect"):
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *lines, "", ""]).encode()


def test_oversized_bodies(strict):
    for size in (2 * MIB + 1, 64 * MIB):
        answer = strict.detect(bytes(size))
        assert answer.status == 413 and str(2 * MIB) in answer.error
    chunk = b"100000\r\n" + bytes(MIB) + b"\r\n"
    lines = ("Transfer-Encoding: chunked", "Content-Type: image/jpeg", "Connection: close")
    status, _ = answer_to(strict, head(*lines), chunk, chunk, chunk, b"0\r\n\r\n")
    assert status == 413
    status, _ = answer_to(strict, head(f"Content-Length: {10**18}", "Content-Type: image/jpeg"))
    assert status == 413
    assert strict.memory() < 400 * MIB


def test_addresses_are_not_fetched(server, mirror):
    """A client could have the server look into its own network."""
    url = mirror.serve(whole(CHELSEA, content_type="image/jpeg"))
    encoded = base64.b64encode(url.encode()).decode()
    for body, kind, code in (
        (url.encode(), "image/jpeg", 422),
        (json.dumps({"image": url}).encode(), "application/json", 400),
        (json.dumps({"image": encoded}).encode(), "application/json", 422),
        (f"url={url}".encode(), "application/x-www-form-urlencoded", 415),
    ):
        assert server.detect(body, kind=kind).status == code
    assert server.detect(CHELSEA, f"?url={url}").status == 400
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES"}
    for value in (url, encoded):
        assert server.infer({"inputs": [{**tensor, "data": [value]}]}).status in (400, 422)
    form = (
        f'--x\r\nContent-Disposition: form-data; name="file"; filename="{url}"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    ).encode() + CHELSEA + b"\r\n--x--\r\n"  # fmt: skip
    answer = server.detect(form, kind="multipart/form-data; boundary=x")
    assert answer.status == 200 and answer.json["pictures"][0]["detections"]
    assert not mirror.requests


def test_many_large_bodies_at_once(strict):
    """Bodies that are still coming hold at most the buffer; more are told to come back."""
    lines = (f"Content-Length: {2 * MIB}", "Content-Type: image/jpeg", "Connection: close")
    statuses = []

    def send():
        statuses.append(answer_to(strict, head(*lines), bytes(2 * MIB - 1))[0])

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(statuses) == {408, 503} and statuses.count(503) >= 5


def test_slow_writers(strict):
    started = time.monotonic()
    answers = [
        answer_to(strict, b"POST /det"),
        answer_to(strict, *(b"X: y\r\n"[k : k + 1] for k in range(6)), pause=0.02),
        answer_to(strict, head("Content-Length: 100", "Content-Type: image/jpeg"), b"abc"),
        answer_to(strict, head("Content-Length: 9"), *[b"a"] * 5, pause=0.05),
    ]
    assert [status for status, _ in answers] == [408] * 4
    assert all(set(told) == {"error"} for _, told in answers)
    assert time.monotonic() - started < 20


def test_a_connection_without_a_request_is_closed_without_an_answer(strict):
    with closing(strict.connect()) as one:
        assert one.recv(1) == b""


def test_a_second_request_that_never_ends(strict):
    with closing(strict.connect()) as one:
        one.sendall(head(method="GET", path="/v2/health/live") + b"GET /")
        received = b""
        while data := one.recv(1 << 16):
            received += data
    assert received.count(b"HTTP/1.1 200") == 1 and received.count(b"HTTP/1.1 408") == 1


def test_who_does_not_take_the_answer_is_cut_off(strict):
    """Answers of some MiB, asked for over and over, never read."""
    with closing(socket.socket()) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.settimeout(30)
        one.connect(("127.0.0.1", strict.port))
        request = head(method="GET", path="/openapi.json") * 2000
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            for _ in range(1000):
                one.sendall(request)
                time.sleep(0.01)


def test_too_many_connections(strict):
    open_ones = [strict.connect() for _ in range(60)]
    try:
        refusals = 0
        for one in open_ones:
            one.settimeout(0.05)
            with suppress(TimeoutError, ConnectionResetError):
                refusals += b" 503 " in one.recv(1 << 16)
        assert refusals >= 15
    finally:
        for one in open_ones:
            one.close()
    time.sleep(0.2)


@pytest.mark.parametrize(
    "sent",
    [b"GARBAGE\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20 + b"\r\n\r\n",
     head("X: " + "y" * 70_000), head(*(f"X-{k}: {'y' * 100}" for k in range(500))),
     head("Content-Length: -1"), head("Content-Length: 5", "Content-Length: 6"),
     head("Content-Length: 5", "Transfer-Encoding: chunked") + b"zz\r\n",
     head("Transfer-Encoding: chunked") + b"zz\r\n\r\n", head("Bad Header: x")],
    ids=range(9),
)  # fmt: skip
def test_what_is_no_http(strict, sent):
    status, told = answer_to(strict, sent)
    assert 400 <= status < 500 and set(told) == {"error"}


@pytest.mark.parametrize(
    "path",
    ["/../../etc/passwd", "/examples/../page.html", "/examples/..%2f..%2fpage.jpg",
     "/examples/%2e%2e%2fpage.jpg", "/examples/coffee.jpg%00", "/v2/models/..%2f..%2fetc/infer",
     "//etc/passwd", "/detect/", "/v2/models/tiny-raw/versions/../infer", "/%ff%fe"],
)  # fmt: skip
def test_path_tricks(server, path):
    for method in ("GET", "POST"):
        answer = server.ask(method, path)
        assert answer.status in (404, 405) and answer.error


def bomb(width, height, *, lines):
    """A PNG of one colour: some KB that claim to be as many pixels."""
    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1 + 3 * width) * lines, 9)
    chunks = (b"IHDR", size), (b"IDAT", pixels), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def test_decompression_bombs(server):
    before = server.memory()
    for sent in (
        bomb(20_000, 20_000, lines=100),
        bomb(2**31 - 1, 2**31 - 1, lines=0),
        bomb(1_500, 1_400, lines=1_400),
    ):
        answer = server.detect(sent)
        assert answer.status == 422 and "pixels" in answer.error
    text = zlib.compress(bytes(100 * MIB), 9)
    iccp = b"iCCP" + b"x\0\0" + text
    broken = png()[:33] + struct.pack(">I", len(iccp) - 4) + iccp + bytes(4) + png()[33:]
    assert server.detect(broken).status in (200, 422)
    assert server.memory() - before < 150 * MIB


def polyglots():
    """Files that are two things at once, and files cut short."""
    page = b"<script>alert(1)</script>"
    yield CHELSEA[:-2000]
    yield CHELSEA[:100]
    yield b"GIF89a" + page
    yield page + CHELSEA
    yield b"%PDF-1.7\n" + CHELSEA
    yield b"PK\x03\x04" + CHELSEA
    yield b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
    yield b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>"
    yield png()[:60]
    yield b"BM" + bytes(100)
    yield b"P6 1000000000 1000000000 255\n"


def test_truncated_and_polyglot_files(server):
    for sent in polyglots():
        answer = server.detect(sent)
        assert answer.status == 422 and answer.error, sent[:20]
    both = CHELSEA + b"PK\x03\x04" + bytes(1000)  # a picture, whatever follows
    assert server.detect(both).status == 200


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [("text/html", CHELSEA, 415), ("application/x-www-form-urlencoded", CHELSEA, 415),
     ("multipart/mixed; boundary=x", CHELSEA, 415), ("\xff", CHELSEA, 415),
     ("multipart/form-data", CHELSEA, 400), ("multipart/form-data; boundary=", CHELSEA, 400),
     ("multipart/form-data; boundary=x", CHELSEA, 400),
     ("multipart/form-data; boundary=x; charset=no-such", b"--x--\r\n", 400),
     ("multipart/form-data; boundary=x", b"--x\r\n" * 100_000, 400),
     ("multipart/form-data; boundary=x", b"\r\n-" * 700_000, 400),
     ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data; "
      b'name="a"\r\n\r\nhello\r\n--x--\r\n', 400),
     ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="a"; '
      b'filename="a.jpg"\r\n\r\n\r\n' * 17 + b"--x--\r\n", 400),
     ("image/jpeg", b"", 400), ("application/json", b"", 400), ("application/json", b"[]", 400),
     ("application/json", b"[" * 5_000_000, 400), ("application/json", b'{"image": "%%"}', 400),
     ("application/json", b'{"image": "", "images": []}', 400),
     ("application/json", b'{"path": "/etc/passwd"}', 400),
     ("application/json", json.dumps({"images": [""] * 17}).encode(), 413),
     ("application/json", b'{"a":' * 100_000, 400)],
    ids=range(21),
)  # fmt: skip
def test_wrong_kinds_of_bodies(server, kind, body, status):
    answer = server.ask("POST", "/detect", body, kind=kind)
    assert answer.status == status and answer.error


def test_compressed_bodies_are_not_unpacked(server):
    packed = zlib.compress(bytes(50 * MIB), 9)
    answer = server.detect(packed, headers={"Content-Encoding": "deflate"})
    assert answer.status == 415 and answer.error


def test_mutated_pictures(server, mutations=300):
    """The script sends many more."""
    script = runpy.run_path(str(ROOT / "benchmarks" / "serve_soak.py"))
    generator, originals = random.Random(34), script["small_pictures"](CHELSEA)
    failed = server.metric("ssd34_pictures_total", outcome="failed")
    statuses = set()
    for _ in range(mutations):
        sent = script["mutate"](generator, originals)
        status = server.detect(sent).status
        assert status in (200, 422), sent
        statuses.add(status)
    assert statuses == {200, 422}
    assert server.metric("ssd34_pictures_total", outcome="failed") == failed
