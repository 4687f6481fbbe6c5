"""The gate: an int8 file is accepted only if it is proven accurate and faster on this machine."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from ssd34.deploy.int8.plan import QuantizeOptions
from ssd34.files.atomic import written_whole
from ssd34.files.cache import drawing
from ssd34.runtime.timing import SpeedUp
from ssd34.setting_types import Share, check_fields


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """What is good enough.

    Attributes:
        max_drop: largest loss of AP; 0.003 is 0.3 % where it is relative.
        drop: ``"relative"``: a share of the float network's AP; ``"absolute"``: a difference of AP.
        min_speedup: smallest ratio of the float file's time to the int8 file's. The low end of the
            measured interval has to reach it.
    """

    max_drop: Share = 0.003
    drop: Literal["relative", "absolute"] = "relative"
    min_speedup: Annotated[float, Meta(gt=0, le=100)] = 1.5

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One int8 file, measured against the float file.

    Attributes:
        ap: of the int8 file, over the same pictures as `float_ap`.
        ms: median of one picture through the int8 file, in milliseconds.
        float_ms: of the float file, in turns with it.
        seconds: what measuring took.
    """

    ap: float
    float_ap: float
    ms: float
    float_ms: float
    speedup: SpeedUp
    seconds: float
    file_bytes: int


@dataclass(frozen=True, kw_only=True)
class Trial(Measurement):
    """A measurement with the gate's verdict.

    Attributes:
        drop: loss of AP in the criterion's measure; below 0 where int8 is the better one.
    """

    number: int
    options: QuantizeOptions
    drop: float
    accurate: bool
    fast: bool

    @property
    def accepted(self) -> bool:
        """Whether it passes the gate."""
        return self.accurate and self.fast

    @property
    def verdict(self) -> str:
        """In words."""
        if self.accepted:
            return "accepted"
        failed = [word for word, ok in (("AP", self.accurate), ("speed", self.fast)) if not ok]
        return f"fails on {' and '.join(failed)}"

    @property
    def passes_with(self) -> dict[str, float]:
        """The fields of the criterion that it fails on, each with the next rounder value that it
        would pass with; none where it fails as half of the AP or more is lost."""
        if not self.accurate and self.ap <= self.float_ap / 2:
            return {}
        eased = {}
        if not self.accurate:
            eased["max_drop"] = math.ceil(self.drop * 1e4) / 1e4
        if not self.fast:
            eased["min_speedup"] = math.floor(self.speedup.low * 1e3) / 1e3 or self.speedup.low
        return eased

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form; `from_dict` is its inverse."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            **values,
            "options": self.options.to_dict(),
            "speedup": dataclasses.asdict(self.speedup),
            "accepted": self.accepted,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Trial:
        """The inverse of `to_dict`; OptionError: an option is unknown or not allowed,
        msgspec.ValidationError: another value is missing or of another type."""
        trial = msgspec.convert(values, cls)
        return dataclasses.replace(trial, options=QuantizeOptions.from_dict(values["options"]))


def judge(
    measured: Measurement, options: QuantizeOptions, *, number: int, criterion: Criterion
) -> Trial:
    """A measurement with the gate's verdict."""
    lost = measured.float_ap - measured.ap
    drop = lost / measured.float_ap if criterion.drop == "relative" else lost
    return Trial(
        number=number, options=options, drop=drop, accurate=drop <= criterion.max_drop,
        fast=measured.speedup.low >= criterion.min_speedup,
        **{f.name: getattr(measured, f.name) for f in dataclasses.fields(Measurement)},
    )  # fmt: skip


@drawing(extra="quantize", why="the plot of the trials")
def plot_trials(trials: Sequence[Trial], path: Path, *, criterion: Criterion, title: str) -> None:
    """Write a PNG of the trials of one float file: accepted ones filled, with the gate and the
    Pareto front. MissingExtraError: matplotlib is not installed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    first = trials[0]
    axes.scatter([first.float_ms], [first.float_ap], marker="*", s=140, color="#444444")
    axes.annotate("float", (first.float_ms, first.float_ap), (-8, -16),
                  textcoords="offset points", ha="right")  # fmt: skip
    for trial in trials:
        axes.scatter(
            [trial.ms], [trial.ap], s=60, zorder=3, edgecolors="#1f6fb2",
            facecolors="#1f6fb2" if trial.accepted else "none",
        )  # fmt: skip
        axes.annotate(str(trial.number), (trial.ms, trial.ap), (6, 5), textcoords="offset points")
    front = find_pareto_front(trials)
    axes.plot([t.ms for t in front], [t.ap for t in front], color="#1f6fb2", alpha=0.4, zorder=2)
    allowed = criterion.max_drop * (first.float_ap if criterion.drop == "relative" else 1)
    axes.axhline(first.float_ap - allowed, color="#b23a1f", ls="--", lw=1)
    axes.axvline(first.float_ms / criterion.min_speedup, color="#b23a1f", ls="--", lw=1)
    axes.set_xlim(left=0)
    axes.set_xlabel("milliseconds a picture, median")
    axes.set_ylabel("AP")
    title = title.encode(errors="backslashreplace").decode()  # a file may be called in any bytes
    axes.set_title(f"{title}\nfilled: accepted; dashed: the gate; line: Pareto front", fontsize=10)
    axes.grid(alpha=0.3)
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def find_pareto_front(trials: Sequence[Trial]) -> list[Trial]:
    """The trials that no other one beats in both AP and time, fastest first."""
    front: list[Trial] = []
    for trial in sorted(trials, key=lambda t: (t.ms, -t.ap)):
        if not front or trial.ap > front[-1].ap:
            front.append(trial)
    return front
