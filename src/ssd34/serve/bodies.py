"""Bodies as they are sent: read within limits, taken apart into pictures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from ssd34.serve.options import Refusal, ServeOptions
from ssd34.serve.service import Parsed, Service

_CHUNK = 1 << 16


class Sent(msgspec.Struct, frozen=True):
    """A picture as it was sent: what its sender calls it, and its bytes."""

    name: str
    data: bytes


class SentAsJson(msgspec.Struct, forbid_unknown_fields=True):
    """The JSON that ``POST /detect`` takes; msgspec reads base64 for bytes."""

    image: bytes | None = None
    images: list[bytes] | None = None


@asynccontextmanager
async def body_of(request: Request, service: Service) -> AsyncIterator[bytes]:
    """The whole body; its place in the buffer is held until the block ends. Refusal: it is too
    large, compressed, or does not come in time, or the buffer is full."""
    options = service.options
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refusal(415, "compressed bodies are not taken; send the body as it is")
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > options.max_body:
        raise _too_large(options)
    held, chunks = 0, []
    try:
        try:
            async with asyncio.timeout(options.read_timeout):
                async for chunk in request.stream():
                    if held + len(chunk) > options.max_body:
                        raise _too_large(options)
                    service.buffer.take(len(chunk))
                    held += len(chunk)
                    chunks.append(chunk)
        except TimeoutError:
            raise Refusal(
                408, f"the body did not come within {options.read_timeout:g} seconds",
                headers={"Connection": "close"},
            ) from None  # fmt: skip
        body = b"".join(chunks)
        chunks.clear()
        yield body
    finally:
        service.buffer.give_back(held)


def _too_large(options: ServeOptions) -> Refusal:
    return Refusal(413, f"the body is larger than the limit of {options.max_body} bytes")


async def read_pictures(request: Request, body: bytes, service: Service) -> list[Sent]:
    """The pictures of ``POST /detect``. Refusal: there are none, too many, or they are not sent in
    a way that is known."""
    options = service.options
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind == "multipart/form-data":
        sent = await service.parse(lambda: _from_form(request, body, options))
    elif kind == "application/json":
        sent = await service.parse(lambda: _from_json(body))
    elif not kind or kind == "application/octet-stream" or kind.startswith("image/"):
        sent = [Sent("picture", body)] if body else []
    else:
        raise Refusal(
            415,
            f"content type {kind[:100]!r}: expected image/*, application/octet-stream, "
            "multipart/form-data or application/json",
        )
    if not sent:
        raise Refusal(400, "there is no picture in the request")
    if len(sent) > options.max_pictures:
        raise Refusal(413, f"more than {options.max_pictures} pictures in one request")
    return sent


def parse_json(body: bytes, kind: type[Parsed]) -> Parsed:
    """The value of a JSON body. Refusal: not JSON, nested too deeply, or of another form."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise Refusal(400, f"the JSON is not as expected: {reason[:300]}") from None


def _from_json(body: bytes) -> list[Sent]:
    sent = parse_json(body, SentAsJson)
    images = [sent.image] if sent.image is not None else sent.images
    if not images or (sent.image is not None and sent.images is not None):
        raise Refusal(400, "the JSON is not as expected: give image or images, as base64")
    if len(images) == 1:
        return [Sent("picture", images[0])]
    return [Sent(f"picture-{number}", one) for number, one in enumerate(images, start=1)]


def _from_form(request: Request, body: bytes, options: ServeOptions) -> list[Sent]:
    """Starlette's parser, which is written for an event loop, run through in this thread."""

    async def pieces() -> AsyncGenerator[bytes, None]:
        for start in range(0, len(body), _CHUNK):
            yield body[start : start + _CHUNK]

    parser = MultiPartParser(
        request.headers, pieces(), max_files=options.max_pictures, max_fields=options.max_pictures
    )
    parser.spool_max_size = len(body) + 1  # nothing goes to a disk
    try:
        form = asyncio.run(parser.parse())
    except MultiPartException as error:
        raise Refusal(400, f"the form is not as expected: {error.message[:300]}") from None
    except (LookupError, ValueError) as error:
        raise Refusal(400, f"the form is not as expected: {type(error).__name__}") from None
    sent = []
    for _, value in form.multi_items():
        if not isinstance(value, UploadFile):
            raise Refusal(400, "the form is not as expected: send pictures as files only")
        sent.append(Sent((value.filename or "picture")[:255], value.file.read()))
        value.file.close()
    return sent
