"""A checkpoint whose scores mean what they say, once it is exported.

With q the background's share of a box, an offset b on its logit turns a score p into
p / (1 - q + q exp(b)). So each detection is kept as p, q and whether it is right.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd34.core.contract import ScoreCalibration
from ssd34.core.default_boxes import decode, default_boxes_cxcywh
from ssd34.core.postprocess import ZOO, Picked, Policy, pick, pick_rows, softmax
from ssd34.datasets.dataset import Dataset, Problem, Sample
from ssd34.deploy.graph.builder import save_model
from ssd34.deploy.graph.export import ExportOptions, make_onnx_model
from ssd34.errors import DatasetError
from ssd34.evaluate.curves import CalibrationCurve, measure_calibration
from ssd34.evaluate.evaluator import detect_all, stage_detector
from ssd34.evaluate.metrics import FOUND, NOT_COUNTED, match_categories, match_detections
from ssd34.evaluate.results import Results
from ssd34.evaluate.score import Score, ScoreOptions, score
from ssd34.files.checkpoint import Checkpoint
from ssd34.runtime.detector import Detector
from ssd34.runtime.session import Session
from ssd34.text import counted

FLOOR = 0.05
"""Raw scores from here on are fitted: far below, boxes are many and nobody looks at them."""

LARGEST_OFFSET = 6.0
FEWEST_RIGHT = 20
"""Right detections that a fit needs; with so many its offset is still uncertain by half a unit."""

_STEP = 0.25
_CLOSE = 1e-4
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, eq=False)
class Scored:
    """Detections, and whether they are right at IoU 0.5; those in crowds or on difficult boxes are
    left out.

    Attributes:
        scores: (D,) float64, raw.
        backgrounds: (D,) float64: the background's share in each one's default box.
        right: (D,) bool.
    """

    scores: NDArray[np.float64]
    backgrounds: NDArray[np.float64]
    right: NDArray[np.bool_]

    def error(self, offset: float) -> float:
        """Mean negative log likelihood of right and wrong, with an offset on the background."""
        scores = self.scores / (1 + self.backgrounds * math.expm1(offset))
        wrong = np.log1p(-np.minimum(scores, 1 - 1e-12))
        return float(-np.where(self.right, np.log(scores), wrong).mean())

    def to_dict(self, offset: float) -> dict[str, Any]:
        """A JSON-ready form, with the error before and after an offset."""
        return {
            "detections": len(self.right),
            "right": int(self.right.sum()),
            "from_score": FLOOR,
            "error_before": self.error(0.0),
            "error_after": self.error(offset),
        }


def fit_offset(scored: Scored, *, name: str) -> ScoreCalibration:
    """The offset with the smallest error, by a grid and golden sections. DatasetError, with the
    data set's name: too few detections are right, none is wrong, or none within `LARGEST_OFFSET`
    is the best."""
    right, count = int(scored.right.sum()), len(scored.right)
    if right < FEWEST_RIGHT or right == count:
        raise DatasetError(
            f"{name}: {right} of {counted(count, 'detection')} that score {FLOOR:g} or more are "
            f"right; expected at least {FEWEST_RIGHT}, and some that are not: give more annotated "
            "pictures, of classes that the model knows"
        )
    grid = np.arange(-LARGEST_OFFSET, LARGEST_OFFSET + _STEP / 2, _STEP)
    best = float(grid[np.argmin([scored.error(offset) for offset in grid])])
    if abs(best) == LARGEST_OFFSET:
        raise DatasetError(
            f"{name}: the best offset is {best:+g} or further off, expected it within "
            f"{LARGEST_OFFSET:g} of 0: the boxes do not belong to the pictures, or the model was "
            "not trained"
        )
    low, high = best - _STEP, best + _STEP
    while high - low > _CLOSE:
        lower, upper = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        if scored.error(lower) <= scored.error(upper):
            high = upper
        else:
            low = lower
    return ScoreCalibration(background_offset=round((low + high) / 2, 3))


@dataclass(frozen=True)
class Reliability:
    """COCO's numbers on some pictures, and the share of right detections by score."""

    score: Score
    curve: CalibrationCurve

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return {**self.score.to_dict(), "calibration": dataclasses.asdict(self.curve)}


def look_at_scores(
    detector: Detector,
    dataset: Dataset,
    calibrations: Sequence[ScoreCalibration | None] = (),
    *,
    policy: Policy = ZOO,
    progress: Callable[[int], None] = lambda _: None,
    problem: Callable[[Problem], None] = lambda _: None,
) -> tuple[Scored, tuple[Reliability, ...]]:
    """Run a network over pictures once: its raw scores, and what some calibrations make of them.

    Args:
        detector: a file that ends at raw outputs and is not calibrated.
        dataset: annotated pictures; the `problem` is told which are unreadable and left out.
        calibrations: what to measure; None: raw scores.
        policy: how detections are picked to measure them.

    Raises:
        DatasetError: no class in common, or no picture can be read.
    """
    known = match_categories(detector.labels, dataset) >= 0
    default_boxes = default_boxes_cxcywh(detector.spec)
    fitted = ZOO.replace(score_threshold=FLOOR)
    backgrounds: list[NDArray[np.float32]] = []

    def pick_all(raw: tuple[NDArray[np.float32], NDArray[np.float32]]) -> tuple[Picked, ...]:
        loc, conf = raw
        boxes, scores = decode(loc, default_boxes), softmax(conf)
        rows, labels = pick_rows(boxes, scores, policy=fitted)
        rows, labels = rows[known[labels]], labels[known[labels]]
        # One thread brings the pictures here, in their order.
        backgrounds.append(scores[0, rows])
        logits = [conf if one is None else one.apply(conf) for one in calibrations]
        return (
            Picked(boxes[rows], labels, scores[labels, rows]),
            *(pick(boxes, softmax(each), policy=policy) for each in logits),
        )

    stages = dataclasses.replace(stage_detector(detector), pick=pick_all)
    parts: list[tuple[Results, ...]] = []
    readable: list[Sample] = []
    for done, found in enumerate(detect_all(stages, dataset, detector.labels), start=1):
        if found.problem:
            problem(found.problem)
        else:
            parts.append(found.results)
            readable.append(found.sample)
        progress(done)
    if not parts:
        raise DatasetError(f"{dataset.name}: none of its pictures can be read; check their files")
    seen = dataclasses.replace(dataset, samples=tuple(readable))
    first, *others = (Results.joined(each) for each in zip(*parts, strict=True))
    _, found_first = match_detections(seen, first)
    counts = found_first.status != NOT_COUNTED
    scored = Scored(
        scores=first.scores[counts],
        backgrounds=np.concatenate(backgrounds)[counts].astype(np.float64),
        right=found_first.status[counts] == FOUND,
    )
    return scored, tuple(
        Reliability(
            score(seen, results, ScoreOptions(resamples=0)),
            measure_calibration(match_detections(seen, results)[0]),
        )
        for results in others
    )


def split_in_halves(dataset: Dataset, *, seed: int) -> tuple[Dataset, Dataset]:
    """Two halves of two or more pictures by chance, each in its order, else a DatasetError."""
    if len(dataset) < 2:
        raise DatasetError(
            f"{dataset.name}: has {counted(len(dataset), 'picture')}; expected two or more, to fit "
            "on one half and measure on the other"
        )
    order = np.random.default_rng(seed).permutation(len(dataset))
    half = len(order) // 2
    return choose_samples(dataset, order[:half]), choose_samples(dataset, order[half:])


def choose_samples(dataset: Dataset, indices: NDArray[np.int64]) -> Dataset:
    """Only some pictures (N,) int64 of a data set, in its order."""
    samples = tuple(dataset.samples[i] for i in np.sort(indices))
    return dataclasses.replace(dataset, samples=samples)


@dataclass(frozen=True, eq=False)
class CalibratedScores:
    """The same weights with a calibration beside them, what it was fitted on, and what it has not
    seen, with raw scores `before` and calibrated ones `after`."""

    checkpoint: Checkpoint
    calibration: ScoreCalibration
    fitted: Scored
    held_out: Scored
    before: Reliability
    after: Reliability

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
    *,
    policy: Policy = ZOO,
    threads: int | None = None,
    progress: Callable[[int], None] = lambda _: None,
    problem: Callable[[Problem], None] = lambda _: None,
) -> CalibratedScores:
    """Fit the background offset on some pictures and measure it on others.

    Args:
        checkpoint: a calibration that it has already is replaced.
        fit: annotated pictures that the network was not trained on.
        held_out: others.
        policy: how detections are picked to measure them; the fit has one of its own.
        threads: None: what this process may use; progress and problem as of `look_at_scores`.

    Raises:
        DatasetError: no class in common with the model, or too few right detections to fit.
        CheckpointError: an array is missing.
    """
    raw = dataclasses.replace(checkpoint, score_calibration=None)
    with tempfile.TemporaryDirectory(prefix="ssd34-") as folder:
        path = Path(folder) / "raw.onnx"
        save_model(make_onnx_model(raw, ExportOptions(policy=None)), path)
        detector = Detector(Session(path, threads=threads))
        fitted, _ = look_at_scores(detector, fit, progress=progress, problem=problem)
        calibration = fit_offset(fitted, name=fit.name)
        others, (before, after) = look_at_scores(
            detector, held_out, (None, calibration), policy=policy,
            progress=lambda done: progress(len(fit) + done), problem=problem,
        )  # fmt: skip
    changed = dataclasses.replace(raw, score_calibration=calibration)
    return CalibratedScores(changed, calibration, fitted, others, before, after)
