"""Calibration: one pass of pictures through the float network, kept as statistics.

The statistics serve every choice that quantization has: the ranges by any method, and the
correction of biases. A picture's tensors are looked at and forgotten, so memory does not grow with
the number of pictures.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from ssd34.core.preprocess import preprocess
from ssd34.data.atomic import written_whole
from ssd34.deploy.graph import GraphBuilder, finished_model
from ssd34.deploy.histogram import BINS, Histogram
from ssd34.deploy.network import IMAGE, Layer, Network, float_layer
from ssd34.errors import ModelError, OptionError
from ssd34.runtime.threads import thread_budget

FORMAT = "ssd34-calibration-1"
_OPSET = 13


@dataclass(frozen=True, eq=False)
class Statistics:
    """What a calibration saw.

    Attributes:
        network: `Network.fingerprint` of the network.
        pictures: how many.
        histograms: of each value: the picture and each layer's output.
        window_means: of each convolution, (I, K, K) float64: the mean over pictures and places of
            what each of its weights is multiplied with, the padding's zeros included.
    """

    network: str
    pictures: int
    histograms: Mapping[str, Histogram]
    window_means: Mapping[str, NDArray[np.float64]]

    def save(self, path: Path) -> None:
        """Write an ``.npz``, whole or not at all."""
        names = list(self.histograms)
        found = [self.histograms[name] for name in names]
        arrays: dict[str, Any] = {
            "format": np.array(FORMAT),
            "network": np.array(self.network),
            "pictures": np.array(self.pictures),
            "values": np.array(names),
            "counts": np.stack([h.counts for h in found]),
            "bounds": np.array([[h.reach, h.smallest, h.largest] for h in found]),
        }
        arrays |= {f"mean/{name}": array for name, array in self.window_means.items()}
        with written_whole(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: Path) -> Statistics:
        """Read what `save` wrote.

        Raises:
            ModelError: missing, broken or another file.
        """
        if not path.is_file():
            raise ModelError(f"{path}: no such calibration file; calibrate anew")
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                if str(file["format"]) != FORMAT:
                    raise ValueError(f"its format is not {FORMAT}")
                counts, bounds = file["counts"], file["bounds"]
                if counts.shape[1:] != (BINS,) or bounds.shape != (len(counts), 3):
                    raise ValueError("its arrays have other shapes")
                histograms = {
                    str(name): Histogram(row, *map(float, bound))
                    for name, row, bound in zip(file["values"], counts, bounds, strict=True)
                }
                means = {
                    key.removeprefix("mean/"): file[key]
                    for key in file.files
                    if key.startswith("mean/")
                }
                return cls(str(file["network"]), int(file["pictures"]), histograms, means)
        except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
            reason = " ".join(str(error).split())[:120]
            raise ModelError(
                f"{path}: not a calibration of ssd34, or broken ({reason}); calibrate anew"
            ) from None

    def check_network(self, network: Network) -> None:
        """
        Raises:
            ModelError: the statistics are of another network or other weights.
        """
        if self.network != network.fingerprint:
            raise ModelError(
                "the calibration belongs to another network or other weights; calibrate anew"
            )


def calibrate(
    network: Network,
    pictures: Iterable[NDArray[np.uint8]],
    *,
    threads: int | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Statistics:
    """Run pictures through the float network and keep statistics of every tensor.

    Args:
        network: in float.
        pictures: each (H, W, 3) uint8 RGB, of any size; read one at a time.
        threads: None: what this process may use.
        progress: called with the number of pictures done.

    Raises:
        OptionError: there are no pictures.
        ModelError: a tensor is not finite.
        ImageError: an array is not a picture.
    """
    run = float_outputs(network, threads=threads)
    histograms = {name: Histogram.empty() for name in (IMAGE, *network.by_name)}
    convs = [layer for layer in network.layers if layer.conv is not None]
    sums = {layer.name: np.zeros(layer.arrays.weight.shape[1:]) for layer in convs}
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
            for layer in convs:
                if name in layer.inputs:
                    sums[layer.name] += window_means(tensor[0], layer)
        count += 1
        progress(count)
    if count == 0:
        raise OptionError(
            "calibration needs at least one picture, got none; a few hundred are good"
        )
    means = {name: total / count for name, total in sums.items()}
    return Statistics(network.fingerprint, count, histograms, means)


def window_means(x: NDArray[np.float32], layer: Layer) -> NDArray[np.float64]:
    """What each weight of a convolution is multiplied with, on average over the places.

    Args:
        x: (I, H, W), the convolution's input.
        layer: the convolution.

    Returns:
        (I, K, K) float64.
    """
    kernel, stride, padding = layer.kernel, layer.stride, layer.padding
    height, width = ((side + 2 * padding - kernel) // stride + 1 for side in x.shape[1:])
    sums = np.zeros((len(x), kernel, kernel), np.float64)
    for column in range(kernel):
        across = x[:, :, _visited(column - padding, width, stride, x.shape[2])].sum(
            axis=2, dtype=np.float64
        )
        for row in range(kernel):
            down = across[:, _visited(row - padding, height, stride, x.shape[1])]
            sums[:, row, column] = down.sum(axis=1)
    sums /= height * width
    return sums


def _visited(offset: int, steps: int, stride: int, side: int) -> slice:
    """The places offset + stride * (0 .. steps - 1) that are not padding."""
    first = offset if offset >= 0 else offset + -(offset // stride) * stride
    return slice(first, max(0, min(side, offset + (steps - 1) * stride + 1)), stride)


def float_outputs(
    network: Network, *, threads: int | None = None
) -> Callable[[NDArray[np.float32]], Iterator[tuple[str, NDArray[np.float32]]]]:
    """Runs the float network; gives the picture and every layer's output, one after the other."""
    builder = GraphBuilder(opset=_OPSET)
    for layer in network.layers:
        float_layer(builder, layer, layer.inputs, layer.name)
    names = list(network.by_name)
    side = network.spec.image_size
    model = finished_model(
        builder,
        inputs=[helper.make_tensor_value_info(IMAGE, TensorProto.FLOAT, [1, 3, side, side])],
        outputs=[helper.make_tensor_value_info(n, TensorProto.FLOAT, [None] * 4) for n in names],
        spec=network.spec,
        labels=network.labels,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or thread_budget()
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # the library has no common base of its own
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"ONNX Runtime cannot load the float network ({reason})") from None

    def run(image: NDArray[np.float32]) -> Iterator[tuple[str, NDArray[np.float32]]]:
        tensors = session.run(names, {IMAGE: image})
        tensors.reverse()
        yield IMAGE, image
        for name in names:
            # Forgotten one by one: at 1200 pixels all together are a gigabyte.
            yield name, tensors.pop()

    return run
