"""What the gate measures, AP and time of an int8 file beside its float file; and which layers lose
most by int8, the order in which they go back to float."""

from __future__ import annotations

import dataclasses
import re
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray

from ssd34.datasets.dataset import Dataset, Problem
from ssd34.deploy.graph.builder import save_model
from ssd34.deploy.graph.export import ExportOptions, make_network_model
from ssd34.deploy.graph.layers import Network
from ssd34.deploy.int8.calibrate import CalibrationStatistics, may_detect
from ssd34.deploy.int8.plan import NEGLIGIBLE, QuantizeOptions
from ssd34.deploy.int8.quantize import quantize_network
from ssd34.deploy.search.gate import Measurement
from ssd34.errors import DatasetError, ImageError
from ssd34.evaluate.evaluator import evaluate_detector
from ssd34.runtime.detector import Detector
from ssd34.runtime.session import Session
from ssd34.runtime.timing import NodeTime, interleaved, measure_node_times, speed_up, summary

SENSITIVITY_PICTURES = 8
WARM_UP = 3
"""Rounds before those that are timed."""

LEAST_MS = 1e-3
"""What a layer that int8 does not make faster counts as saving: it goes back to float early."""


@dataclass
class Bench:
    """Measures int8 files against their float file.

    Attributes:
        pictures: to measure AP on; those used for calibration should not be among them.
        files: what the float file is; int8 files share its policy and kind of input.
        threads: None: what this process may use.
    """

    network: Network
    statistics: CalibrationStatistics
    pictures: Dataset
    files: ExportOptions
    folder: Path
    rounds: int = 30
    threads: int | None = None
    progress: Callable[[str, int, int], None] = lambda _step, _done, _total: None
    problem: Callable[[Problem], None] = lambda _: None

    def write(self, options: QuantizeOptions, path: Path) -> None:
        """Write an int8 file, whole or not at all."""
        policy, image_input = self.files.policy, self.files.image_input
        model = quantize_network(
            self.network, self.statistics, options, policy=policy, image_input=image_input
        )
        save_model(model, path)

    def measure(self, options: QuantizeOptions) -> Measurement:
        """Make an int8 file and measure it. DatasetError: the float network finds nothing on these
        pictures, so that no loss can be measured."""
        started = time.monotonic()
        path = self.folder / "int8.onnx"
        self.write(options, path)
        detector = self._detector(path)
        float_ap = self.float_ap
        ap = self._ap(detector)
        picture = next(self._readable())  # there is one, as the float file found something
        times = interleaved(
            {
                name: partial(each.run, each.session.input_for(picture))
                for name, each in (("float", self._float), ("int8", detector))
            },
            rounds=self.rounds,
            warm_up=WARM_UP,
            progress=lambda done: self.progress("timing", done, WARM_UP + self.rounds),
        )
        return Measurement(
            ap=ap, float_ap=float_ap, ms=summary(times["int8"]).median,
            float_ms=summary(times["float"]).median,
            speedup=speed_up(times["float"], times["int8"]),
            seconds=round(time.monotonic() - started, 1), file_bytes=path.stat().st_size,
        )  # fmt: skip

    def ranked(self, options: QuantizeOptions) -> list[LayerCost]:
        """The layers by what int8 costs there per millisecond, worst first."""
        pictures = list(islice(self._readable(), SENSITIVITY_PICTURES))
        total = len(self.network.convs)
        return measure_layer_costs(
            self.network, self.statistics, options, pictures, threads=self.threads,
            progress=lambda done: self.progress("ranking layers", done, total),
        )  # fmt: skip

    @cached_property
    def float_ap(self) -> float:
        """AP of the float file."""
        ap = self._ap(self._float, problem=self.problem)
        if ap == 0:
            raise DatasetError(
                f"{self.pictures.name}: the float network reaches AP 0 on these pictures, so no "
                "loss can be measured; give pictures with objects that it finds"
            )
        return ap

    @cached_property
    def _float(self) -> Detector:
        path = self.folder / "float.onnx"
        save_model(make_network_model(self.network, self.files), path)
        return self._detector(path)

    def _readable(self) -> Iterator[NDArray[np.uint8]]:
        for sample in self.pictures.samples:
            # The evaluation of the float file reports those that cannot be read.
            with suppress(ImageError):
                yield self.pictures.read(sample)

    def _detector(self, path: Path) -> Detector:
        return Detector(Session(path, threads=self.threads))

    def _ap(
        self, detector: Detector, *, problem: Callable[[Problem], None] = lambda _: None
    ) -> float:
        total = len(self.pictures)
        metrics, _ = evaluate_detector(
            detector,
            self.pictures,
            progress=lambda done: self.progress("measuring AP", done, total),
            problem=problem,
        )
        return metrics.ap


@dataclass(frozen=True)
class LayerCost:
    """What int8 costs and saves in one layer.

    Attributes:
        noise: mean square of the change of what decides on detections when this layer alone is
            in int8, as `measure_output_noise` measures it.
        float_ms: what it takes in the file without int8, by the engine's profile. What was merged
            into it counts as its own, for example an addition.
        int8_ms: what it takes in the file with everything in int8.
    """

    name: str
    noise: float
    float_ms: float
    int8_ms: float

    @property
    def noise_per_ms(self) -> float:
        """What decides the order."""
        return self.noise / max(self.float_ms - self.int8_ms, LEAST_MS)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form; `from_dict` is its inverse."""
        return {**dataclasses.asdict(self), "noise_per_ms": self.noise_per_ms}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LayerCost:
        """The inverse of `to_dict`; msgspec.ValidationError: a value is missing or no number."""
        return msgspec.convert(values, cls)


def measure_layer_costs(
    network: Network,
    statistics: CalibrationStatistics,
    options: QuantizeOptions,
    pictures: Sequence[NDArray[np.uint8]],
    *,
    threads: int | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> list[LayerCost]:
    """The cost of every convolution, the worst per millisecond first, over a few pictures, each (H,
    W, 3) uint8 RGB."""
    convolutions = [layer.name for layer in network.convs]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layer.onnx"

        def loaded(model: onnx.ModelProto) -> Session:
            path.write_bytes(model.SerializeToString())
            return Session(path, threads=threads)

        def quantized(in_float: Iterable[str] = ()) -> Session:
            chosen = options.replace(float_nodes=tuple(in_float))
            return loaded(quantize_network(network, statistics, chosen, policy=None))

        def outputs(session: Session) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
            found = [session.compute([session.prepare(picture)])[0] for picture in pictures]
            loc, conf = map(np.stack, zip(*found, strict=True))
            return loc, conf

        def times(session: Session) -> dict[str, float]:
            tensor = session.input_for(pictures[0])
            nodes = measure_node_times(path, session.engine.name, tensor, threads=session.threads)
            return sum_layer_times(nodes, convolutions)

        exported = ExportOptions(opset=options.opset, policy=None)
        float_session = loaded(make_network_model(network, exported))
        reference, float_ms = outputs(float_session), times(float_session)
        int8_ms = times(quantized())
        costs: list[LayerCost] = []
        for name in convolutions:
            changed = outputs(quantized(other for other in network.by_name if other != name))
            noise = measure_output_noise(reference, changed)
            costs.append(LayerCost(name, noise, float_ms[name], int8_ms[name]))
            progress(len(costs))
    return sorted(costs, key=lambda cost: -cost.noise_per_ms)


def measure_output_noise(
    reference: tuple[NDArray[np.float32], NDArray[np.float32]],
    changed: tuple[NDArray[np.float32], NDArray[np.float32]],
) -> float:
    """The change of raw outputs, loc (N, 4, A) and conf (N, channels, A), as far as it decides on
    detections: mean squares as shares of the variances, together.

    What int8 cuts off on purpose (`choose_head_ranges`) does not count: negligible logits, and the
    offsets of boxes that are no detection's.
    """
    (loc, conf), (new_loc, new_conf) = reference, changed
    highest = conf.max(axis=1, keepdims=True)
    likely = may_detect(conf, highest)
    if not likely.any():
        likely[:] = True
    lowest = highest - NEGLIGIBLE
    pairs = (
        (loc.swapaxes(0, 1)[:, likely], new_loc.swapaxes(0, 1)[:, likely]),
        (np.maximum(conf, lowest), np.maximum(new_conf, lowest)),
    )
    return sum(float(np.mean((b - a) ** 2) / max(float(a.var()), 1e-12)) for a, b in pairs)


def sum_layer_times(nodes: Sequence[NodeTime], layers: Collection[str]) -> dict[str, float]:
    """Milliseconds of each layer. Engines add to the names of layers, as in
    ``backbone.conv1.relu_nchwc`` and ``backbone.conv1_token_21``."""
    times = dict.fromkeys(layers, 0.0)
    longest_first = sorted(layers, key=len, reverse=True)
    pattern = re.compile(rf"({'|'.join(map(re.escape, longest_first))})(?![0-9A-Za-z])")
    for node in nodes:
        if found := pattern.match(node.name):
            times[found[1]] += node.milliseconds
    return times
