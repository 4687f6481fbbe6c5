"""Calibration: one pass of pictures through the float network, kept as statistics for every choice
of ranges and for the correction of biases."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from ssd34.core.preprocess import preprocess
from ssd34.deploy.graph.builder import GraphBuilder, add_float_layer, finish_model
from ssd34.deploy.graph.layers import IMAGE, Layer, Network
from ssd34.deploy.int8.ranges import BINS, Histogram
from ssd34.errors import ModelError, OptionError
from ssd34.files.atomic import written_whole
from ssd34.machine import thread_budget, trim_heap
from ssd34.runtime.onnxruntime_engine import onnxruntime, open_onnx, session_options
from ssd34.text import one_line

FORMAT = "ssd34-calibration-2"
CANDIDATE = 0.01
"""A fifth of the usual score threshold, so that quantization cannot lift others above it."""
_HISTOGRAMS = ("histograms", "peaks", "candidates")
_OPSET = 13


@dataclass(frozen=True, eq=False)
class CalibrationStatistics:
    """What a calibration saw.

    Attributes:
        network: `Network.fingerprint` of the network.
        pictures: how many.
        source: which ones, in the words of who calibrated; may be empty.
        histograms: of each value: the picture and each layer's output.
        peaks: of each confidence head: the largest logit of every default box.
        candidates: of each location head: the offsets of the default boxes that may become a
            detection, those with an object's score above `CANDIDATE`.
        window_means: of each convolution, (I, K, K) float64: the mean over pictures and places of
            what each of its weights is multiplied with, the padding's zeros included.
    """

    network: str
    pictures: int
    source: str
    histograms: Mapping[str, Histogram]
    peaks: Mapping[str, Histogram]
    candidates: Mapping[str, Histogram]
    window_means: Mapping[str, NDArray[np.float64]]

    def save(self, path: Path) -> None:
        """Write an ``.npz``, whole or not at all."""
        arrays: dict[str, Any] = {
            "format": np.array(FORMAT),
            "network": np.array(self.network),
            "pictures": np.array(self.pictures),
            "source": np.array(self.source),
        }
        for kind in _HISTOGRAMS:
            found: Mapping[str, Histogram] = getattr(self, kind)
            arrays[f"{kind}.names"] = np.array(list(found))
            arrays[f"{kind}.counts"] = np.stack([h.counts for h in found.values()])
            bounds = [[h.reach, h.smallest, h.largest] for h in found.values()]
            arrays[f"{kind}.bounds"] = np.array(bounds)
        arrays |= {f"mean/{name}": array for name, array in self.window_means.items()}
        with written_whole(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: Path) -> CalibrationStatistics:
        """Read what `save` wrote; ModelError: missing, broken or another file."""
        if not path.is_file():
            raise ModelError(f"{path}: no such calibration file; calibrate again")
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                if str(file["format"]) != FORMAT:
                    raise ValueError(f"its format is not {FORMAT}")
                kinds = {kind: _read_histograms(file, kind) for kind in _HISTOGRAMS}
                means = {
                    key.removeprefix("mean/"): file[key]
                    for key in file.files
                    if key.startswith("mean/")
                }
                network, pictures = str(file["network"]), int(file["pictures"])
                source = str(file["source"])
                return cls(network, pictures, source, **kinds, window_means=means)
        except (
            ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile, zlib.error,
        ) as error:  # fmt: skip
            reason = one_line(error, 120)
            raise ModelError(
                f"{path}: not a calibration of ssd34, or broken ({reason}); calibrate again"
            ) from None

    def check_network(self, network: Network) -> None:
        """Raise a ModelError where the statistics are of another network or other weights."""
        if self.network != network.fingerprint:
            raise ModelError(
                "the calibration belongs to another network or other weights; calibrate again"
            )


def _read_histograms(file: Mapping[str, NDArray[Any]], kind: str) -> dict[str, Histogram]:
    names, counts, bounds = (file[f"{kind}.{part}"] for part in ("names", "counts", "bounds"))
    if counts.shape[1:] != (BINS,) or bounds.shape != (len(counts), 3):
        raise ValueError("its arrays have other shapes")
    return {
        str(name): Histogram(row, *map(float, bound))
        for name, row, bound in zip(names, counts, bounds, strict=True)
    }


def calibrate(
    network: Network,
    pictures: Iterable[NDArray[np.uint8]],
    *,
    source: str = "",
    threads: int | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> CalibrationStatistics:
    """Run pictures, (H, W, 3) uint8 RGB each, through the float network, one at a time, and keep
    statistics of every tensor; `source` tells those of several sets of pictures apart.

    Raises:
        OptionError: there are no pictures.
        ModelError: a tensor is not finite.
        ImageError: an array is not a picture.
    """
    run = prepare_float_run(network, threads=threads)
    histograms = _empty((IMAGE, *network.by_name))
    peaks, candidates = _empty(network.conf), _empty(network.loc)
    level = dict(zip(network.conf, network.loc, strict=True))
    offsets: dict[str, NDArray[np.float32]] = {}
    sums = {layer.name: np.zeros(layer.arrays.weight.shape[1:]) for layer in network.convs}
    count = 0
    for picture in pictures:
        image = preprocess(picture, network.spec.image_size)
        for name, tensor in run(image):
            try:
                histograms[name] = histograms[name].with_values(tensor)
            except ValueError:
                raise ModelError(
                    f"{name} is not finite for calibration picture {count + 1}; the weights are "
                    "broken or overflow"
                ) from None
            for layer in network.convs:
                if name in layer.inputs:
                    sums[layer.name] += compute_window_means(tensor[0], layer)
            if name in candidates:
                offsets[name] = tensor
            elif name in peaks:
                loc = level[name]
                highest, likely = pick_head_values(offsets.pop(loc), tensor)
                peaks[name] = peaks[name].with_values(highest)
                candidates[loc] = candidates[loc].with_values(likely)
        count += 1
        progress(count)
    if count == 0:
        raise OptionError(
            "calibration needs at least one picture, got none; a few hundred are good"
        )
    means = {name: total / count for name, total in sums.items()}
    return CalibrationStatistics(
        network.fingerprint, count, source, histograms, peaks, candidates, means
    )


def _empty(names: Iterable[str]) -> dict[str, Histogram]:
    return {name: Histogram.empty() for name in names}


def pick_head_values(
    loc: NDArray[np.float32], conf: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What of a level's heads decides on detections: of loc (1, boxes * 4, H, W) and conf (1, boxes
    * channels, H, W) the largest logit of each default box, and the offsets (4, M) of those that
    `may_detect`."""
    offsets = loc.reshape(4, -1)
    logits = conf.reshape(-1, offsets.shape[1])
    highest = logits.max(axis=0, keepdims=True)
    return highest[0], offsets[:, may_detect(logits, highest)]


def may_detect(logits: NDArray[np.float32], highest: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(..., A) bool: the default boxes with an object's score above `CANDIDATE`, of logits (...,
    channels, A), channel 0 background, and their `highest` (..., 1, A)."""
    shares = np.exp(logits - highest)
    scores = shares[..., 1:, :].max(axis=-2) / shares.sum(axis=-2)
    return np.asarray(scores > CANDIDATE)


def compute_window_means(x: NDArray[np.float32], layer: Layer) -> NDArray[np.float64]:
    """(I, K, K) float64: what each weight of a convolution is multiplied with, on average over the
    places of its input x (I, H, W)."""
    kernel, stride, padding = layer.kernel, layer.stride, layer.padding
    height, width = ((side + 2 * padding - kernel) // stride + 1 for side in x.shape[1:])
    sums = np.zeros((len(x), kernel, kernel), np.float64)
    whole = x.sum(axis=2, dtype=np.float64) if stride == 1 else None
    for column in range(kernel):
        seen = _visited(column - padding, width, stride, x.shape[2])
        if whole is None:
            across = x[:, :, seen].sum(axis=2, dtype=np.float64)
        else:  # one long sum, less what the window does not reach at the edges
            across = whole - x[:, :, : seen.start].sum(axis=2) - x[:, :, seen.stop :].sum(axis=2)
        for row in range(kernel):
            down = across[:, _visited(row - padding, height, stride, x.shape[1])]
            sums[:, row, column] = down.sum(axis=1)
    sums /= height * width
    return sums


def _visited(offset: int, steps: int, stride: int, side: int) -> slice:
    """The places offset + stride * (0 .. steps - 1) that are not padding."""
    first = offset if offset >= 0 else offset + -(offset // stride) * stride
    return slice(first, max(0, min(side, offset + (steps - 1) * stride + 1)), stride)


def prepare_float_run(
    network: Network, *, threads: int | None = None
) -> Callable[[NDArray[np.float32]], Iterator[tuple[str, NDArray[np.float32]]]]:
    """Runs the float network layer by layer: a function from a picture (1, 3, S, S) to each value's
    name and tensor (1, C, H, W), the picture first.

    Only what is still to be read is kept, and the rest given back to the system: 0.6 GB instead of
    2.4 at 1200 pixels.
    """
    sessions = {layer.name: _layer_session(network, layer, threads) for layer in network.layers}
    last_reader = {name: layer.name for layer in network.layers for name in layer.inputs}

    def run(image: NDArray[np.float32]) -> Iterator[tuple[str, NDArray[np.float32]]]:
        tensors = {IMAGE: image}
        yield IMAGE, image
        for layer in network.layers:
            inputs = {name: tensors[name] for name in layer.inputs}
            tensor: NDArray[np.float32] = sessions[layer.name].run(None, inputs)[0]
            yield layer.name, tensor
            for name in inputs:
                if last_reader[name] == layer.name:
                    del tensors[name]
            trim_heap()
            if layer.name in last_reader:
                tensors[layer.name] = tensor

    return run


def _layer_session(
    network: Network, layer: Layer, threads: int | None
) -> onnxruntime.InferenceSession:
    builder = GraphBuilder(opset=_OPSET)
    output = add_float_layer(builder, layer, layer.inputs)
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, None, None, None])
        for name in (*dict.fromkeys(layer.inputs), output)
    ]
    model = finish_model(
        builder, inputs=ports[:-1], outputs=ports[-1:], spec=network.spec, labels=network.labels
    )
    options = session_options(threads or thread_budget())
    options.log_severity_level = 4
    # Each session would keep the memory of its largest tensors.
    options.enable_cpu_mem_arena = False
    return open_onnx(model.SerializeToString(), options)
