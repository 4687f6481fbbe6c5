"""A checkpoint whose scores mean what they say, once it is exported."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssd34.core.postprocess import ZOO, Policy
from ssd34.core.score_calibration import ScoreCalibration
from ssd34.datasets.dataset import Dataset, Problem
from ssd34.deploy.graph.builder import save_model
from ssd34.deploy.graph.export import ExportOptions, onnx_model
from ssd34.evaluate.score_fit import Measured, Scored, fit_offset, look_at_scores
from ssd34.files.checkpoint import Checkpoint
from ssd34.runtime.detector import Detector
from ssd34.runtime.session import Session


@dataclass(frozen=True, kw_only=True)
class CalibrateOptions:
    """How scores are calibrated.

    Attributes:
        policy: how detections are picked to measure them; the fit has one of its own.
        threads: None: what this process may use.
    """

    policy: Policy = ZOO
    threads: int | None = None


@dataclass(frozen=True, eq=False)
class CalibratedScores:
    """A fit, and what it changes on pictures that it has not seen.

    Attributes:
        checkpoint: the same weights, with the calibration beside them.
        calibration: what was fitted.
        fitted: the detections that it was fitted on.
        held_out: those of the other pictures.
        before: raw scores there.
        after: calibrated ones.
    """

    checkpoint: Checkpoint
    calibration: ScoreCalibration
    fitted: Scored
    held_out: Scored
    before: Measured
    after: Measured

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        offset = self.calibration.background_offset
        return {
            "background_offset": offset,
            "fit": self.fitted.to_dict(offset),
            "held_out": {
                **self.held_out.to_dict(offset),
                "before": self.before.to_dict(),
                "after": self.after.to_dict(),
            },
        }


def calibrate_scores(
    checkpoint: Checkpoint,
    fit: Dataset,
    held_out: Dataset,
    options: CalibrateOptions,
    *,
    progress: Callable[[int], None] = lambda _: None,
    problem: Callable[[Problem], None] = lambda _: None,
) -> CalibratedScores:
    """Fit the background offset on some pictures and measure it on others.

    Args:
        checkpoint: a calibration that it has already is replaced.
        fit: annotated pictures that the network was not trained on.
        held_out: others.
        options: how.
        progress: called with the number of pictures done, of both.
        problem: called for each unreadable picture, which is left out.

    Raises:
        DatasetError: no class in common with the model, or too few right detections to fit.
        CheckpointError: an array is missing.
    """
    raw = dataclasses.replace(checkpoint, score_calibration=None)
    with tempfile.TemporaryDirectory(prefix="ssd34-") as folder:
        path = Path(folder) / "raw.onnx"
        save_model(onnx_model(raw, ExportOptions(policy=None)), path)
        detector = Detector(Session(path, threads=options.threads))
        fitted, _ = look_at_scores(detector, fit, progress=progress, problem=problem)
        calibration = fit_offset(fitted, name=fit.name)
        others, (before, after) = look_at_scores(
            detector,
            held_out,
            (None, calibration),
            policy=options.policy,
            progress=lambda done: progress(len(fit) + done),
            problem=problem,
        )
    changed = dataclasses.replace(raw, score_calibration=calibration)
    return CalibratedScores(changed, calibration, fitted, others, before, after)
