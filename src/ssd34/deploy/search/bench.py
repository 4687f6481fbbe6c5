"""What the gate measures: AP and time of an int8 file beside the float file it comes from."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from ssd34.datasets.dataset import Dataset, Problem
from ssd34.deploy.graph.builder import save_model
from ssd34.deploy.graph.export import ExportOptions, network_model
from ssd34.deploy.graph.layers import Network
from ssd34.deploy.int8.calibrate import Statistics
from ssd34.deploy.int8.plan import QuantizeOptions
from ssd34.deploy.int8.quantize import quantized_model
from ssd34.deploy.search.gate import Measured
from ssd34.deploy.search.sensitivity import LayerCost, layer_costs
from ssd34.errors import DatasetError, ImageError
from ssd34.evaluate.evaluator import evaluate_detector
from ssd34.runtime.detector import Detector
from ssd34.runtime.session import Session
from ssd34.runtime.timing import interleaved, speed_up, summary

SENSITIVITY_PICTURES = 8
WARM_UP = 3
"""Rounds before those that are timed."""


class Bench:
    """Measures int8 files against their float file. A context: its files are temporary."""

    def __init__(
        self,
        network: Network,
        statistics: Statistics,
        pictures: Dataset,
        *,
        files: ExportOptions,
        rounds: int = 30,
        threads: int | None = None,
        progress: Callable[[str, int, int], None] = lambda _step, _done, _total: None,
        problem: Callable[[Problem], None] = lambda _: None,
    ) -> None:
        """
        Args:
            network: in float.
            statistics: its calibration.
            pictures: to measure AP on; those used for calibration should not be among them.
            files: what the float file is; int8 files share its policy and kind of input.
            rounds: how often each file is timed in a trial, 1 or more.
            threads: None: what this process may use.
            progress: called with a step, and how much of it is done.
            problem: called for each picture that cannot be measured on.
        """
        self._network = network
        self._statistics = statistics
        self._pictures = pictures
        self._files = files
        self._rounds = rounds
        self._threads = threads
        self._progress = progress
        self._problem = problem
        self._folder = tempfile.TemporaryDirectory(prefix="ssd34-quantize-")

    def __enter__(self) -> Bench:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._folder.cleanup()

    def write(self, options: QuantizeOptions, path: Path) -> None:
        """Write an int8 file, whole or not at all."""
        model = quantized_model(
            self._network,
            self._statistics,
            options,
            policy=self._files.policy,
            image_input=self._files.image_input,
        )
        save_model(model, path)

    def write_float(self, path: Path) -> None:
        """Write the float file that int8 is measured against: the one that ``ssd34 export`` writes
        for the same policy and input."""
        save_model(network_model(self._network, self._files), path)

    def measure(self, options: QuantizeOptions) -> Measured:
        """Make an int8 file and measure it.

        Raises:
            DatasetError: the float network finds nothing on these pictures, so that no loss can
                be measured.
        """
        started = time.monotonic()
        path = Path(self._folder.name) / "int8.onnx"
        self.write(options, path)
        detector = self._detector(path)
        float_ap = self.float_ap
        ap = self._ap(detector)
        tensors = {
            "float": self._float.session.input_for(self._picture),
            "int8": detector.session.input_for(self._picture),
        }
        times = interleaved(
            {
                "float": lambda: self._float.run(tensors["float"]),
                "int8": lambda: detector.run(tensors["int8"]),
            },
            rounds=self._rounds,
            warm_up=WARM_UP,
            progress=lambda done: self._progress("timing", done, WARM_UP + self._rounds),
        )
        return Measured(
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
        pictures: list[NDArray[np.uint8]] = []
        for sample in self._pictures.samples:
            if len(pictures) == SENSITIVITY_PICTURES:
                break
            try:
                pictures.append(self._pictures.read(sample))
            except ImageError:  # the evaluation of the float file reports it
                continue
        total = len(self._network.convs)
        return layer_costs(
            self._network,
            self._statistics,
            options,
            pictures,
            threads=self._threads,
            progress=lambda done: self._progress("ranking layers", done, total),
        )

    @cached_property
    def float_ap(self) -> float:
        """AP of the float file."""
        ap = self._ap(self._float, problem=self._problem)
        if ap == 0:
            raise DatasetError(
                f"{self._pictures.name}: the float network reaches AP 0 on these pictures, so no "
                "loss can be measured; give pictures with objects that it finds"
            )
        return ap

    @cached_property
    def _float(self) -> Detector:
        path = Path(self._folder.name) / "float.onnx"
        self.write_float(path)
        return self._detector(path)

    @cached_property
    def _picture(self) -> NDArray[np.uint8]:
        for sample in self._pictures.samples:
            try:
                return self._pictures.read(sample)
            except ImageError:
                continue
        raise DatasetError(f"{self._pictures.name}: no picture can be read")

    def _detector(self, path: Path) -> Detector:
        return Detector(Session(path, threads=self._threads))

    def _ap(
        self, detector: Detector, *, problem: Callable[[Problem], None] = lambda _: None
    ) -> float:
        total = len(self._pictures)
        metrics, _ = evaluate_detector(
            detector,
            self._pictures,
            progress=lambda done: self._progress("measuring AP", done, total),
            problem=problem,
        )
        return metrics.ap
