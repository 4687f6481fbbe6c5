"""The settings of ``ssd34 quantize``, from a YAML file and the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from ssd34.deploy.int8.plan import Percentile, QuantizeOptions, Ranges
from ssd34.deploy.int8.quantize import PUBLISHED_FORMS
from ssd34.deploy.search.gate import Criterion
from ssd34.deploy.search.search import Budget
from ssd34.errors import OptionError, require
from ssd34.runtime.onnxruntime_engine import int8_saturates
from ssd34.setting_types import Count, Share, check_fields, read_fields
from ssd34.text import parse_yaml

MAX_CONFIG_BYTES = 1_000_000


@dataclass(frozen=True, kw_only=True)
class CalibrationSettings:
    """Which pictures the ranges come from: a folder or data set (None: a part of the evaluation
    pictures), and at most how many."""

    data: Annotated[str, Meta(min_length=1)] | None = None
    pictures: Count = 200

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """What is tried.

    Attributes:
        forms: kinds of file, each searched for on its own: ``12-int8`` (QOperator), ``12-qdq``
            (QDQ, one scale for each weight, as published), ``13-qdq`` (QDQ, a scale for each
            channel).
        ranges: ways of finding ranges, in the order in which they are tried.
        percentile: for the ranges of that name.
        bias_correction, float_nodes: as in `QuantizeOptions`, for all trials.
        reduce_range: weights of 7 bits in all trials; None: if this processor's fast int8
            arithmetic is wrong with 8, as without VNNI.
        image_input: ``float32`` or ``uint8``, as for export.
        score_threshold: of the NMS in the files; None: see `ssd34.workflows.quantize.quantize`.
    """

    forms: Annotated[tuple[Literal["12-int8", "12-qdq", "13-qdq"], ...], Meta(min_length=1)] = (
        "12-int8",
    )
    ranges: Annotated[tuple[Ranges, ...], Meta(min_length=1)] = (
        "minmax", "percentile", "mse", "entropy",
    )  # fmt: skip
    percentile: Percentile = 99.99
    bias_correction: bool = True
    reduce_range: bool | None = None
    float_nodes: tuple[str, ...] = ()
    image_input: Literal["float32", "uint8"] = "float32"
    score_threshold: Share | None = None

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def narrow_weights(self) -> bool:
        """Whether the weights get 7 bits."""
        return int8_saturates() if self.reduce_range is None else self.reduce_range

    def candidates(self, form: str) -> list[QuantizeOptions]:
        """The options to try for a form, in order."""
        return [
            PUBLISHED_FORMS[form].replace(
                ranges=ranges,
                percentile=self.percentile,
                bias_correction=self.bias_correction,
                reduce_range=self.narrow_weights,
                float_nodes=tuple(sorted(self.float_nodes)),
            )
            for ranges in self.ranges
        ]


@dataclass(frozen=True, kw_only=True)
class QuantizeConfig:
    """All settings; each part is a section of the YAML file.

    Attributes:
        calibration: which pictures the ranges come from.
        quantization: what is tried.
        criterion: what is good enough.
        search: how long to look for it.
        rounds: how often each file is timed in a trial.
        seen: data sets that the network was trained on; the proof says how many of the pictures
            measured on are among them.
    """

    calibration: CalibrationSettings = field(default_factory=CalibrationSettings)
    quantization: Quantization = field(default_factory=Quantization)
    criterion: Criterion = field(default_factory=Criterion)
    search: Budget = field(default_factory=Budget)
    rounds: Count = 30
    seen: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form; `from_dict` is its inverse."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> QuantizeConfig:
        """The settings of a mapping; what it leaves out keeps its default. OptionError: one is
        unknown or not allowed."""
        return read_fields(cls, values)

    def changed(self, changes: Mapping[str, Mapping[str, Any] | Any]) -> QuantizeConfig:
        """A copy with some settings changed; None changes nothing."""
        values = self.to_dict()
        for name, value in changes.items():
            if isinstance(value, Mapping):
                values[name] |= {key: v for key, v in value.items() if v is not None}
            elif value is not None:
                values[name] = value
        return self.from_dict(values)


def read_config(path: Path) -> QuantizeConfig:
    """Read a YAML file of settings; OptionError: missing, not YAML, a key stands twice, or a
    setting is not as expected."""
    require("yaml", extra="quantize", why="a YAML configuration")
    if not path.is_file():
        raise OptionError(f"{path}: no such file; expected a YAML file of settings")
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise OptionError(f"{path}: too large for a file of settings")
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OptionError(f"{path}: not YAML ({error!s:.160})") from None
    try:
        return QuantizeConfig.from_dict({} if values is None else values)
    except OptionError as error:
        raise OptionError(f"{path}: {error}") from None
