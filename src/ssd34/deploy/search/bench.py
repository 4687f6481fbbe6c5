"""What the gate measures: AP and time of an int8 file beside the float file it comes from."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssd34.datasets.dataset import Dataset, Problem
from ssd34.deploy.graph.builder import save_model
from ssd34.deploy.graph.export import ExportOptions, make_network_model
from ssd34.deploy.graph.layers import Network
from ssd34.deploy.int8.calibrate import CalibrationStatistics
from ssd34.deploy.int8.plan import QuantizeOptions
from ssd34.deploy.int8.quantize import quantize_network
from ssd34.deploy.search.gate import Measurement
from ssd34.deploy.search.sensitivity import LayerCost, measure_layer_costs
from ssd34.errors import DatasetError, ImageError
from ssd34.evaluate.evaluator import evaluate_detector
from ssd34.runtime.detector import Detector
from ssd34.runtime.session import Session
from ssd34.runtime.timing import interleaved, speed_up, summary

SENSITIVITY_PICTURES = 8
WARM_UP = 3
"""Rounds before those that are timed."""


@dataclass
class Bench:
    """Measures int8 files against their float file.

    Attributes:
        network: in float.
        statistics: its calibration.
        pictures: to measure AP on; those used for calibration should not be among them.
        files: what the float file is; int8 files share its policy and kind of input.
        folder: for temporary files.
        rounds: how often each file is timed in a trial, 1 or more.
        threads: None: what this process may use.
        progress: called with a step, and how much of it is done.
        problem: called for each picture that cannot be measured on.
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

    def write_float(self, path: Path) -> None:
        """Write the float file that int8 is measured against: the one that ``ssd34 export`` writes
        for the same policy and input."""
        save_model(make_network_model(self.network, self.files), path)

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
        tensors = {
            "float": self._float.session.input_for(picture),
            "int8": detector.session.input_for(picture),
        }
        times = interleaved(
            {
                "float": lambda: self._float.run(tensors["float"]),
                "int8": lambda: detector.run(tensors["int8"]),
            },
            rounds=self.rounds,
            warm_up=WARM_UP,
            progress=lambda done: self.progress("timing", done, WARM_UP + self.rounds),
        )
        return Measurement(
            ap=ap,
            float_ap=float_ap,
            ms=summary(times["int8"]).median,
            float_ms=summary(times["float"]).median,
            speedup=speed_up(times["float"], times["int8"]),
            seconds=round(time.monotonic() - started, 1),
            file_bytes=path.stat().st_size,
        )

    def ranked(self, options: QuantizeOptions) -> list[LayerCost]:
        """The layers by what int8 costs there per millisecond, worst first."""
        pictures = list(islice(self._readable(), SENSITIVITY_PICTURES))
        total = len(self.network.convs)
        return measure_layer_costs(
            self.network,
            self.statistics,
            options,
            pictures,
            threads=self.threads,
            progress=lambda done: self.progress("ranking layers", done, total),
        )

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
        self.write_float(path)
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
