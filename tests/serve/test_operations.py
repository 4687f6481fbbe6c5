"""What an operator relies on: limits, queue, deadlines, signals, metrics, logs, keys."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from click import BadParameter

from ssd34.errors import OptionError
from ssd34.serve import connection
from ssd34.serve.connection import listen, serve
from ssd34.serve.options import ServeOptions
from tests.conftest import EXAMPLES, ROOT
from tests.support.cli import invoke, wait_for
from tests.support.refusals import refused
from tests.support.server import CHELSEA, serving

KEY = "s3cret"
GUIDE = ROOT / "docs" / "serving.md"


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """The embedded network, one picture at a time, and three that may wait."""
    options = ("--instances", 1, "--threads", 1, "--queue", 3, "--max-pictures", 3)
    with serving(tmp_path_factory.mktemp("slow"), "default", *options) as one:
        yield one


def test_a_full_queue_answers_at_once(slow):
    with ThreadPoolExecutor(24) as pool:
        answers = [*pool.map(lambda _: slow.detect(CHELSEA), range(24))]
    by_status = {a.status: [b for b in answers if b.status == a.status] for a in answers}
    assert set(by_status) == {200, 503}
    assert len(by_status[200]) >= 4 and len(by_status[503]) >= 4
    for answer in by_status[503]:
        assert answer.error and int(answer.headers["retry-after"]) >= 1
    quickest = min(
        line["ms"] for line in slow.logged() if line["path"] == "/detect" and line["status"] == 503
    )
    infer = next(line["timing_ms"]["infer"] for line in slow.logged() if "timing_ms" in line)
    assert quickest < infer
    assert slow.detect(CHELSEA).status == 200


def test_who_has_left_costs_no_inference(slow):
    done = slow.metric("ssd34_pictures_total", outcome="done")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(slow.detect, CHELSEA)
        wait_for(lambda: slow.metric("ssd34_stage_seconds_count", stage="read") > done)
        for _ in range(3):
            with closing(slow.connect()) as one:
                head = f"POST /detect HTTP/1.1\r\nHost: x\r\nContent-Length: {len(CHELSEA)}\r\n"
                one.sendall(head.encode() + b"Content-Type: image/jpeg\r\n\r\n" + CHELSEA)
        assert first.result().status == 200
    wait_for(lambda: slow.metric("ssd34_queue_pictures") == 0)
    wait_for(lambda: slow.metric("ssd34_requests_total", status="499") >= 3)
    # One of them may have had its turn before it was seen to leave.
    assert slow.metric("ssd34_pictures_total", outcome="done") <= done + 2
    assert slow.metric("ssd34_pictures_total", outcome="dropped") >= 2


def test_the_deadline(tmp_path):
    options = ("--instances", 1, "--threads", 1, "--timeout", 0.01)
    with serving(tmp_path, "default", *options) as one:
        answer = one.detect(CHELSEA)
        assert answer.status == 504 and answer.error
        assert one.get("/v2/health/ready").status == 200
        wait_for(lambda: one.metric("ssd34_queue_pictures") == 0)


def test_nothing_accepted_is_lost_at_sigterm(tiny_model, tmp_path):
    """Eight clients without a pause. Who was answered knows it; who was not accepted is refused."""
    options = ("--instances", 2, "--shutdown-delay", 0.3)
    with serving(tmp_path, tiny_model, *options) as one:
        answered: set[str] = set()
        sent_early: set[str] = set()
        signalled, stop = threading.Event(), threading.Event()

        def client(number):
            turn = 0
            while not stop.is_set():
                name = f"{number}-{turn}"
                turn += 1
                if not signalled.is_set():
                    sent_early.add(name)
                try:
                    answer = one.detect(CHELSEA, headers={"X-Request-ID": name})
                except OSError:  # refused, or its connection was never taken
                    continue
                assert answer.status == 200 and answer.json["pictures"]
                answered.add(name)

        with ThreadPoolExecutor(8) as pool:
            clients = [pool.submit(client, number) for number in range(8)]
            wait_for(lambda: len(answered) > 10)
            signalled.set()
            time.sleep(0.1)  # who has just looked sends before the signal
            one.process.send_signal(signal.SIGTERM)
            wait_for(lambda: one.logged("ending: what was accepted is answered first"))
            ready = one.get("/v2/health/ready")
            assert ready.status == 503 and ready.json == {"ready": False}
            assert ready.headers["connection"] == "close"
            assert one.process.wait(60) == 0
            stop.set()
            for each in clients:
                each.result()
        logged = [line for line in one.logged() if line["path"] == "/detect"]
        assert {line["status"] for line in logged} == {200}
        assert {line["id"] for line in logged} == answered
        assert sent_early <= answered
        assert one.logged("ended")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_an_idle_connection_does_not_delay_the_end(tiny_model, tmp_path, number):
    with serving(tmp_path, tiny_model, "--instances", 1) as one, closing(one.connect()) as idle:
        idle.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        while b"}" not in idle.recv(1 << 16):
            pass
        started = time.monotonic()
        one.process.send_signal(number)
        assert one.process.wait(60) == 0
        assert time.monotonic() - started < 10  # kept alive for 15
        assert idle.recv(1) == b""


def test_what_nohup_started_goes_on_when_its_terminal_closes(tiny_model, tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # processes inherit it
    try:
        with serving(tmp_path, tiny_model, "--instances", 1) as one:
            one.process.send_signal(signal.SIGHUP)
            assert [one.get("/v2/health/ready").status for _ in range(3)] == [200] * 3
            assert one.stop() == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_interrupted_while_it_loads_it_ends_in_order(monkeypatch):
    def interrupt(*_, **__):
        signal.raise_signal(signal.SIGINT)

    said: list[str] = []
    monkeypatch.setattr(connection, "load_fastest", interrupt)
    try:
        serve(ServeOptions(model="default", port=0), say=said.append)
    except KeyboardInterrupt:  # which would end all tests
        pytest.fail("it was interrupted, and did not end")
    assert said == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_ends_it_at_once(tiny_model, tmp_path, number):
    """But for a closed terminal's, which may come twice."""
    with serving(tmp_path, tiny_model, "--instances", 1, "--shutdown-delay", 600) as one:
        assert one.get("/v2/health/ready").status == 200
        one.process.send_signal(number)
        wait_for(lambda: one.logged("ending: what was accepted is answered first"))
        if number == signal.SIGHUP:
            one.process.send_signal(number)
            time.sleep(0.5)  # it looks ten times a second whether to end
            assert one.get("/v2/health/live").status == 200
        assert one.stop() == 0


def test_reload(tiny_model, tiny_raw_model, tmp_path):
    """On SIGHUP and when asked; a broken file leaves the old model in place."""
    model = tmp_path / "model.onnx"
    model.write_bytes(tiny_model.read_bytes())
    with serving(tmp_path / "run", model, "--instances", 1, "--allow-reload") as one:
        path = "/v2/repository/models/model/load"
        names = [o["name"] for o in one.get("/v2/models/model").json["outputs"]]
        assert names == ["bboxes", "labels", "scores"]
        model.write_bytes(tiny_raw_model.read_bytes())
        one.process.send_signal(signal.SIGHUP)
        wait_for(lambda: one.logged("loaded the model again"))
        assert [o["name"] for o in one.get("/v2/models/model").json["outputs"]] == ["loc", "conf"]
        assert one.detect(CHELSEA, "?policy=mlperf").status == 200
        model.write_bytes(b"broken")
        answer = one.ask("POST", path)
        assert answer.status == 400 and answer.error
        one.process.send_signal(signal.SIGHUP)
        wait_for(
            lambda: len([x for x in one.log.read_text().splitlines() if "not loaded" in x]) > 1
        )
        assert one.detect(CHELSEA).status == 200
        assert one.ask("POST", path, b'{"parameters": {"config": "x"}}').status == 400
        assert one.ask("POST", "/v2/repository/models/other/load").status == 404
        model.write_bytes(tiny_model.read_bytes())
        assert one.ask("POST", path, b"{}").json == {}
        assert one.detect(CHELSEA, "?policy=mlperf").status == 400


def test_key_and_cross_origin(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("SSD34_API_KEY", f"{KEY}\n")  # as a secret from a file
    origin = "https://example.org"
    options = ("--instances", 1, "--cors-origin", origin)
    with serving(tmp_path, tiny_model, *options) as one:
        for path in ("/", "/v2/health/live", "/v2/health/ready", "/openapi.json"):
            assert one.get(path).status == 200
        for path in ("/metrics", "/v2", "/v2/models/tiny", "/nowhere"):
            answer = one.get(path)
            assert answer.status == 401 and answer.error
            assert answer.headers["www-authenticate"] == "Bearer"
        for headers, status in (
            ({}, 401), ({"Authorization": "Bearer no"}, 401), ({"X-API-Key": KEY + "x"}, 401),
            ({"Authorization": f"Basic {KEY}"}, 401), ({"X-API-Key": "\xe9"}, 401),
            ({"Authorization": f"Bearer {KEY}"}, 200), ({"X-API-Key": KEY}, 200),
        ):  # fmt: skip
            assert one.detect(CHELSEA, headers=headers).status == status, headers
        preflight = {
            "Origin": origin, "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization",
        }  # fmt: skip
        allowed = one.ask("OPTIONS", "/detect", headers=preflight)
        assert allowed.headers["access-control-allow-origin"] == origin
        other = one.ask("OPTIONS", "/detect", headers={**preflight, "Origin": "https://x.org"})
        assert "access-control-allow-origin" not in other.headers
        assert KEY not in one.log.read_text()


def test_no_cross_origin_by_default(tail_server):
    answer = tail_server.detect(CHELSEA, headers={"Origin": "https://example.org"})
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert tail_server.ask("OPTIONS", "/detect").status == 405


def test_metrics(server):

    def count():
        return server.metric("ssd34_requests_total", endpoint="detect", status="200")

    before = count()
    infer = server.metric("ssd34_stage_seconds_sum", stage="infer")
    answer = server.detect(CHELSEA)
    wait_for(lambda: count() == before + 1)
    spent = server.metric("ssd34_stage_seconds_sum", stage="infer") - infer
    assert abs(1000 * spent - answer.json["timing"]["infer"]) < 0.01
    assert server.metric("ssd34_request_seconds_count", endpoint="detect") > before
    for stage in ("read", "wait", "prepare", "infer", "finish"):
        assert server.metric("ssd34_stage_seconds_count", stage=stage) > 0
    assert server.metric("ssd34_model_info", name="tiny-raw", engine="onnxruntime") == 1
    assert server.metric("ssd34_instances") == 2
    assert server.metric("ssd34_queue_pictures") == server.metric("ssd34_buffer_bytes") == 0
    assert server.metric("process_resident_memory_bytes") > 0
    # An address that nobody has does not make a series of its own.
    server.get("/a-path")
    assert "a-path" not in server.get("/metrics").body.decode()
    assert server.metric("ssd34_requests_total", endpoint="none", status="404") > 0


def test_auto_says_what_it_measured(tiny_model, tmp_path):
    with serving(tmp_path, tiny_model, "--threads", 2) as one:
        found = re.search(r"1 x 2 threads ([\d.]+)/s, 2 x 1 thread ([\d.]+)/s", one.said)
        assert found and min(map(float, found.groups())) > 0
        instances = int(one.said.split("ssd34 serve: ")[1][0])
        assert instances == one.metric("ssd34_instances")
        assert instances == 1 + (float(found[2]) >= 1.05 * float(found[1]))


@pytest.mark.parametrize(
    ("options", "facts"),
    [({"queue": 3}, ("16", "3", "--queue")), ({"max_buffer": 1 << 20}, ("32", "--max-buffer")),
     ({"api_key": " "}, ("key",)), ({"api_key": "\xe9"}, ("key",)), ({"api_key": "a\nb"}, ("key",)),
     *(({"cors_origins": (wrong,)}, (wrong,))
       for wrong in ("https://a.org/", "a.org", "https://A.org", "https://a.org,https://b.org"))],
)  # fmt: skip
def test_options_that_contradict_each_other(options, facts):
    with refused(OptionError, *facts):
        ServeOptions(**options)


def test_wrong_words_open_nothing(monkeypatch):
    """Above all variables that are empty: neither to everybody nor on every address."""
    for name, value in (("host", ""), ("instances", "0")):
        with pytest.raises(BadParameter) as caught:
            invoke("serve", f"--{name}", value)
        assert caught.value.param and caught.value.param.name == name
    monkeypatch.setenv("SSD34_API_KEY", "")
    with refused(OptionError, "SSD34_API_KEY"):
        invoke("serve", "--port", 0)


LINES = [
    line
    for block in re.findall(r"^```bash\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_lines_of_the_guide(slow, tmp_path):
    """What is shown with curl works as it stands, but for the port."""
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    assert len(LINES) > 5
    for line in LINES:
        command = line.replace(":8000/", f":{slow.port}/")
        assert command != line
        result = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True)
        assert result.returncode == 0, (line, result.stderr)
        assert result.stdout or "-o found.jpg" in line
    assert (tmp_path / "found.jpg").stat().st_size > 1000


def test_a_machine_without_ipv6_is_an_address_that_cannot_be_used(monkeypatch):
    def refuse(*_):
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))

    monkeypatch.setattr(socket, "socket", refuse)
    with refused(OptionError, "::1", "--host"):
        listen("::1", 8000)


def test_answers_do_not_wait_for_acknowledgements():
    """asyncio switches Nagle's algorithm off where a connection names its protocol."""
    with closing(listen("127.0.0.1", 0)) as bound:
        bound.listen()
        port = bound.getsockname()[1]
        with refused(OptionError, "127.0.0.1", port):
            listen("127.0.0.1", port)
        with closing(socket.create_connection(bound.getsockname())):
            accepted, _ = bound.accept()
            with closing(accepted):
                assert accepted.proto == socket.IPPROTO_TCP
