"""The published document: requests made from it, right and wrong, are answered as it says."""

from __future__ import annotations

from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import CHECKS as KNOWN
from schemathesis.checks import load_all_checks
from starlette.routing import Route

from ssd34.serve.app import make_routes
from tests.support.server import CHELSEA

load_all_checks()
NAMES = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance",
    "response_schema_conformance", "response_headers_conformance", "unsupported_method",
)  # fmt: skip
CHECKS: list[Any] = [*KNOWN.get_by_names(NAMES)]
"""Not that all valid requests are taken: most strings are no picture."""

EACH = 20
"""Requests to each operation; benchmarks/serve_soak.py sends more."""


def document(server):
    told = server.get("/openapi.json").json
    for methods in told["paths"].values():
        for operation in methods.values():
            for parameter in operation.get("parameters", ()):
                if parameter["name"] in ("name", "version"):  # or hardly any would be right
                    parameter["schema"]["enum"] = [server.model, "1", "..", "no"]
    return told


def test_requests_made_from_the_document(server):
    schema = schemathesis.openapi.from_dict(document(server))
    schema.config.base_url = f"http://127.0.0.1:{server.port}"
    counted = 0
    for result in schema.get_all_operations():
        operation = result.ok()  # type: ignore[union-attr]

        @hypothesis.settings(
            max_examples=EACH, deadline=None, database=None, derandomize=True,
            suppress_health_check=list(hypothesis.HealthCheck),
        )  # fmt: skip
        @hypothesis.given(case=operation.as_strategy())
        def send(case):
            nonlocal counted
            counted += 1
            case.call_and_validate(checks=CHECKS, timeout=30)

        send()
    assert counted > 100
    assert server.metric("ssd34_pictures_total", outcome="failed") == 0
    assert server.detect(CHELSEA).status == 200


def test_the_document_has_every_path(server):
    documented = {
        (path, method.upper())
        for path, methods in server.get("/openapi.json").json["paths"].items()
        for method in methods
    }
    routes = {
        (route.path, method)
        for route in make_routes()
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert routes - {("/examples/{name}.jpg", "GET")} == documented


@pytest.mark.parametrize("form", ["json", "coco", "image"])
def test_answers_to_a_picture_conform(server, form):
    schema = schemathesis.openapi.from_dict(document(server))
    schema.config.base_url = f"http://127.0.0.1:{server.port}"
    operation = schema["/detect"]["POST"]
    case = operation.Case(
        query={"format": form, "score": 0.1}, body=CHELSEA, media_type="application/octet-stream"
    )
    assert case.call_and_validate(checks=CHECKS).status_code == 200
