"""The Open Inference Protocol, version 2, over HTTP, with the binary tensor extension.

https://github.com/kserve/open-inference-protocol and, for the extension, Triton's protocol
documentation.
"""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ssd34.core.contract import DETECTION_OUTPUTS, RAW_OUTPUTS, Port
from ssd34.errors import ImageError, ModelError, Ssd34Error
from ssd34.runtime.detector import Detector, PreparedPicture
from ssd34.runtime.session import Outputs
from ssd34.serve.bodies import body_of, parse_json
from ssd34.serve.detecting import raise_other
from ssd34.serve.metrics import log
from ssd34.serve.model import Loaded
from ssd34.serve.options import Refusal
from ssd34.serve.service import READ, Job, Service
from ssd34.version import __version__

VERSION = "1"
"""Of every model: one at a time is served."""

BYTES = "BYTES"
HEADER_LENGTH = "Inference-Header-Content-Length"

_DATATYPES: dict[str, tuple[str, np.dtype[Any]]] = {
    "tensor(float)": ("FP32", np.dtype("<f4")),
    "tensor(uint8)": ("UINT8", np.dtype("u1")),
    "tensor(int64)": ("INT64", np.dtype("<i8")),
}


class InputParameters(msgspec.Struct, frozen=True):
    """What is known of an input's parameters; others are passed over."""

    binary_data_size: int | None = None


class OutputParameters(msgspec.Struct, frozen=True):
    """Of an output's."""

    binary_data: bool | None = None


class RequestParameters(msgspec.Struct, frozen=True):
    """Of a request's; `timeout` is in microseconds, and 0 is none."""

    binary_data_output: bool = False
    timeout: Annotated[float, msgspec.Meta(ge=0)] = 0


class Tensor(msgspec.Struct):
    """An input of a request."""

    name: str
    shape: list[int]
    datatype: str
    data: msgspec.Raw = msgspec.Raw()
    parameters: InputParameters = InputParameters()


class WantedOutput(msgspec.Struct):
    """An output that a request asks for."""

    name: str
    parameters: OutputParameters = OutputParameters()


class InferRequest(msgspec.Struct):
    """The JSON of an infer request."""

    inputs: Annotated[list[Tensor], msgspec.Meta(min_length=1, max_length=1)]
    id: str | None = None
    outputs: list[WantedOutput] | None = None
    parameters: RequestParameters = RequestParameters()


class LoadRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The JSON of a load request; nothing can be chosen."""

    parameters: dict[str, msgspec.Raw] = {}


@dataclass(frozen=True)
class Asked:
    """A checked infer request.

    Attributes:
        pictures: encoded pictures, or (1, ...) tensors.
        outputs: the wanted ones' names, and whether each is to be binary.
        timeout: seconds that the client waits; 0: as long as the server does.
    """

    id: str | None
    pictures: Sequence[bytes | NDArray[Any]]
    outputs: dict[str, bool]
    timeout: float


async def answer_server(_: Request) -> Response:
    """``GET /v2``."""
    extensions = ["binary_tensor_data", "model_repository"]
    return JSONResponse({"name": "ssd34", "version": __version__, "extensions": extensions})


async def answer_live(_: Request) -> Response:
    """``GET /v2/health/live``."""
    return JSONResponse({"live": True})


async def answer_ready(request: Request) -> Response:
    """``GET /v2/health/ready``, and of the model: 503 once the server is about to end."""
    service: Service = request.app.state.service
    if "name" in request.path_params:
        _model(request)
    ready = not service.draining
    return JSONResponse({"ready": ready}, status_code=200 if ready else 503)


async def answer_metadata(request: Request) -> Response:
    """``GET /v2/models/{name}``."""
    loaded = _model(request)
    return JSONResponse(
        {
            "name": loaded.name,
            "versions": [VERSION],
            "platform": "onnx",
            "inputs": [_described(port) for port in loaded.session.engine.inputs],
            "outputs": [_described(port) for port in _outputs(loaded)],
            "parameters": {"labels": list(loaded.session.labels.names)},
        }
    )


async def answer_load(request: Request) -> Response:
    """``POST /v2/repository/models/{name}/load``, where the operator allows it."""
    service: Service = request.app.state.service
    if not service.options.allow_reload:
        raise Refusal(403, "loading is not enabled on this server")
    if request.path_params["name"] != service.loaded.name:
        raise _unknown_model(request)
    async with body_of(request, service) as body:
        if body and parse_json(body, LoadRequest).parameters:
            raise Refusal(400, "parameters: nothing of the model can be chosen; leave them out")
    try:
        await run_in_threadpool(service.reload)
    except Ssd34Error as error:
        log.error("the model was not loaded again: %s", error)
        raise Refusal(
            400, "the model could not be loaded, the old one stays; the server's log says why"
        ) from None
    return JSONResponse({})


async def answer_infer(request: Request) -> Response:
    """``POST /v2/models/{name}/infer``: the file's outputs for one picture or more."""
    service: Service = request.app.state.service
    loaded, options = _model(request), service.options
    started = time.monotonic()
    service.check_room()
    async with body_of(request, service) as body:
        stated = request.headers.get(HEADER_LENGTH)
        asked = await service.parse(
            lambda: read_request(body, stated, loaded=loaded, max_pictures=options.max_pictures)
        )
        service.metrics.stages.labels(READ).observe(time.monotonic() - started)
        timeout = min(options.timeout, asked.timeout or options.timeout)
        prepare = partial(_prepare, max_pixels=options.max_pixels)
        jobs = [
            Job(loaded, None, partial(prepare, one), _keep, started + timeout)
            for one in asked.pictures
        ]
        answers = await service.results(jobs, request.receive)
    request.state.facts = {"pictures": len(jobs)}
    for picture, answer in zip(asked.pictures, answers, strict=True):
        if isinstance(answer, ImageError):
            raise Refusal(422, str(answer))
        if isinstance(answer, ModelError) and not isinstance(picture, bytes):
            raise Refusal(422, "the tensor's values are not those of pictures: the model fails")
        if isinstance(answer, BaseException):
            raise_other(answer)
    return await service.parse(lambda: _response(loaded, asked, _stacked(loaded, answers)))


def _prepare(
    picture: bytes | NDArray[Any], detector: Detector, *, max_pixels: int
) -> PreparedPicture:
    if isinstance(picture, bytes):
        return detector.prepare(picture, max_pixels=max_pixels)
    return PreparedPicture(picture, 1, 1)


def _keep(_: Detector, __: PreparedPicture, outputs: Outputs) -> Outputs:
    return outputs


def _model(request: Request) -> Loaded:
    """The model; Refusal where there is no such model or version."""
    loaded: Loaded = request.app.state.service.loaded
    version = request.path_params.get("version", VERSION)
    if request.path_params["name"] != loaded.name or version != VERSION:
        raise _unknown_model(request)
    return loaded


def _unknown_model(request: Request) -> Refusal:
    loaded: Loaded = request.app.state.service.loaded
    return Refusal(404, f"no such model; this server has {loaded.name!r}, version {VERSION}")


def _outputs(loaded: Loaded) -> list[Port]:
    names = RAW_OUTPUTS if loaded.session.raw else DETECTION_OUTPUTS
    return [port for port in loaded.session.engine.outputs if port.name in names]


def _described(port: Port) -> dict[str, Any]:
    shape = [-1 if size is None else size for size in port.sizes or ()]
    return {"name": port.name, "datatype": _DATATYPES[port.type][0], "shape": shape}


def read_request(body: bytes, stated: str | None, *, loaded: Loaded, max_pictures: int) -> Asked:
    """An infer request, JSON and the binary tensors behind it, whose header has `stated` how long
    the JSON is; None: the whole body. Refusal where it is malformed, or not for this model."""
    length = len(body)
    if stated is not None:
        if not stated.isdecimal() or len(stated) > 15 or int(stated) > len(body):
            raise Refusal(
                400, f"{HEADER_LENGTH} {stated[:50]!r}: expected at most the body's {len(body)}"
            )
        length = int(stated)
    told = parse_json(body[:length], InferRequest)
    [tensor] = told.inputs
    binary = memoryview(body)[length:]
    size, data = tensor.parameters.binary_data_size, bytes(tensor.data)
    if (size or 0) != len(binary) or (size is None) != bool(data):
        raise Refusal(
            400, f"input {tensor.name[:100]!r}: expected data, or binary_data_size of the "
            f"{len(binary)} bytes behind the JSON",
        )  # fmt: skip
    return Asked(
        id=told.id,
        pictures=_pictures(tensor, data, binary, loaded=loaded, most=max_pictures),
        outputs=_wanted(told, loaded),
        timeout=told.parameters.timeout / 1e6,
    )


def _wanted(told: InferRequest, loaded: Loaded) -> dict[str, bool]:
    known = [port.name for port in _outputs(loaded)]
    outputs = told.outputs or [WantedOutput(name) for name in known]
    names = [output.name for output in outputs]
    if not set(names) <= set(known) or len(names) > len(known):
        raise Refusal(400, f"outputs: expected {', '.join(known)}, each at most once")
    wanted = {output.name: output.parameters.binary_data for output in outputs}
    usual = told.parameters.binary_data_output
    return {name: usual if binary is None else binary for name, binary in wanted.items()}


def _pictures(
    tensor: Tensor, data: bytes, binary: memoryview, *, loaded: Loaded, most: int
) -> Sequence[bytes | NDArray[Any]]:
    """Each picture of an input."""
    [port] = loaded.session.engine.inputs
    datatype, dtype = _DATATYPES[port.type]
    sizes = () if tensor.datatype == BYTES else (port.sizes or ())[1:]
    if tensor.name != port.name or tensor.datatype not in (datatype, BYTES):
        raise Refusal(
            400, f"input {tensor.name[:100]!r}, {tensor.datatype[:100]!r}: expected {port.name!r}, "
            f"{datatype}, or {BYTES} for encoded pictures",
        )  # fmt: skip
    shape = tuple(tensor.shape)
    if not shape or shape[0] < 1 or shape[1:] != sizes:
        form = ", ".join(map(str, ("N", *sizes)))
        raise Refusal(400, f"shape {str(shape)[:100]}: expected [{form}], N being 1 or more")
    if shape[0] > most:
        raise Refusal(413, f"{shape[0]} pictures in one request: expected at most {most}")
    if tensor.datatype == BYTES:
        # No more than one too many, however many there are.
        encoded = _texts(data) if data else [*islice(_elements(binary), shape[0] + 1)]
        if len(encoded) != shape[0]:
            raise Refusal(400, f"the shape says {shape[0]} elements, and there are not so many")
        return encoded
    elements = math.prod(shape)
    values = _numbers(data, dtype, shape) if data else _as(binary, dtype)
    if values.size != elements:
        raise Refusal(400, f"{values.size} elements, and the shape says {elements}")
    values = values.reshape(shape)
    if not np.isfinite(values).all():
        raise Refusal(400, f"input {port.name!r}: has values that are not finite")
    # Each in memory of its own, which the detector uses again.
    return [values[k : k + 1].astype(dtype.newbyteorder("="), copy=True) for k in range(shape[0])]


def _as(binary: memoryview, dtype: np.dtype[Any]) -> NDArray[Any]:
    if len(binary) % dtype.itemsize:
        raise Refusal(400, f"{len(binary)} bytes are not elements of {dtype.itemsize} bytes")
    return np.frombuffer(binary, dtype)


def _numbers(data: bytes, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Numbers in JSON: in one list, or in lists in lists as the shape is."""
    # Commas stand between numbers however they are nested: so no list is longer than wanted.
    if data.count(b",") == math.prod(shape) - 1:
        for kind in (list[float], list[list[list[list[float]]]]):
            with suppress(msgspec.DecodeError, UnicodeDecodeError, ValueError):
                values = np.array(msgspec.json.decode(data, type=kind))
                fits = values.ndim == 1 or values.shape == shape
                if fits and (dtype.kind == "f" or np.isin(values, range(256)).all()):
                    with np.errstate(over="ignore"):
                        return values.astype(dtype).ravel()
    raise Refusal(400, f"data: expected {math.prod(shape)} numbers in a list, or nested as {shape}")


def _texts(data: bytes) -> list[bytes]:
    """Base64 texts in JSON."""
    try:
        return msgspec.json.decode(data, type=list[bytes])
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Refusal(400, "data: expected a list of pictures, each as base64 text") from None


def _elements(binary: memoryview) -> Iterator[bytes]:
    """The elements of a binary BYTES tensor: each its length in 4 bytes, then its bytes."""
    start = 0
    while start < len(binary):
        if start + 4 > len(binary):
            raise Refusal(400, "the binary data ends within an element's length")
        (length,) = struct.unpack_from("<I", binary, start)
        start += 4
        if start + length > len(binary):
            raise Refusal(400, f"an element of {length} bytes goes over the end of the data")
        yield bytes(binary[start : start + length])
        start += length


def _stacked(loaded: Loaded, answers: Sequence[Outputs]) -> dict[str, NDArray[Any]]:
    """Outputs of pictures as those of one run: filled up with detections of score 0."""
    if loaded.session.raw:
        return dict(zip(RAW_OUTPUTS, map(np.stack, zip(*answers, strict=True)), strict=True))
    fixed = {port.name: port.sizes for port in _outputs(loaded)}["scores"]
    most = (fixed[1] if fixed else None) or max(len(scores) for *_, scores in answers)
    filled = {}
    for name, values in zip(DETECTION_OUTPUTS, zip(*answers, strict=True), strict=True):
        whole = np.zeros((len(answers), most, *values[0].shape[1:]), values[0].dtype)
        for k, one in enumerate(values):
            whole[k, : len(one)] = one
        filled[name] = whole
    return filled


def _response(loaded: Loaded, asked: Asked, outputs: dict[str, NDArray[Any]]) -> Response:
    described, binaries = [], []
    types = {port.name: _DATATYPES[port.type] for port in _outputs(loaded)}
    for name, binary in asked.outputs.items():
        datatype, dtype = types[name]
        values = outputs[name]
        one: dict[str, Any] = {"name": name, "shape": list(values.shape), "datatype": datatype}
        if binary:
            binaries.append(values.astype(dtype).tobytes())
            one["parameters"] = {"binary_data_size": len(binaries[-1])}
        else:
            # A picture at a time, as Python's numbers take four times as much memory.
            rows = [msgspec.json.encode(row.ravel().tolist())[1:-1] for row in values]
            one["data"] = msgspec.Raw(b"[" + b",".join(filter(None, rows)) + b"]")
        described.append(one)
    answer: dict[str, Any] = {"model_name": loaded.name, "model_version": VERSION}
    if asked.id is not None:
        answer["id"] = asked.id
    head = msgspec.json.encode({**answer, "outputs": described})
    if not binaries:
        return Response(head, media_type="application/json")
    return Response(
        b"".join((head, *binaries)),
        media_type="application/octet-stream",
        headers={HEADER_LENGTH: str(len(head))},
    )
