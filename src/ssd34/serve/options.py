"""What an operator may set, and what a client is told when something is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ssd34.core.preprocess import CARD
from ssd34.errors import OptionError
from ssd34.runtime.engine import DEFAULT_ENGINE

MEBIBYTE = 1 << 20

API_KEY = "SSD34_API_KEY"
"""The environment variable that holds the key."""

_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[a-z0-9.:_\[\]-]+")


@dataclass(frozen=True)
class ServeOptions:
    """How to serve a model.

    Attributes:
        model: path of an ONNX file or the name of a model.
        host: address to listen on.
        port: to listen on; 0: any that is free.
        instances: pictures in work at once; None: measured at the start.
        threads: that all instances share; None: what this process may use.
        engine: what computes, see `ssd34.runtime.session.Session`.
        preprocessing: one of `ssd34.core.preprocess.PREPROCESSINGS`.
        max_batch: most pictures in one run of the network.
        max_wait: how long a batch waits for more pictures, seconds.
        queue: pictures that may wait for an instance; more are refused.
        timeout: from the headers to the answer, seconds.
        read_timeout: for a body to come, and for a client to take its answer, seconds.
        header_timeout: for the headers to come, seconds.
        max_body: of one request, bytes.
        max_buffer: of all bodies that are held at once, bytes.
        max_pixels: of one picture.
        max_pictures: in one request.
        max_connections: open at once.
        api_key: what clients have to send; None: everybody is served.
        cors_origins: origins whose pages may read answers.
        allow_reload: whether the model may be loaded again.
        shutdown_delay: from SIGTERM, while it says that it is not ready, to the end of listening,
            seconds.
    """

    model: str = "default"
    host: str = "127.0.0.1"
    port: int = 8000
    instances: int | None = None
    threads: int | None = None
    engine: str = DEFAULT_ENGINE
    preprocessing: str = CARD
    max_batch: int = 8
    max_wait: float = 0.002
    queue: int = 64
    timeout: float = 30.0
    read_timeout: float = 30.0
    header_timeout: float = 10.0
    max_body: int = 32 * MEBIBYTE
    max_buffer: int = 256 * MEBIBYTE
    max_pixels: int = 50_000_000
    max_pictures: int = 16
    max_connections: int = 512
    api_key: str | None = None
    cors_origins: tuple[str, ...] = ()
    allow_reload: bool = False
    shutdown_delay: float = 0.0

    def __post_init__(self) -> None:
        if self.max_pictures > self.queue:
            raise OptionError(
                f"{self.max_pictures} pictures in one request and {self.queue} that may wait: a "
                "full request would never be taken; raise --queue or lower --max-pictures"
            )
        if self.max_body > self.max_buffer:
            raise OptionError(
                f"a body of {self.max_body >> 20} MiB and {self.max_buffer >> 20} MiB for all: a "
                "full request would never be taken; raise --max-buffer or lower --max-body"
            )
        if self.api_key is not None:
            key = self.api_key.strip()  # a secret's file may end in a line break
            if not (key and key.isascii() and key.isprintable()):
                raise OptionError(
                    "the API key is empty, or holds what no header can; give another one, or leave "
                    "--api-key out and the variable SSD34_API_KEY unset to serve everybody"
                )
        for origin in self.cors_origins:
            if not _ORIGIN.fullmatch(origin):
                raise OptionError(
                    f"--cors-origin {origin}: no browser sends that; expected such as "
                    "https://example.org, in small letters and without a path, or *"
                )


class Refusal(Exception):  # noqa: N818 - an answer, not a failure
    """A request that is answered with an error. The message names nothing of this machine."""

    def __init__(
        self, status: int, message: str, *, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})


class ClientGoneError(Exception):
    """Nobody waits for the answer any more."""
