"""The engines that tests run files in."""

import importlib.util

import pytest

from ssd34.runtime.engine import ONNXRUNTIME, OPENVINO

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="openvino is not installed"
)
FLOAT_ENGINES = (ONNXRUNTIME, OPENVINO)
"""Those that run float files, too."""

EACH_ENGINE = [pytest.param(ONNXRUNTIME), pytest.param(OPENVINO, marks=needs_openvino)]
