"""The engines that tests run files in."""

import importlib.util

import pytest

from ssd34.runtime.engine import ENGINES

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="openvino is not installed"
)
EACH_ENGINE = [
    pytest.param(name, marks=needs_openvino if name == "openvino" else ()) for name in ENGINES
]
