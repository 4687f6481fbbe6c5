"""Our files in other programs, beside ONNX Runtime: the table of docs/models.md.

Each form of a small network with random weights; the embedded files in OpenCV. The embedded int8
file in a browser: tests/test_try_page.py.
"""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest

from ssd34.core.boxes import pairwise_iou
from ssd34.core.postprocess import ZOO
from ssd34.core.preprocess import preprocess
from ssd34.deploy.graph.builder import save_model
from ssd34.deploy.graph.export import ExportOptions, make_network_model
from ssd34.deploy.int8.plan import QuantizeOptions
from ssd34.deploy.int8.quantize import quantize_network
from ssd34.errors import ModelError
from ssd34.images.read import read_image
from ssd34.runtime.engine import ONNXRUNTIME, OPENVINO
from ssd34.runtime.engine_choice import open_engine
from ssd34.zoo.names import model_path
from tests.conftest import EXAMPLES, ROOT
from tests.support.browser import CHROMIUM, HOW_TO_GET_IT, chromium
from tests.support.engines import needs_openvino
from tests.support.page import HOW_TO_GET_PROGRAM, PROGRAM, serving_folder

FLOAT, RAW, QDQ, QOPERATOR = "float", "raw", "qdq", "qoperator"
OPSETS = {FLOAT: (10, 13, 21), RAW: (10, 21), QDQ: (12, 13, 21), QOPERATOR: (12, 21)}
FORMS = [(form, opset) for form, opsets in OPSETS.items() for opset in opsets]
EXACT, ROUNDED = (1e-5, 0.999), (0.03, 0.6)
"""By how much scores may differ, and how much boxes overlap at least. The small network's scores
are close together and its boxes small, so that a step more or less moves much."""

each_form = pytest.mark.parametrize(("form", "opset"), FORMS)


@pytest.fixture(scope="module")
def image():
    return preprocess(read_image(EXAMPLES / "chelsea.jpg"), 64)


@pytest.fixture(scope="module")
def folder(tiny_network, tiny_statistics, tmp_path_factory):
    """With a file of each form."""
    folder = tmp_path_factory.mktemp("forms")
    for form, opset in FORMS:
        if form in (FLOAT, RAW):
            policy = ZOO if form == FLOAT else None
            model = make_network_model(tiny_network, ExportOptions(opset=opset, policy=policy))
        else:
            how = QuantizeOptions(
                form="qdq" if form == QDQ else "qoperator",
                opset=opset,
                per_channel=form == QOPERATOR or opset > 12,
                reduce_range=True,
            )
            model = quantize_network(tiny_network, tiny_statistics, how)
        save_model(model, folder / f"{form}-{opset}.onnx")
    return folder


def run(name, path, image, outputs=None):
    engine = open_engine(path, name=name, threads=1)
    names = outputs or [port.name for port in engine.outputs]
    return dict(zip(names, engine.run(names, {"image": image}), strict=True))


def run_in_opencv(path, image, outputs):
    cv2 = pytest.importorskip("cv2", minversion="5", reason="OpenCV 5 is not installed")
    network = cv2.dnn.readNetFromONNX(str(path))
    network.setInput(image, "image")
    return dict(zip(outputs, network.forward(outputs), strict=True))


def assert_same(got, expected, *, bounds):
    """Raw outputs agree; the best detections are there, and scores are as many and as high."""
    by_score, by_iou = bounds
    if "loc" in expected:
        for name, values in expected.items():
            np.testing.assert_allclose(got[name], values, rtol=0, atol=10 * by_score)
        return
    boxes, labels, scores = (np.asarray(got[n])[0] for n in ("bboxes", "labels", "scores"))
    wanted, names, sure = (expected[n][0] for n in ("bboxes", "labels", "scores"))
    least = min(len(scores), len(sure))
    assert least > 0.9 * len(sure)
    np.testing.assert_allclose(scores[:least], sure[:least], rtol=0, atol=by_score)
    near = pairwise_iou(wanted[:10], boxes) >= by_iou
    near &= names[:10, None] == labels
    near &= np.abs(sure[:10, None] - scores) <= by_score
    assert near.any(axis=1).all()


@each_form
def test_in_opencv(folder, image, form, opset):
    path = folder / f"{form}-{opset}.onnx"
    expected = run(ONNXRUNTIME, path, image)
    got = run_in_opencv(path, image, list(expected))
    assert_same(got, expected, bounds=EXACT if form in (FLOAT, RAW) else ROUNDED)


@needs_openvino
@each_form
def test_in_openvino(folder, image, form, opset):
    path = folder / f"{form}-{opset}.onnx"
    expected = run(ONNXRUNTIME, path, image)
    if form == QOPERATOR:
        with pytest.raises(ModelError, match="QLinearConv"):
            run(OPENVINO, path, image)
        return
    got = run(OPENVINO, path, image, list(expected))
    assert_same(got, expected, bounds=ROUNDED if form == QDQ else EXACT)


@pytest.mark.skipif(not CHROMIUM, reason=HOW_TO_GET_IT)
@pytest.mark.skipif(not PROGRAM.is_dir(), reason=HOW_TO_GET_PROGRAM)
def test_in_a_browser(folder, image, tmp_path):
    for name in ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"):
        shutil.copy(PROGRAM / "dist" / name, folder)
    (folder / "index.html").write_text("<!doctype html><title>forms</title>")
    (folder / "image.bin").write_bytes(image.tobytes())
    with serving_folder(folder) as address, chromium(tmp_path / "profile") as browser:
        browser.open(address, width=400, dark=False)
        for form, opset in FORMS:
            told = browser.run(
                f"""(async () => {{
                  const ort = await import('./ort.wasm.bundle.min.mjs');
                  ort.env.wasm.numThreads = 1;
                  const image = new Float32Array(await (await fetch('image.bin')).arrayBuffer());
                  const session = await ort.InferenceSession.create('{form}-{opset}.onnx');
                  const input = new ort.Tensor('float32', image, [1, 3, 64, 64]);
                  const outputs = Object.entries(await session.run({{ image: input }}));
                  return JSON.stringify(outputs.map(([name, {{ dims, data }}]) =>
                    [name, dims, Array.from(data, Number)]));
                }})()"""
            )
            got = {name: np.reshape(data, dims) for name, dims, data in json.loads(told)}
            expected = run(ONNXRUNTIME, folder / f"{form}-{opset}.onnx", image)
            assert_same(got, expected, bounds=EXACT)


@pytest.mark.parametrize(
    ("model", "by_score", "by_iou"), [("default", 0.03, 0.9), ("default-float", 1e-5, 0.9999)]
)
def test_the_embedded_files_in_opencv(model, by_score, by_iou):
    image = preprocess(read_image(EXAMPLES / "coffee.jpg"), 300)
    expected = run(ONNXRUNTIME, model_path(model), image)
    got = run_in_opencv(model_path(model), image, list(expected))
    sure = int((expected["scores"] >= 0.5).sum())
    assert sure == (got["scores"] >= 0.5).sum() > 1
    boxes, labels, scores = ((got[n][0, :sure], expected[n][0, :sure]) for n in expected)
    np.testing.assert_array_equal(*labels)
    np.testing.assert_allclose(*scores, rtol=0, atol=by_score)
    assert np.diag(pairwise_iou(*boxes)).min() > by_iou


def test_the_table_says_what_was_run():
    """Versions here are those of the table's head."""
    cv2 = pytest.importorskip("cv2")
    openvino = pytest.importorskip("openvino")
    import onnxruntime

    lock = json.loads((ROOT / "docs" / "try" / "package-lock.json").read_text())
    versions = {
        "ONNX Runtime": onnxruntime.__version__,
        "OpenVINO": openvino.__version__,
        "OpenCV": cv2.__version__,
        "onnxruntime-web": lock["packages"]["node_modules/onnxruntime-web"]["version"],
    }
    text = (ROOT / "docs" / "models.md").read_text()
    told = dict(re.findall(rf"\| ({'|'.join(versions)}) ([\d.]+) ", text))
    for name, version in versions.items():
        assert version.startswith(f"{told[name]}."), name
