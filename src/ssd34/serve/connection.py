"""The server process: connections with time limits, signals, the order of starting and ending."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ssd34.errors import OptionError, Ssd34Error
from ssd34.serve.app import make_app
from ssd34.serve.metrics import log
from ssd34.serve.model import load_fastest
from ssd34.serve.options import Refusal, ServeOptions
from ssd34.serve.service import Service

_HEADER_BYTES = 1 << 15
_KEEP_ALIVE = 15
_BACKLOG = 512
_LINGER = 2.0
"""Seconds in which the rest of a request that was refused is taken and dropped."""


class _Lingering:
    """A transport that is closed in two steps: the end is sent at once, and what the client still
    sends is dropped for a moment. Closed at once, the kernel would answer that data with a reset,
    at which clients drop an answer that they have not read yet."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self.lingering = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Whether no more is written."""
        return self.lingering or self._transport.is_closing()

    def close(self) -> None:
        """Send what is written and the end; close when the client has, or after `_LINGER`."""
        if self.is_closing():
            return
        self.lingering = True
        with suppress(OSError, RuntimeError):
            self._transport.resume_reading()
            self._transport.write_eof()
        self._loop.call_later(_LINGER, self._transport.close)


class Connection(H11Protocol):
    """uvicorn's connection with the limits that it lacks: for the headers to come, for an answer to
    be taken, and on how many are open. h11 is the parser that bounds the headers' size."""

    options: ServeOptions

    _header_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(_Lingering(transport, self.loop))  # type: ignore[arg-type]
        if len(self.connections) > self.options.max_connections:
            self._refuse(503, "too many connections; try again later", more=b"Retry-After: 1\r\n")
            return
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has left."""
        _cancel(self._header_timer)
        _cancel(self._write_timer)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """It has sent something."""
        if self.transport.lingering:  # type: ignore[attr-defined]
            return
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """An answer is written; what is left of the request's body still comes and is dropped."""
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY or self.conn.trailing_data[0]:
            self._watch()

    def pause_writing(self) -> None:
        """The client does not take its answer as fast as it is written."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(self.options.read_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        """It has taken enough."""
        super().resume_writing()
        _cancel(self._write_timer)
        self._write_timer = None

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP is answered in JSON, too."""
        self._refuse(400, msg.lower().removesuffix("."))

    def _watch(self) -> None:
        """Give the next request's headers, or the rest of a refused body, a time to come."""
        busy = self.cycle is not None and not self.cycle.response_complete
        if busy or self.transport.is_closing():
            _cancel(self._header_timer)
            self._header_timer = None
        elif self._header_timer is None:
            self._header_timer = self.loop.call_later(
                self.options.header_timeout,
                self._refuse, 408, f"no request within {self.options.header_timeout:g} seconds",
            )  # fmt: skip

    def _refuse(self, status: int, message: str, *, more: bytes = b"") -> None:
        """Answer without the application, where no other answer has begun, and close."""
        begun = self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE)
        # A client that has sent nothing would take it for the answer to what it sends next.
        unasked = status == 408 and not self.conn.trailing_data[0]
        if not begun and not unasked and not self.transport.is_closing():
            body = json.dumps({"error": message}).encode()
            self.transport.write(
                f"HTTP/1.1 {status} \r\nContent-Type: application/json\r\nConnection: close\r\n"
                f"Content-Length: {len(body)}\r\n".encode()
                + more
                + b"\r\n"
                + body
            )
        self.transport.close()


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


class Server(uvicorn.Server):
    """uvicorn's server: SIGTERM, Ctrl-C and SIGHUP, if it does not reload, end it in order with
    exit code 0."""

    service: Service
    _waiting: asyncio.Task[None] | None = None

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Handle signals as long as the block runs."""
        loop = asyncio.get_running_loop()
        handlers: dict[int, Callable[[], Any]] = {signal.SIGINT: self._end}
        if signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
            handlers[signal.SIGTERM] = self._end
        if hasattr(signal, "SIGHUP"):
            if self.service.options.allow_reload:
                handlers[signal.SIGHUP] = partial(loop.run_in_executor, None, self._reload)
            elif signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # not under nohup
                handlers[signal.SIGHUP] = self._drain  # it may come twice, from shell and system
        try:
            for number, handle in handlers.items():
                loop.add_signal_handler(number, handle)
        except NotImplementedError:  # Windows
            with super().capture_signals():
                yield
            return
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)
                signal.signal(number, signal.SIG_IGN)  # it is ending

    def _end(self) -> None:
        """Asked once: end when all is answered. Asked again: end now."""
        if self.service.draining:
            self.should_exit = self.force_exit = True
        self._drain()

    def _drain(self) -> None:
        if self.service.draining:
            return
        log.info("ending: what was accepted is answered first")
        self.service.draining = True
        self._waiting = asyncio.get_running_loop().create_task(self._end_later())

    async def _end_later(self) -> None:
        await asyncio.sleep(self.service.options.shutdown_delay)
        self.should_exit = True

    def _reload(self) -> None:
        try:
            self.service.reload()
        except (Ssd34Error, Refusal) as error:
            log.error("the model was not loaded again: %s", error)


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; OptionError where the address is not ours, or somebody else's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named, or asyncio does not switch off Nagle's wait on its connections: 40 ms an answer.
    bound = None
    try:
        bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        if os.name == "posix":
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except (OSError, OverflowError) as error:
        if bound:
            bound.close()
        reason = getattr(error, "strerror", None) or error
        raise OptionError(
            f"{host} port {port}: {reason}; choose others with --host and --port"
        ) from None
    return bound


def serve(options: ServeOptions, *, say: Callable[[str], None] = lambda _: None) -> None:
    """Serve until SIGTERM or Ctrl-C. `say` is told how the threads are shared and, once it listens,
    the address. Errors as of `load_fastest`; OptionError: the address cannot be used."""
    bound = listen(options.host, options.port)
    try:
        loaded = load_fastest(options, say=say)
        service = Service(options, loaded)
        connection = type("Connection", (Connection,), {"options": options})
        config = uvicorn.Config(
            make_app(service), http=connection, ws="none", lifespan="off", log_config=None,
            access_log=False, server_header=False, proxy_headers=False, backlog=_BACKLOG,
            timeout_keep_alive=_KEEP_ALIVE, h11_max_incomplete_event_size=_HEADER_BYTES,
            timeout_graceful_shutdown=round(options.read_timeout + options.timeout) + 5,
        )  # fmt: skip
        server = Server(config)
        server.service = service
        host = f"[{options.host}]" if ":" in options.host else options.host
        bound.listen(_BACKLOG)  # from now on clients wait instead of being refused
        say(f"model {loaded.name} on http://{host}:{bound.getsockname()[1]}")
        log.info("serving", extra={"facts": {"model": loaded.name}})
        with suppress(KeyboardInterrupt):
            server.run(sockets=[bound])
        service.close()
        log.info("ended")
    except KeyboardInterrupt:  # while it loaded
        log.info("ended")
    finally:
        bound.close()
