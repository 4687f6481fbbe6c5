"""The application: which path is answered by what, and what happens around every request: its id,
the key, the log line, the metrics, no way out for errors."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import re
import time
import uuid
from functools import partial
from importlib import resources
from typing import Any

from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ssd34.serve import inference_protocol as protocol
from ssd34.serve.detecting import answer_detect
from ssd34.serve.inference_protocol import HEADER_LENGTH
from ssd34.serve.metrics import log
from ssd34.serve.options import ClientGoneError, Refusal
from ssd34.serve.service import Service
from ssd34.version import __version__

_FILES = resources.files("ssd34.serve")

EXAMPLES = ("astronaut", "chelsea", "coffee")
"""Pictures that the page offers; see examples/README.md."""


def make_routes() -> list[Route]:
    """Every path and what answers it."""
    get = partial(Route, methods=["GET"])
    post = partial(Route, methods=["POST"])
    model = "/v2/models/{name}"
    return [
        get("/", answer_page),
        get("/examples/{name}.jpg", answer_example),
        get("/openapi.json", answer_openapi),
        get("/metrics", answer_metrics),
        post("/detect", answer_detect),
        get("/v2", protocol.answer_server),
        get("/v2/health/live", protocol.answer_live),
        get("/v2/health/ready", protocol.answer_ready),
        post("/v2/repository/models/{name}/load", protocol.answer_load),
        *(
            route
            for path in (model, model + "/versions/{version}")
            for route in (
                get(path, protocol.answer_metadata),
                get(path + "/ready", protocol.answer_ready),
                post(path + "/infer", protocol.answer_infer),
            )
        ),
    ]


def make_app(service: Service, *, says_id: bool = True) -> Starlette:
    """The application around a service; `says_id`: its answers carry their request's id."""
    middleware = [Middleware(Guard, service=service, says_id=says_id)]
    if service.options.cors_origins:
        cors = Middleware(
            CORSMiddleware,
            allow_origins=service.options.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "X-API-Key", "X-Request-ID", HEADER_LENGTH],
            expose_headers=["X-Request-ID", "Server-Timing", "Retry-After", HEADER_LENGTH],
        )
        middleware.insert(0, cors)
    app = Starlette(
        routes=make_routes(),
        middleware=middleware,
        exception_handlers={Refusal: answer_error, HTTPException: answer_error},
    )
    app.router.redirect_slashes = False
    app.state.service = service
    app.state.page = _read_page()
    app.state.page_policy = _policy_of(app.state.page)
    app.state.openapi = json.loads((_FILES / "openapi.json").read_bytes())
    app.state.openapi["info"]["version"] = __version__
    return app


def _read_page() -> str:
    """The page with its style and scripts in it: one request, and no path more."""
    folder = _FILES / "page"
    page = (folder / "index.html").read_text("utf-8")
    for pattern, tag in (
        (r'<link rel="stylesheet" href="(.*?)">', "style"),
        (r'<script src="(.*?)"></script>', "script"),
    ):
        for found in [*re.finditer(pattern, page)]:
            text = (folder / found[1]).read_text("utf-8")
            page = page.replace(found[0], f"<{tag}>{text}</{tag}>")
    return page


def _policy_of(page: str) -> str:
    """A content security policy that lets a page use what is written in it, and us."""

    def hashes(tag: str) -> str:
        found = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digests = (base64.b64encode(hashlib.sha256(one.encode()).digest()) for one in found)
        return " ".join(f"'sha256-{digest.decode()}'" for digest in digests)

    return (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; "
        "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )


async def answer_page(request: Request) -> Response:
    """``GET /``."""
    state: Any = request.app.state
    headers = {"Content-Security-Policy": state.page_policy}
    return Response(state.page, media_type="text/html", headers=headers)


async def answer_example(request: Request) -> Response:
    """``GET /examples/NAME.jpg``."""
    name = request.path_params["name"]
    if name not in EXAMPLES:
        raise Refusal(404, "no such example")
    return Response(
        (_FILES / "page" / "examples" / f"{name}.jpg").read_bytes(), media_type="image/jpeg"
    )


async def answer_openapi(request: Request) -> Response:
    """``GET /openapi.json``."""
    return JSONResponse(request.app.state.openapi)


async def answer_metrics(request: Request) -> Response:
    """``GET /metrics``."""
    encode, kind = choose_encoder(request.headers.get("accept", ""))
    service: Service = request.app.state.service
    return Response(encode(service.metrics.registry), headers={"Content-Type": kind})


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
        self.says_id = says_id
        self.service = service
        self._key = (service.options.api_key or "").strip().encode()

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


async def answer_error(_: Request, error: Exception) -> Response:
    """Starlette's handler for our errors, and for its own: no such path, no such method."""
    if isinstance(error, HTTPException):
        error = Refusal(error.status_code, error.detail.lower(), headers=error.headers)
    assert isinstance(error, Refusal)
    return as_response(error)
