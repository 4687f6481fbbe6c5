"""The server's application on Ray Serve: two replicas, one of which is killed under load."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ssd34.errors import ModelError, OptionError
from ssd34.runtime.detector import Detector
from tests.conftest import EXAMPLES, ROOT
from tests.support.cli import wait_for
from tests.support.server import Server

ray_serve = pytest.importorskip("ssd34.cluster.ray_serve")
yaml = pytest.importorskip("yaml")
for module in ("ray", "grpc_reflection", "fastapi", "watchfiles", "starlette"):
    pytest.importorskip(module)

CLIENTS = 8
START = 180.0
"""Seconds that a cluster may take to start, and a replica."""
PICTURES = sorted(EXAMPLES.glob("*.jpg"))


@pytest.fixture
def served(tiny_model, tmp_path):
    """``serve run`` of the configuration in deploy/, with another model, port and size."""
    config = yaml.safe_load((ROOT / "deploy" / "ray-serve.yaml").read_text())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config["http_options"] = {"host": "127.0.0.1", "port": port}
    [application] = config["applications"]
    application["name"] = f"test-{port}"
    # Room for fewer pictures than there are clients.
    application["args"] |= {"model": str(tiny_model), "min_replicas": 2, "max_replicas": 2,
                            "queue": 1, "max_pictures": 1, "read_timeout": 90}  # fmt: skip
    file = tmp_path / "serve.yaml"
    file.write_text(yaml.safe_dump(config))
    log = tmp_path / "log.txt"
    command = [
        str(Path(sys.executable).parent / "serve"), "run", str(file), "--address", "local",
    ]  # fmt: skip
    environment = {
        **os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_OVERRIDE_RESOURCES": '{"CPU": 2}',
        "HOME": str(tmp_path), "PYTHONWARNINGS": "ignore", "RAY_worker_niceness": "0",
    }  # fmt: skip
    with log.open("w") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env=environment, cwd=tmp_path, text=True
        )
    server = Server(port, "", process, log)
    try:
        yield server
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def started(server):
    """When the replica that answers was started; 0: none answers."""
    with suppress(OSError, http.client.HTTPException):
        answer = server.get("/metrics")
        if answer.status == 200:
            found = re.search(r"^process_start_time_seconds (\S+)", answer.body.decode(), re.M)
            assert found
            return float(found[1])
    return 0.0


def replicas(server):
    """The processes of the replicas, by what Ray calls them."""
    title = f"ray::ServeReplica:test-{server.port}:".encode()
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if file.read_bytes().startswith(title):
                found.append(int(file.parent.name))
        except OSError:
            continue
    return found


@dataclass
class Load:
    """What clients that ask all the time are told."""

    server: Server
    expected: dict
    over: threading.Event = field(default_factory=threading.Event)
    counts: Counter = field(default_factory=Counter)

    def run(self):
        while not self.over.is_set():
            for path in PICTURES:
                self.note(path, begin(self.server, path))

    def note(self, path, answer):
        """Count an answer, which a function gives, by what a client can tell of it."""
        try:
            status, headers, body = answer()
        except (OSError, http.client.HTTPException):
            told = "failed"
        else:
            if status == 200:
                [one] = json.loads(body)["pictures"]
                one.pop("file")
                right = one == self.expected[path] and len(headers.get_all("x-request-id")) == 1
                told = "right" if right else "wrong"
            elif status == 503 and int(headers["retry-after"]) > 0:
                told = "refused"
                time.sleep(0.1)
            else:
                told = "failed" if status >= 500 and not headers["retry-after"] else "else"
        self.counts[told] += 1


def begin(server, path):
    """Send a picture's first half. What is returned sends the other half and gives the answer."""
    data = path.read_bytes()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.putrequest("POST", "/detect?score=0.1")
    connection.putheader("Content-Type", "image/jpeg")
    connection.putheader("Content-Length", str(len(data)))
    connection.endheaders(data[:1000])

    def end():
        with closing(connection):
            connection.send(data[1000:])
            got = connection.getresponse()
            return got.status, got.headers, got.read()

    return end


def test_a_killed_replica_under_load(served, tiny_model):
    detector = Detector.load(tiny_model)
    expected = {path: detector.detect(path, score=0.1).to_dict() for path in PICTURES}
    assert all(one["detections"] for one in expected.values())
    first = {0.0}

    def both_have_answered():
        first.add(started(served))
        return len(first) == 3

    wait_for(both_have_answered, seconds=START)

    load = Load(served, expected)
    # So that both replicas have some whenever one is killed.
    halves = [begin(served, PICTURES[0]) for _ in range(4)]
    time.sleep(0.5)
    clients = [threading.Thread(target=load.run) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    try:
        wait_for(lambda: load.counts["right"] > 20 and load.counts["refused"])
        assert set(load.counts) == {"right", "refused"}
        killed, other = replicas(served)
        os.kill(killed, signal.SIGKILL)
        for half in halves:
            load.note(PICTURES[0], half)
        wait_for(lambda: started(served) not in first, seconds=START)
        before = load.counts["right"]
        wait_for(lambda: load.counts["right"] > before + 20)
    finally:
        load.over.set()
        for client in clients:
            client.join()
    assert other in replicas(served)
    assert set(load.counts) == {"right", "refused", "failed"}
    # What the killed one had, and no more.
    assert load.counts["failed"] <= CLIENTS + len(halves)


@pytest.mark.parametrize(
    ("given", "error", "named"),
    [({"modle": "default"}, OptionError, "modle"),
     ({"port": 80}, OptionError, "port"), ({"api_key": ""}, OptionError, "key"),
     ({"min_replicas": "two"}, OptionError, "min_replicas"),
     ({"queue": "0", "max_pictures": "0"}, OptionError, "queue"),
     ({"min_replicas": 3, "max_replicas": 2}, OptionError, "max_replicas"),
     ({"engine": "tensorrt"}, OptionError, "onnxruntime"),
     ({"preprocessing": "slow"}, OptionError, "fast"),
     ({"model": "missing.onnx"}, ModelError, r"missing\.onnx")],
)  # fmt: skip
def test_wrong_arguments(given, error, named):
    with pytest.raises(error, match=named):
        ray_serve.read_arguments(given)


def test_arguments_without_a_value_are_not_given(monkeypatch):
    monkeypatch.setenv("SSD34_API_KEY", "key")
    options = ray_serve.read_arguments({"threads": None, "api_key": None})
    assert (options.threads, options.api_key) == (1, "key")
