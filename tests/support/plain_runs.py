"""ONNX Runtime without anything of ours around it, the network in torch, and arrays compared."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import ModelProto

from ssd34.files.checkpoint import Checkpoint
from ssd34.network.ssd import SSD, load_weights


def plain_session(model: ModelProto | Path, **settings: Any) -> onnxruntime.InferenceSession:
    """On the CPU, without the engine's remarks.

    Args:
        model: or its file.
        settings: of ``onnxruntime.SessionOptions``.
    """
    options = onnxruntime.SessionOptions()
    for name, value in {"log_severity_level": 4, **settings}.items():
        setattr(options, name, value)
    source = model if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def torch_outputs(checkpoint: Checkpoint, images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """The loc (N, 4, A) and conf (N, channels, A) that torch computes of images (N, 3, S, S)."""
    network = SSD(checkpoint.spec)
    load_weights(network, checkpoint.weights, source="test")
    with torch.no_grad():
        return [output.numpy() for output in network.eval()(torch.from_numpy(images))]


def assert_all_close(
    found: Iterable[NDArray[Any]], expected: Iterable[NDArray[Any]], *, atol: float, rtol: float = 0
) -> None:
    """As many arrays, each close to its partner."""
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=atol, rtol=rtol)
