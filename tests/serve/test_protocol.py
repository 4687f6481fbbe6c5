"""The Open Inference Protocol, asked by Triton's own client and by plain requests."""

from __future__ import annotations

import json
import struct

import numpy as np
import onnx
import pytest
from onnx import helper
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from ssd34.images.read import read_image
from ssd34.runtime.detector import Detector
from tests.conftest import EXAMPLES
from tests.support.server import CHELSEA, COFFEE

RAW, TAIL = ("loc", "conf"), ("bboxes", "labels", "scores")


@pytest.fixture(params=[RAW, TAIL], ids=["raw", "tail"])
def served(request, server, tail_server, tiny_raw_model, tiny_model):
    """A server, its file, the names of its outputs."""
    raw = request.param is RAW
    return (server, tiny_raw_model, RAW) if raw else (tail_server, tiny_model, TAIL)


@pytest.fixture
def client(served):
    one = triton.InferenceServerClient(f"127.0.0.1:{served[0].port}")
    yield one
    one.close()


def tensor_of(model, name="chelsea.jpg"):
    return Detector.load(model).session.input_for(read_image(EXAMPLES / name))


def by_runtime(model, tensor):
    """What ONNX Runtime itself makes of a tensor."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model)
    names = [port.name for port in session.get_outputs()]
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: tensor}), strict=True))


def close(found, expected):
    assert found.dtype == expected.dtype and found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_health_and_metadata_are_those_of_the_file(served, client):
    server, model, names = served
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready(server.model) and client.is_model_ready(server.model, "1")
    assert client.get_server_metadata()["extensions"][0] == "binary_tensor_data"
    metadata = client.get_model_metadata(server.model)
    assert metadata == client.get_model_metadata(server.model, "1")
    assert metadata["name"] == model.stem and metadata["versions"] == ["1"]
    assert metadata["parameters"]["labels"] == ["square", "disc", "cross"]
    graph = onnx.load(model).graph
    for ports, values in (("inputs", graph.input), ("outputs", graph.output)):
        expected = {}
        for value in values:
            kind = value.type.tensor_type
            dtype = np_to_triton_dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type))
            shape = [d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim]
            expected[value.name] = (dtype, shape)
        assert {p["name"]: (p["datatype"], p["shape"]) for p in metadata[ports]} == expected
    assert {p["name"] for p in metadata["outputs"]} == set(names)


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
def test_infer_a_tensor(served, client, binary_in, binary_out):
    server, model, names = served
    tensor = tensor_of(model)
    given = triton.InferInput("image", list(tensor.shape), "FP32")
    given.set_data_from_numpy(tensor, binary_data=binary_in)
    wanted = binary_out is not None and [
        triton.InferRequestedOutput(name, binary_data=binary_out) for name in names
    ]
    result = client.infer(server.model, [given], outputs=wanted or None, request_id="seven")
    expected = by_runtime(model, tensor)
    for name in names:
        close(result.as_numpy(name), expected[name])
    told = result.get_response()
    assert (told["id"], told["model_name"], told["model_version"]) == ("seven", model.stem, "1")


@pytest.mark.parametrize("binary_in", [True, False])
def test_infer_encoded_pictures(served, client, binary_in):
    """Two at once give what each gives alone; in JSON they are base64."""
    import base64

    server, model, names = served
    encode = bytes if binary_in else base64.b64encode
    values = np.array([encode(CHELSEA), encode(COFFEE)], dtype=object)
    given = triton.InferInput("image", [2], "BYTES")
    given.set_data_from_numpy(values, binary_data=binary_in)
    result = client.infer(server.model, [given])
    for number, file in enumerate(("chelsea.jpg", "coffee.jpg")):
        expected = by_runtime(model, tensor_of(model, file))
        for name in names:
            [whole] = expected[name]
            found = result.as_numpy(name)[number]
            close(found[: len(whole)], whole)
            assert names is RAW or not result.as_numpy("scores")[number][len(whole) :].any()


def test_several_tensors_and_a_part_of_the_outputs(served, client):
    server, model, names = served
    tensors = np.concatenate([tensor_of(model), tensor_of(model, "coffee.jpg")])
    given = triton.InferInput("image", list(tensors.shape), "FP32")
    given.set_data_from_numpy(tensors)
    result = client.infer(
        server.model, [given], outputs=[triton.InferRequestedOutput(names[-1])], timeout=10_000_000
    )
    assert [one["name"] for one in result.get_response()["outputs"]] == [names[-1]]
    for number in (0, 1):
        [whole] = by_runtime(model, tensors[number : number + 1])[names[-1]]
        close(result.as_numpy(names[-1])[number][: len(whole)], whole)


def test_what_tritons_client_is_told(served, client):
    server, _, _ = served
    zeros = np.zeros((1, 3, 64, 64), np.float32)
    given = triton.InferInput("image", [1, 3, 64, 64], "FP32")
    given.set_data_from_numpy(zeros)
    other = triton.InferInput("image", [1, 3, 32, 32], "FP32")
    other.set_data_from_numpy(zeros[:, :, :32, :32].copy())
    nan = triton.InferInput("image", [1, 3, 64, 64], "FP32")
    nan.set_data_from_numpy(zeros * np.nan)
    unknown = triton.InferRequestedOutput("heat")
    for status, call in (
        ("404", lambda: client.get_model_metadata("other")),
        ("404", lambda: client.infer("other", [given])),
        ("404", lambda: client.infer(server.model, [given], model_version="2")),
        ("400", lambda: client.infer(server.model, [given, given])),
        ("400", lambda: client.infer(server.model, [other])),
        ("400", lambda: client.infer(server.model, [nan])),
        ("400", lambda: client.infer(server.model, [given], outputs=[unknown])),
        ("415", lambda: client.infer(server.model, [given], request_compression_algorithm="gzip")),
        ("403", lambda: client.load_model(server.model)),
    ):
        with pytest.raises(InferenceServerException) as caught:
            call()
        assert caught.value.status() in (status, None) and caught.value.message()


def asked(data, *, shape=(1, 3, 64, 64), datatype="FP32", name="image", **more):
    return {"inputs": [{"name": name, "shape": shape, "datatype": datatype, "data": data}], **more}


ZEROS = [0.0] * (3 * 64 * 64)


def test_nested_numbers(server):
    nested = np.zeros((1, 3, 64, 64)).tolist()
    flat, deep = server.infer(asked(ZEROS)), server.infer(asked(nested))
    assert flat.status == deep.status == 200 and flat.json == deep.json


WRONG = {
    "no JSON": b"{",
    "not UTF-8": b'{"inputs": "\xff"}',
    "a list": [],
    "deep": b"[" * 1_000_000,
    "deep data": b'{"inputs":[{"name":"image","shape":[1],"datatype":"FP32","data":'
    + b"[" * 500_000,
    "no inputs": {"inputs": []},
    "a name": asked(ZEROS, name="picture"),
    "too few": asked(ZEROS[1:]),
    "too many": asked([*ZEROS, 0.0]),
    "another shape": asked(ZEROS, shape=(1, 64, 64, 3)),
    "nested otherwise": asked(np.zeros((1, 64, 3, 64)).tolist()),
    "negative": asked(ZEROS, shape=(-1, 3, 64, 64)),
    "nothing": asked([], shape=(0, 3, 64, 64)),
    "huge": asked(ZEROS, shape=(10**18, 3, 64, 64)),
    "larger than int64": asked(ZEROS, shape=(10**30, 3, 64, 64)),
    "fractions": asked(ZEROS, shape=(1.5, 3, 64, 64)),
    "other datatype": asked([0] * len(ZEROS), datatype="INT64"),
    "texts": asked(["0"] * len(ZEROS)),
    "overflow": asked([1e300] * len(ZEROS)),
    "no base64": asked(["%%%"], shape=(1,), datatype="BYTES"),
    "two texts": asked(["", ""], shape=(1,), datatype="BYTES"),
    "no picture": asked([""], shape=(1,), datatype="BYTES"),
    "numbers": asked([1], shape=(1,), datatype="BYTES"),
    "seventeen": asked([""] * 17, shape=(17,), datatype="BYTES"),
    "timeout": asked(ZEROS, parameters={"timeout": -1}),
    "no data": {"inputs": [{"name": "image", "shape": [1, 3, 64, 64], "datatype": "FP32"}]},
}


@pytest.mark.parametrize("told", WRONG.values(), ids=WRONG)
def test_wrong_requests(server, told):
    answer = server.infer(told)
    assert answer.status in (400, 413, 422) and answer.error
    assert server.infer(asked(ZEROS)).status == 200


def test_values_that_no_picture_has(served):
    """The network overflows. A file with its own NMS finds nothing in what comes of that."""
    answer = served[0].infer(asked([3e38] * len(ZEROS)))
    assert answer.status == (422 if served[2] is RAW else 200)


def binary_request(values, *, size=None, head=None, shape=(1, 3, 64, 64), datatype="FP32"):
    given = {"name": "image", "shape": shape, "datatype": datatype}
    size = len(values) if size is None else size
    text = json.dumps({"inputs": [{**given, "parameters": {"binary_data_size": size}}]}).encode()
    length = str(len(text)) if head is None else head
    return text + values, {"Inference-Header-Content-Length": length}


FLOATS = np.zeros((1, 3, 64, 64), np.float32).tobytes()


@pytest.mark.parametrize(
    ("values", "options"),
    [(FLOATS[:-4], {}), (FLOATS[:-1], {}), (FLOATS, {"size": 7}), (FLOATS, {"size": -1}),
     (FLOATS, {"size": "all"}), (FLOATS, {"size": 10**30}), (FLOATS, {"head": "-1"}),
     (FLOATS, {"head": "9" * 30}), (FLOATS, {"head": "x"}), (FLOATS, {"head": "0"}),
     (FLOATS + b"more", {"size": len(FLOATS)}), (b"", {}),
     (struct.pack("<I", 2**32 - 1) + CHELSEA, {"shape": (1,), "datatype": "BYTES"}),
     (struct.pack("<I", len(CHELSEA)) + CHELSEA + b"\0\0", {"shape": (1,), "datatype": "BYTES"}),
     (struct.pack("<I", len(CHELSEA)) + CHELSEA, {"shape": (2,), "datatype": "BYTES"})],
)  # fmt: skip
def test_binary_data_that_lies(server, values, options):
    body, headers = binary_request(values, **options)
    answer = server.infer(body, headers=headers)
    assert answer.status == 400 and answer.error
    body, headers = binary_request(FLOATS)
    assert server.infer(body, headers=headers).status == 200
