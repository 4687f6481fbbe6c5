"""``POST /detect``: pictures in, what ``ssd34 detect`` says of them out."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ssd34.core.detections import Detections
from ssd34.core.preprocess import FAST
from ssd34.errors import ImageError
from ssd34.images.draw import check_side, draw
from ssd34.images.read import read_picture
from ssd34.runtime.detector import DEFAULT_SCORE, Detector, PreparedPicture
from ssd34.runtime.session import Outputs
from ssd34.serve.bodies import Sent, body_of, read_pictures
from ssd34.serve.metrics import log
from ssd34.serve.model import Loaded
from ssd34.serve.options import Refusal
from ssd34.serve.service import READ, STAGES, Job, Service
from ssd34.workflows.detect import DetectRun, Looked, as_coco, as_json

JSON, COCO, IMAGE = FORMATS = ("json", "coco", "image")

_QUERY = ("score", "policy", "format")


@dataclass(frozen=True)
class Query:
    """The query of a request."""

    score: float
    policy: str | None
    form: str


@dataclass(eq=False)
class Look:
    """Looking for objects in one picture: the two ends of a `Job`."""

    sent: Sent
    asked: Query
    max_pixels: int
    picture: Image.Image | None = field(default=None, init=False)

    def prepare(self, detector: Detector) -> PreparedPicture:
        """Decode and resize."""
        if self.asked.form != IMAGE:
            return detector.prepare(self.sent.data, max_pixels=self.max_pixels)
        self.picture = read_picture(self.sent.data, max_pixels=self.max_pixels)
        check_side(self.picture, "JPEG", what=self.sent.name, remedy="ask for format=json")
        # The fast way is not that of the whole picture, which is only drawn on.
        seen = self.sent.data if detector.preprocessing == FAST else self.picture
        return detector.prepare(seen, max_pixels=self.max_pixels)

    def finish(
        self, detector: Detector, prepared: PreparedPicture, outputs: Outputs
    ) -> Detections | bytes:
        """The detections, or a JPEG with them."""
        found = detector.finish(prepared, outputs, score=self.asked.score)
        if self.picture is None:
            return found
        drawn = io.BytesIO()
        draw(self.picture, found).save(drawn, "JPEG", quality=92)
        return drawn.getvalue()


async def answer_detect(request: Request) -> Response:
    """Detections of the pictures in a request, or its one picture with them."""
    service: Service = request.app.state.service
    options, loaded = service.options, service.loaded
    started = time.monotonic()
    asked = _asked(request, loaded)
    service.check_room()
    async with body_of(request, service) as body:
        pictures = await read_pictures(request, body, service)
        if asked.form == IMAGE and len(pictures) > 1:
            raise Refusal(400, f"{len(pictures)} pictures; with format=image send one")
        read = time.monotonic() - started
        service.metrics.stages.labels(READ).observe(read)
        looks = [Look(sent, asked, options.max_pixels) for sent in pictures]
        jobs = [
            Job(loaded, asked.policy, look.prepare, look.finish, started + options.timeout)
            for look in looks
        ]
        answers = await service.results(jobs, request.receive)
    timing = {READ: read} | {
        stage: sum(job.spent.get(stage, 0) for job in jobs) for stage in STAGES[1:]
    }
    timing["total"] = time.monotonic() - started
    milliseconds = {stage: round(1000 * seconds, 3) for stage, seconds in timing.items()}
    request.state.facts = {"pictures": len(jobs), "timing_ms": milliseconds}
    response = _response(loaded.name, pictures, answers, asked=asked, timing=milliseconds)
    response.headers["Server-Timing"] = ", ".join(
        f"{stage};dur={value}" for stage, value in milliseconds.items()
    )
    return response


def _response(
    model: str,
    pictures: Sequence[Sent],
    answers: Sequence[Any],
    *,
    asked: Query,
    timing: dict[str, float],
) -> Response:
    """Refusal where no picture could be read."""
    run = DetectRun(model=model, files=[Path(sent.name) for sent in pictures])
    for sent, answer in zip(pictures, answers, strict=True):
        file = Path(sent.name)
        if isinstance(answer, ImageError):
            run.failed.append((file, str(answer)))
        elif isinstance(answer, BaseException):
            raise_other(answer)
        elif isinstance(answer, bytes):
            return Response(answer, media_type="image/jpeg")
        else:
            run.looked.append(Looked(file, file, answer))
    if not run.looked:
        raise Refusal(422, "; ".join(dict.fromkeys(reason for _, reason in run.failed)))
    if asked.form == COCO:
        return JSONResponse(as_coco(run))
    return JSONResponse({**as_json(run), "timing": timing})


def raise_other(error: BaseException) -> None:
    """An answer that is no picture's fault. Refusal: the deadline passed before its turn, or what
    the job itself refused. Exception: the error."""
    if isinstance(error, asyncio.CancelledError):
        raise Refusal(504, "the answer was not ready in time; try again later")
    if not isinstance(error, Refusal):
        log.error("a picture failed", exc_info=error)
        raise Refusal(500, "the model failed on the request; the server's log says why")
    raise error


def _asked(request: Request, loaded: Loaded) -> Query:
    """Refusal for an unknown parameter, one twice, or a value that is not allowed."""
    query = request.query_params
    for name, _ in query.multi_items():
        if name not in _QUERY or len(query.getlist(name)) > 1:
            raise Refusal(
                400, f"query parameter {name[:100]!r}: expected {', '.join(_QUERY)}, each once"
            )
    policy, form = query.get("policy"), query.get("format", JSON)
    if policy is not None and not loaded.policies:
        raise Refusal(400, "policy: this model has the NMS in its file; leave policy out")
    if policy is not None and policy not in loaded.policies:
        raise Refusal(400, f"policy {policy[:100]!r}: expected one of {', '.join(loaded.policies)}")
    if form not in FORMATS:
        raise Refusal(400, f"format {form[:100]!r}: expected one of {', '.join(FORMATS)}")
    text = query.get("score", str(DEFAULT_SCORE))
    try:
        score = float(text)
    except ValueError:
        score = -1.0
    if not 0 <= score <= 1:
        raise Refusal(400, f"score {text[:100]!r}: expected a number from 0 to 1")
    return Query(score, policy, form)
