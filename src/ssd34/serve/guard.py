"""What happens around every request: its id, the key, the log line, the metrics, no way out for
errors."""

from __future__ import annotations

import hmac
import logging
import re
import time
import uuid
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ssd34.serve.metrics import log
from ssd34.serve.options import ClientGoneError, Refusal
from ssd34.serve.service import Service

GONE = 499
"""The status in logs of a request whose client left, as nginx has it."""

_OPEN = ("/", "/openapi.json", "/v2/health/live", "/v2/health/ready")
"""What needs no key, beside the examples."""

_REQUEST_ID = re.compile(r"[\w.:-]{1,64}", re.ASCII)

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Guard:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, *, service: Service, says_id: bool) -> None:
        self.app = app
        self.service = service
        self.says_id = says_id
        self._key = (service.options.api_key or "").encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":  # what other servers than ours begin and end with
            await self.app(scope, receive, send)
            return
        started = time.monotonic()
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        state: dict[str, Any] = scope.setdefault("state", {})
        status = 0

        async def send_noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                out = MutableHeaders(scope=message)
                if self.says_id:
                    out["X-Request-ID"] = request_id
                for name, value in _HEADERS.items():
                    out.setdefault(name, value)
                if self.service.draining:
                    out["Connection"] = "close"
            await send(message)

        try:
            if self._is_known(scope, headers):
                await self.app(scope, receive, send_noted)
            else:
                challenge = {"WWW-Authenticate": "Bearer"}
                refusal = Refusal(401, "send the API key as a bearer token", headers=challenge)
                await as_response(refusal)(scope, receive, send_noted)
        except (ClientGoneError, ClientDisconnect):
            status = GONE
            # Nobody reads it; without an answer uvicorn would log an error.
            await as_response(Refusal(GONE, "the client has left"))(scope, receive, send)
        except Exception:
            log.exception("a request failed", extra={"facts": {"id": request_id}})
            if not status:
                refusal = Refusal(500, "the server failed; its log says why")
                await as_response(refusal)(scope, receive, send_noted)
        finally:
            self._note(scope, request_id, status, time.monotonic() - started, state)

    def _is_known(self, scope: Scope, headers: Headers) -> bool:
        """Whether a client has the key, or needs none."""
        path = scope["path"]
        if not self._key or path in _OPEN or path.startswith("/examples/"):
            return True
        kind, _, token = headers.get("authorization", "").partition(" ")
        key = token.strip() if kind.lower() == "bearer" else headers.get("x-api-key", "")
        return hmac.compare_digest(key.encode(), self._key)

    def _note(
        self, scope: Scope, request_id: str, status: int, seconds: float, state: dict[str, Any]
    ) -> None:
        endpoint = getattr(scope.get("endpoint"), "__name__", "none").removeprefix("answer_")
        metrics = self.service.metrics
        metrics.requests.labels(endpoint, str(status)).inc()
        metrics.seconds.labels(endpoint).observe(seconds)
        facts = {
            "id": request_id,
            "method": scope["method"],
            "path": scope["path"][:200],
            "status": status,
            "ms": round(1000 * seconds, 3),
            "client": (scope.get("client") or ("",))[0],
            **state.get("facts", {}),
        }
        # Balancers ask for these every second.
        level = logging.DEBUG if endpoint in ("live", "ready") else logging.INFO
        log.log(level, "request", extra={"facts": facts})


def as_response(refusal: Refusal) -> Response:
    """What a client gets."""
    return JSONResponse(
        {"error": refusal.message}, status_code=refusal.status, headers=refusal.headers
    )


async def answer_refusal(_: Request, error: Exception) -> Response:
    """Starlette's handler for our own."""
    assert isinstance(error, Refusal)
    return as_response(error)


async def answer_http_exception(_: Request, error: Exception) -> Response:
    """Starlette's handler for its own: no such path, no such method."""
    assert isinstance(error, HTTPException)
    return as_response(Refusal(error.status_code, error.detail.lower(), headers=error.headers))
