"""A server under good and hostile requests for some time: what it answered, and its memory.

python benchmarks/serve_soak.py --seconds 600
"""

from __future__ import annotations

import argparse
import base64
import http.client
import io
import json
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tables import keep

FORMS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="of a running server, such as 127.0.0.1:8000")
    parser.add_argument("picture", type=Path, help="a good one")
    parser.add_argument("--process", type=int, help="the server's, to see its memory")
    parser.add_argument("--model", default="default", help="that it serves")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--mutations", type=int, default=5000, help="mutated pictures at least")
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--json", type=Path, help="write what was measured")
    options = parser.parse_args()
    host, _, port = options.url.removeprefix("http://").strip("/").partition(":")
    soak = Soak(host, int(port), options.picture.read_bytes(), mutations=options.mutations)
    samples = [soak.memory(options.process)]
    end = time.monotonic() + options.seconds
    threads = [threading.Thread(target=soak.work, args=(k, end)) for k in range(options.clients)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        time.sleep(5)
        samples.append(soak.memory(options.process))
    status = soak.send("POST", "/detect", soak.good, kind="image/jpeg")
    rows = [
        {
            "requests": name,
            "sent": counts.total(),
            "answered": ", ".join(f"{told}: {count}" for told, count in counts.items()),
        }
        for name, counts in soak.counts.items()
    ]
    summary: dict[str, object] = {"the next good request": status}
    if options.process:
        summary["memory at the start, in the middle and at the end, MiB"] = ", ".join(
            str(samples[place]) for place in (0, len(samples) // 2, -1)
        )
    print(json.dumps([*rows, summary], indent=1))
    keep(options.json, rows, models=[options.model], summary=summary, rss_mib=samples)


def small_pictures(good: bytes) -> list[bytes]:
    """A small picture in every format."""
    with Image.open(io.BytesIO(good)) as picture:
        small = picture.convert("RGB").resize((48, 32))
    streams = []
    for form in FORMS:
        stream = io.BytesIO()
        small.save(stream, form)
        streams.append(stream.getvalue())
    return streams


def mutate(generator: random.Random, originals: Sequence[bytes]) -> bytes:
    """A picture with some bytes changed, cut out or doubled."""
    data = bytearray(generator.choice(originals))
    for _ in range(generator.randint(1, 8)):
        place = generator.randrange(max(1, len(data)))
        way = generator.randrange(5)
        if way < 3:
            data[place : place + 1] = generator.randbytes(1 << generator.randrange(3))
        elif way == 3:
            del data[place : place + generator.randrange(64)]
        else:
            data[place:place] = data[place : place + generator.randrange(64)]
    return bytes(data)


class Soak:
    """The clients."""

    def __init__(self, host: str, port: int, good: bytes, *, mutations: int) -> None:
        self.host, self.port, self.good = host, port, good
        self.originals = small_pictures(good)
        self.counts: dict[str, Counter[str]] = {}
        self.left = mutations
        self.lock = threading.Lock()
        told = json.loads(self.fetch("/openapi.json"))
        assert told["paths"]
        self.model = next(iter(json.loads(self.send_json())["model"].split()))
        [port_] = json.loads(self.fetch(f"/v2/models/{self.model}"))["inputs"]
        self.shape = [1, *port_["shape"][1:]]

    def fetch(self, path: str) -> bytes:
        """What a path gives."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        connection.request("GET", path)
        return connection.getresponse().read()

    def send_json(self) -> bytes:
        """What the good picture gives."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        connection.request("POST", "/detect", self.good, {"Content-Type": "image/jpeg"})
        return connection.getresponse().read()

    def send(self, method: str, path: str, body: bytes, *, kind: str, **headers: str) -> str:
        """The status, or what went wrong."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        try:
            connection.request(method, path, body, {"Content-Type": kind, **headers})
            answer = connection.getresponse()
            answer.read()
            return str(answer.status)
        except OSError as error:
            return type(error).__name__
        finally:
            connection.close()

    def memory(self, process: int | None) -> float | None:
        """MiB in RAM."""
        if process is None:
            return None
        status = Path(f"/proc/{process}/status").read_text()
        return round(int(status.split("VmRSS:")[1].split()[0]) / 1024, 1)

    def work(self, number: int, end: float) -> None:
        """One client until the end, and until enough mutated pictures were sent."""
        generator = random.Random(number)  # noqa: S311 - the same load every time
        kinds: dict[str, Callable[[random.Random], str]] = {
            "good": lambda _: self.send("POST", "/detect", self.good, kind="image/jpeg"),
            "picture": lambda _: self.send(
                "POST", "/detect?format=image", self.good, kind="image/jpeg"
            ),
            "mutated": self.send_mutated,
            "mutated, base64": self.send_mutated_json,
            "tensor": self.send_tensor,
            "deep": lambda _: self.send(
                "POST", "/detect", b"[" * 1_000_000, kind="application/json"
            ),
            "large": lambda _: self.send("POST", "/detect", bytes(40 << 20), kind="image/jpeg"),
            "left": self.leave,
        }
        weights = (10, 2, 60, 15, 6, 1, 1, 5)
        while time.monotonic() < end or self.left > 0:
            [name] = generator.choices([*kinds], weights)
            status = kinds[name](generator)
            with self.lock:
                self.counts.setdefault(name, Counter())[status] += 1
                self.left -= name.startswith("mutated")

    def send_mutated(self, generator: random.Random) -> str:
        """As a body."""
        return self.send("POST", "/detect", mutate(generator, self.originals), kind="image/jpeg")

    def send_mutated_json(self, generator: random.Random) -> str:
        """As base64 in JSON."""
        text = base64.b64encode(mutate(generator, self.originals)).decode()
        return self.send(
            "POST", "/detect", json.dumps({"image": text}).encode(), kind="application/json"
        )

    def send_tensor(self, generator: random.Random) -> str:
        """Right, with NaN, or of a length that is not what its shape says."""
        way = generator.randrange(3)
        values = np.zeros(self.shape, np.float32)
        if way == 1:
            values.flat[7] = np.nan
        data = values.tobytes()[: -4 if way == 2 else None]
        given: dict[str, Any] = {"name": "image", "shape": self.shape, "datatype": "FP32"}
        given["parameters"] = {"binary_data_size": len(data)}
        head = json.dumps({"inputs": [given]}).encode()
        return self.send(
            "POST", f"/v2/models/{self.model}/infer", head + data, kind="application/octet-stream",
            **{"Inference-Header-Content-Length": str(len(head))},
        )  # fmt: skip

    def leave(self, generator: random.Random) -> str:
        """Send a part of a request and go, at times with a reset."""
        with suppress(OSError), socket.create_connection((self.host, self.port)) as one:
            head = f"POST /detect HTTP/1.1\r\nHost: x\r\nContent-Length: {len(self.good)}\r\n\r\n"
            whole = head.encode() + self.good
            one.sendall(whole[: generator.randrange(len(whole))])
            if generator.random() < 0.5:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return "-"


if __name__ == "__main__":
    main()
