"""Numbers that were measured, and of which file: what a model card may print."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssd34.errors import OptionError


@dataclass(frozen=True)
class Accuracy:
    """A result of ``ssd34 evaluate --json``."""

    ap: float
    ap50: float
    pictures: int
    data: str
    policy: str


@dataclass(frozen=True)
class Latency:
    """A result of ``benchmarks/detect_latency.py --json``; median milliseconds."""

    network_ms: float
    threads: int


@dataclass(frozen=True)
class Measurements:
    """What was measured of one model file; None: nothing was."""

    accuracy: Accuracy | None = None
    latency: Latency | None = None


def read_measurements(files: Iterable[Path], *, model_sha256: str) -> Measurements:
    """The numbers of one model in measured JSON files.

    Args:
        files: what ``evaluate`` or ``detect_latency.py`` wrote. Files of other models are passed
            over.
        model_sha256: of the model.

    Raises:
        OptionError: a file is none of these, or two measure the same thing.
    """
    accuracy: Accuracy | None = None
    latency: Latency | None = None
    for file in files:
        values = _parsed(file)
        if values["model_sha256"] != model_sha256:
            continue
        try:
            metric = values.get("metric", "coco")
            if metric != "coco":
                raise OptionError(
                    f"{file}: measured with the metric {metric}, whose numbers are not COCO's; "
                    "measure without --metric"
                )
            if "policies" in values:
                raise OptionError(
                    f"{file}: holds several policies, the model has one; measure without "
                    "--policy all"
                )
            if "summary" in values:
                found = Accuracy(
                    ap=float(values["summary"]["AP"]),
                    ap50=float(values["summary"]["AP50"]),
                    pictures=int(values["pictures"]),
                    data=Path(values["data"]).name,
                    policy=str(values["policy"]),
                )
                if accuracy:
                    raise OptionError(f"{file}: the second accuracy of the same model; give one")
                accuracy = found
            else:
                if latency:
                    raise OptionError(f"{file}: the second latency of the same model; give one")
                latency = Latency(float(values["network_ms_median"]), int(values["threads"]))
        except (KeyError, TypeError, ValueError) as error:
            raise OptionError(f"{file}: a measurement without {error}; measure again") from None
    return Measurements(accuracy, latency)


def _parsed(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_bytes())
    except ValueError as error:
        raise OptionError(f"{file}: not JSON ({error})") from None
    if not isinstance(values, dict) or "model_sha256" not in values:
        raise OptionError(
            f"{file}: not a measurement: it does not say of which file (model_sha256); expected "
            "what ssd34 evaluate --json wrote"
        )
    return values
