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
    """A result of ``ssd34 benchmark --json``; median milliseconds of one run of the file."""

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
        files: what ``evaluate`` or ``benchmark`` wrote. Other models are passed over; of one that
            was timed several times in one run, the first counts.
        model_sha256: of the model.

    Raises:
        OptionError: a file is none of these, or two measure the same thing.
    """
    accuracy: Accuracy | None = None
    latency: Latency | None = None
    for file in files:
        values = _parsed(file)
        try:
            if "scenario" in values:
                found: Accuracy | Latency | None = _latency(values["results"], model_sha256)
            else:
                found = _accuracy(file, values, model_sha256)
        except (KeyError, TypeError, ValueError) as error:
            raise OptionError(f"{file}: a measurement without {error}; measure again") from None
        if isinstance(found, Accuracy):
            if accuracy:
                raise OptionError(f"{file}: the second accuracy of the same model; give one")
            accuracy = found
        elif found:
            if latency:
                raise OptionError(f"{file}: the second latency of the same model; give one")
            latency = found
    return Measurements(accuracy, latency)


def _accuracy(file: Path, values: dict[str, Any], model_sha256: str) -> Accuracy | None:
    if values["model_sha256"] != model_sha256:
        return None
    metric = values.get("metric", "coco")
    if metric != "coco":
        raise OptionError(
            f"{file}: measured with the metric {metric}, whose numbers are not COCO's; "
            "measure without --metric"
        )
    if "policies" in values:
        raise OptionError(
            f"{file}: holds several policies, the model has one; measure without --policy all"
        )
    if values.get("tail_cut"):
        raise OptionError(
            f"{file}: measured under the policy {values['policy']} instead of the model's own "
            "tail; measure without --policy"
        )
    return Accuracy(
        ap=float(values["summary"]["AP"]),
        ap50=float(values["summary"]["AP50"]),
        pictures=int(values["pictures"]),
        data=Path(values["data"]).name,
        policy=str(values["policy"]),
    )


def _latency(results: list[dict[str, Any]], model_sha256: str) -> Latency | None:
    for values in results:
        if values["model_sha256"] == model_sha256:
            return Latency(float(values["network_ms"]["median"]), int(values["threads"]))
    return None


def _parsed(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_bytes())
    except ValueError as error:
        raise OptionError(f"{file}: not JSON ({error})") from None
    if not isinstance(values, dict) or not {"model_sha256", "scenario"} & set(values):
        raise OptionError(
            f"{file}: not a measurement: it does not say of which file (model_sha256); expected "
            "what ssd34 evaluate --json or ssd34 benchmark --json wrote"
        )
    return values
