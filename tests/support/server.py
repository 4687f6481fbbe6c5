"""``ssd34 serve`` in a process of its own, and requests to it."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import EXAMPLES, ROOT

CHELSEA = (EXAMPLES / "chelsea.jpg").read_bytes()
COFFEE = (EXAMPLES / "coffee.jpg").read_bytes()

LOW = "?score=0.3"
"""The tiny network scores nothing higher than 0.5, the default."""

_SECONDS = 60.0


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The message of an error; anything else than one fails."""
        told = self.json
        assert set(told) == {"error"} and self.headers["content-type"] == "application/json"
        assert str(ROOT) not in told["error"] and "/tmp" not in told["error"]
        message: str = told["error"]
        return message


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        port: of 127.0.0.1.
        said: what it printed when it started.
        process: it.
        log: the file of its log.
    """

    port: int
    said: str
    process: subprocess.Popen[str]
    log: Path

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        kind: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request on a connection of its own."""
        sent = {**({"Content-Type": kind} if kind else {}), **(headers or {})}
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=_SECONDS)) as one:
            one.request(method, path, body, sent)
            got = one.getresponse()
            named = {name.lower(): value for name, value in got.getheaders()}
            return Answer(got.status, named, got.read())

    def get(self, path: str, **options: Any) -> Answer:
        return self.ask("GET", path, **options)

    def detect(self, picture: bytes, query: str = LOW, **options: Any) -> Answer:
        return self.ask("POST", f"/detect{query}", picture, **{"kind": "image/jpeg", **options})

    def infer(self, told: Any, **options: Any) -> Answer:
        body = told if isinstance(told, bytes) else json.dumps(told).encode()
        return self.ask("POST", f"/v2/models/{self.model}/infer", body, **options)

    @property
    def model(self) -> str:
        found = re.search(r"model (\S+) on", self.said)
        assert found
        return found[1]

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=_SECONDS)

    def metric(self, name: str, /, **labels: str) -> float:
        """The sum of the samples with these labels."""
        text = self.get("/metrics").body.decode()
        samples = [s for f in text_string_to_metric_families(text) for s in f.samples]
        return sum(
            s.value for s in samples if s.name == name and labels.items() <= s.labels.items()
        )

    def logged(self, message: str = "request") -> list[dict[str, Any]]:
        """The lines of the log with a message; every line is JSON."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line for line in lines if line["message"] == message]

    def memory(self, name: str = "VmHWM") -> int:
        """Bytes in RAM, at most so far or (VmRSS) now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(status.split(f"{name}:")[1].split()[0])

    def stop(self) -> int:
        """Its exit code, after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(_SECONDS)


@contextmanager
def serving(folder: Path, model: object, *options: object) -> Iterator[Server]:
    """A server of a model on a free port; its log lies in a folder."""
    folder.mkdir(exist_ok=True)
    log = folder / "log.jsonl"
    command = [sys.executable, "-W", "error", "-m", "ssd34", "serve", model, "--port", 0, *options]
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*map(str, command)], stdout=subprocess.PIPE, stderr=errors, text=True
        )
    assert process.stdout
    try:
        said = ""
        while not (found := re.search(r" on http://[\d.]+:(\d+)\n", said)):
            line = process.stdout.readline()
            assert line, log.read_text()
            said += line
        server = Server(int(found[1]), said, process, log)
        yield server
        if process.poll() is None:
            assert server.stop() == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
