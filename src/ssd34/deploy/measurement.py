"""Numbers that were measured, and of which file: what a model card may print."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssd34.errors import OptionError

KEPT = "measurements"
"""Folder of a package in which they are kept."""
_KINDS = ("accuracy", "latency")


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
    processor: str
    engine: str


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
                found: Accuracy | Latency | None = _latency(values, model_sha256)
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


def measurements_to_keep(files: Iterable[Path]) -> dict[str, Path]:
    """Measured files under the names that they are kept by: one for each model and kind.

    Raises:
        OptionError: a file is no measurement, or two measure the same thing.
    """
    keep: dict[str, Path] = {}
    for file in files:
        values = _parsed(file)
        kind = "latency" if "scenario" in values else "accuracy"
        for model in _models(file, values):
            name = _kept_name(model, kind)
            if name in keep:
                raise OptionError(f"{file}: the second {kind} of the same model; give one")
            keep[name] = file
    return keep


def kept_measurements(
    folder: Path, model_sha256: str, *, newer: Mapping[str, Path]
) -> Measurements:
    """The numbers of one model in a folder of kept files.

    Args:
        folder: of a package; it need not exist.
        model_sha256: of the model.
        newer: files that take the place of those of the same name in the folder.

    Raises:
        OptionError: a kept file of this model is broken.
    """
    names = [_kept_name(model_sha256, kind) for kind in _KINDS]
    files = [newer.get(name, folder / name) for name in names]
    return read_measurements([f for f in files if f.is_file()], model_sha256=model_sha256)


def _kept_name(model_sha256: str, kind: str) -> str:
    return f"{model_sha256[:12]}-{kind}.json"


def _models(file: Path, values: dict[str, Any]) -> set[str]:
    """SHA-256 of the models that a file has numbers of."""
    try:
        rows = values["results"] if "scenario" in values else [values]
        found = {row["model_sha256"] for row in rows}
    except (KeyError, TypeError) as error:
        raise OptionError(f"{file}: a measurement without {error}; measure again") from None
    return {sha for sha in found if isinstance(sha, str) and re.fullmatch("[0-9a-f]{64}", sha)}


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
    if (way := values.get("preprocess", "card")) != "card":
        raise OptionError(
            f"{file}: measured with --preprocess {way}; a card's numbers are of the exact way: "
            "measure without it"
        )
    return Accuracy(
        ap=float(values["summary"]["AP"]),
        ap50=float(values["summary"]["AP50"]),
        pictures=int(values["pictures"]),
        data=Path(values["data"]).name,
        policy=str(values["policy"]),
    )


def _latency(values: dict[str, Any], model_sha256: str) -> Latency | None:
    for row in values["results"]:
        if row["model_sha256"] == model_sha256:
            return Latency(
                network_ms=float(row["network_ms"]["median"]),
                threads=int(row["threads"]),
                processor=str(values["cpu"]["model"]),
                engine=f"{row['engine']} {row['engine_version']}",
            )
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
