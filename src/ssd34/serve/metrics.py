"""What an operator watches: Prometheus metrics, and logs of one JSON object a line."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from ssd34.serve.model import Loaded
from ssd34.version import __version__

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

log = logging.getLogger("ssd34.serve")


class Metrics:
    """The metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "ssd34_requests", "Answered requests.", ("endpoint", "status"), registry=registry
        )
        self.seconds = Histogram(
            "ssd34_request_seconds", "From the headers to the end of the answer.", ("endpoint",),
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.stages = Histogram(
            "ssd34_stage_seconds", "What the time of a picture is spent on.", ("stage",),
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.batches = Histogram(
            "ssd34_batch_pictures", "Pictures in one run of the network.",
            buckets=(1, 2, 4, 8, 16, 32), registry=registry,
        )  # fmt: skip
        self.pictures = Counter(
            "ssd34_pictures", "Pictures by what became of them: done, refused, failed, dropped.",
            ("outcome",), registry=registry,
        )  # fmt: skip
        self.queue = Gauge("ssd34_queue_pictures", "Pictures that wait.", registry=registry)
        self.buffer = Gauge("ssd34_buffer_bytes", "Bodies in memory.", registry=registry)
        self.instances = Gauge("ssd34_instances", "Pictures in work at once.", registry=registry)
        self.model = Gauge(
            "ssd34_model_info", "The model in use.",
            ("name", "engine", "threads", "batch", "loaded", "version"), registry=registry,
        )  # fmt: skip

    def show_model(self, loaded: Loaded) -> None:
        """Another model is in use."""
        self.instances.set(len(loaded.detectors))
        self.model.clear()
        self.model.labels(
            name=loaded.name,
            engine=loaded.session.engine.name,
            threads=str(loaded.session.threads),
            batch=str(loaded.batch),
            loaded=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            version=__version__,
        ).set(1)


class JsonLines(logging.Formatter):
    """A record as one line of JSON; what is given as ``extra={"facts": {...}}`` joins it."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def start_logging(level: str) -> None:
    """Let whatever this process logs be JSON lines on standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.getLogger().handlers[:] = [handler]
    logging.captureWarnings(True)
    log.setLevel(level.upper())
    logging.getLogger("python_multipart").setLevel("ERROR")  # or it warns of each hostile body
