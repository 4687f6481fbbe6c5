"""Which share of a graph's time is its tail: decoding, softmax, NMS."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ssd34.runtime.node_times import NodeTime, node_times

NETWORK = frozenset(
    ("Conv", "FusedConv", "NhwcFusedConv", "QLinearConv", "ConvInteger", "Convolution", "Relu",
     "Clip", "MaxPool", "NhwcMaxPool", "Pooling", "Add", "QLinearAdd", "QuantizeLinear",
     "DequantizeLinear", "FakeQuantize", "Pad", "Reorder", "ReorderInput", "ReorderOutput")
)  # fmt: skip
"""What networks of this family are made of, in both engines' words. The few small additions of
the tail count as network, too."""


def tail_share(path: Path, engine: str, tensor: NDArray[Any], *, threads: int) -> float | None:
    """The share of a graph's time that is spent on its tail, from the engine's own profile.

    The file is loaded once more for it.

    Args:
        path: an ONNX file.
        engine: that runs it.
        tensor: its input.
        threads: that one run uses.

    Returns:
        0 to 1; None where the engine gives no times.
    """
    return share_of_tail(node_times(path, engine, tensor, threads=threads))


def share_of_tail(nodes: Sequence[NodeTime]) -> float | None:
    """The share of time of what is no part of a network, of nodes in order of execution.

    Engines do the softmax before the last convolution if they like, so the order alone does not
    tell. What comes before the first convolution prepares the input and is network.
    """
    total = sum(node.milliseconds for node in nodes)
    first = next((k for k, node in enumerate(nodes) if node.kind in NETWORK), len(nodes))
    tail = sum(node.milliseconds for node in nodes[first:] if node.kind not in NETWORK)
    return tail / total if total > 0 else None
