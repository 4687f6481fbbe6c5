"""Numbers that were measured, and of which file: what a model card may print."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ssd34.errors import OptionError
from ssd34.runtime.engine import ONNXRUNTIME
from ssd34.runtime.timing import SINGLE_STREAM

KEPT = "measurements"
"""Folder of a package in which they are kept."""
T = TypeVar("T", "Accuracy", "Latency")


@dataclass(frozen=True)
class Accuracy:
    """A result of ``ssd34 evaluate --json``.

    Attributes:
        ap, ap50: COCO's box AP, and that at IoU 0.50.
        pictures: of the data set, how many were evaluated.
        policy: how detections were picked.
        unreadable: pictures that could not be read and count as empty.
        engine: the name of what ran the file.
    """

    ap: float
    ap50: float
    pictures: int
    data: str
    policy: str
    unreadable: int
    engine: str


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


def choose_measurements(files: Iterable[Path]) -> dict[str, bytes]:
    """The contents of measured files by the names that they are kept under: one for each model and
    kind. OptionError: a file is no measurement, holds numbers that no card may print, or two
    measure the same thing."""
    keep: dict[str, bytes] = {}
    for file in files:
        content = file.read_bytes()
        for model, found in _measured(file, content).items():
            if not re.fullmatch("[0-9a-f]{64}", model):  # it becomes part of a file name
                continue
            name = _kept_name(model, type(found))
            if name in keep:
                kind = type(found).__name__.lower()
                raise OptionError(f"{file}: the second {kind} of the same model; give one")
            keep[name] = content
    return keep


def read_measurements(
    folder: Path, model_sha256: str, *, newer: Mapping[str, bytes]
) -> Measurements:
    """The numbers of one model in a package's folder of kept files, which need not exist; the
    contents of `newer` ones take the place of those of the same name. OptionError: a kept file of
    this model is broken."""

    def read(kind: type[T]) -> T | None:
        file = folder / _kept_name(model_sha256, kind)
        content = newer.get(file.name)
        if content is None and file.is_file():
            content = file.read_bytes()
        found = None if content is None else _measured(file, content).get(model_sha256)
        return found if isinstance(found, kind) else None

    return Measurements(read(Accuracy), read(Latency))


def _kept_name(model_sha256: str, kind: type[Accuracy | Latency]) -> str:
    return f"{model_sha256[:12]}-{kind.__name__.lower()}.json"


def _measured(file: Path, content: bytes) -> dict[str, Accuracy | Latency]:
    """What a file measured, by the SHA-256 of the model; of each model the first that counts. Other
    models than the packaged one are held to the same, as their numbers are kept, too."""
    values = _parsed(file, content)
    try:
        if "scenario" in values:
            return dict(_latencies(file, values))
        return {str(values["model_sha256"]): _accuracy(file, values)}
    except KeyError as error:
        raise OptionError(f"{file}: a measurement without {error}; measure again") from None
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise OptionError(
            f"{file}: a measurement whose values are none ({error}); measure again"
        ) from None


def _accuracy(file: Path, values: dict[str, Any]) -> Accuracy:
    metric, way = values.get("metric", "coco"), values.get("preprocess", "card")
    classes = values.get("classes")
    _refuse(file, {
        f"measured with the metric {metric}, whose numbers are not COCO's; measure without "
        "--metric": metric != "coco",
        "holds several NMS policies, the model has one; measure without --policy all":
            "policies" in values,
        f"measured under the NMS policy {values.get('policy')} instead of the model's own; measure "
        "without --policy": values.get("tail_cut"),
        f"measured with --preprocess {way}; a model card's numbers are of the exact way: measure "
        "without it": way != "card",
        f"expected the AP of all classes, got that of {', '.join(map(str, classes or ()))} only; "
        "measure without --class": classes is not None,
    })  # fmt: skip
    summary = values["summary"]
    nothing = (
        "expected an AP, got null: there were no objects to find; measure on data with objects"
    )
    _refuse(file, {nothing: summary["AP"] is None or summary["AP50"] is None})
    return Accuracy(
        ap=float(summary["AP"]), ap50=float(summary["AP50"]), pictures=int(values["pictures"]),
        data=Path(values["data"]).name, policy=str(values["policy"]),
        unreadable=int(values.get("unreadable", 0)), engine=str(values.get("engine", ONNXRUNTIME)),
    )  # fmt: skip


def _refuse(file: Path, reasons: Mapping[str, object]) -> None:
    """OptionError with the first reason that holds."""
    for reason, holds in reasons.items():
        if holds:
            raise OptionError(f"{file}: {reason}")


def _latencies(file: Path, values: dict[str, Any]) -> dict[str, Latency]:
    scenario = values["scenario"]
    _refuse(file, {
        "expected a single-stream benchmark, got one by LoadGen, which does not time the network "
        "alone; measure without --loadgen": values.get("loadgen"),
        f"expected a single-stream benchmark, got {scenario}; measure without --scenario":
            scenario != SINGLE_STREAM,
    })  # fmt: skip
    found: dict[str, Latency] = {}
    for row in values["results"]:
        latency = Latency(
            network_ms=float(row["network_ms"]["median"]),
            threads=int(row["threads"]),
            processor=str(values["cpu"]["model"]),
            engine=f"{row['engine']} {row['engine_version']}",
        )
        found.setdefault(str(row["model_sha256"]), latency)
    return found


def _parsed(file: Path, content: bytes) -> dict[str, Any]:
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise OptionError(
            f"{file}: not JSON ({error}); expected what --json of evaluate or benchmark wrote"
        ) from None
    if not isinstance(values, dict) or not {"model_sha256", "scenario"} & set(values):
        raise OptionError(
            f"{file}: not a measurement: it does not say of which file (model_sha256); expected "
            "what ssd34 evaluate --json or ssd34 benchmark --json wrote"
        )
    return values
