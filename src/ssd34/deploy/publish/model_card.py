"""The model card: a README with Hugging Face front matter, filled from measurements only."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssd34.core.contract import Port
from ssd34.core.labels import LabelSet
from ssd34.core.preprocess import MEAN, STD
from ssd34.core.spec import ModelSpec
from ssd34.deploy.publish.measurement import Accuracy, Measurements
from ssd34.runtime.engine import ONNXRUNTIME
from ssd34.text import counted

_FRONT = """library_name: onnx
pipeline_tag: object-detection
tags:
- object-detection
- ssd
- onnx
---
"""


_LAST_LINE = "Wei Liu et al., SSD: Single Shot MultiBox Detector, ECCV 2016. Made with ssd34."


def is_card(file: Path) -> bool:
    """Whether a file is a model card of `render_model_card`, even if somebody has added to it."""
    return _LAST_LINE in file.read_text(encoding="utf-8", errors="replace").splitlines()


def read_licence(card: Path) -> str | None:
    """The licence in the front matter of a model card; None: it has none, or is not there."""
    if not card.is_file():
        return None
    front = card.read_text(encoding="utf-8", errors="replace").split("\n---", 1)[0]
    found = re.search(r"^license: ([\w.+-]+)$", front, re.MULTILINE)
    return found[1] if found else None


def render_model_card(
    rows: Sequence[tuple[dict[str, Any], Measurements]],
    *,
    spec: ModelSpec,
    labels: LabelSet,
    licence: str | None,
) -> str:
    """The card of a folder of packaged models: of each file the manifest entry and measurements;
    what was not measured stays empty. The licence of the weights is an identifier; None: the card
    states none."""
    front = f"license: {licence.lower()}\n{_FRONT}" if licence else _FRONT
    first, _ = rows[0]
    lines = (_table(rows), _sources(rows), _ports([entry for entry, _ in rows]))
    table, sources, ports = ("".join(f"{line}\n" for line in part) for part in lines)
    return f"""\
---
{front}
# {spec.name}

Single Stage Detector on a {spec.backbone} backbone, {counted(len(labels), "class")}, \
{spec.image_size} x {spec.image_size} input, {spec.num_default_boxes} default boxes.

## Models

{table}
{sources}## Input and outputs

{ports}
## Preprocessing

Resize to {spec.image_size} x {spec.image_size} with Pillow's bilinear filter, divide by 255, \
subtract {MEAN}, divide by {STD}. Files whose input is `tensor(uint8)` do all but the resizing \
themselves.

## Classes

{", ".join(f"{k} {name}" for k, name in enumerate(labels.names, start=1))}.

## Check and use

```sh
ssd34 verify {first["metadata"]["model_with_data_path"]}
ssd34 detect picture.jpg --model {first["model_path"]}
```

## Source

{_LAST_LINE}
"""


def _table(rows: Sequence[tuple[dict[str, Any], Measurements]]) -> list[str]:
    lines = [
        "| file | MB | with test data | ONNX | opset | AP | AP50 | network ms (threads) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for entry, measured in rows:
        data = entry["metadata"]
        accuracy, latency = measured.accuracy, measured.latency
        cells = [
            f"[{entry['model_path']}]({entry['model_path']})",
            f"{data['model_bytes'] / 1e6:.1f}",
            f"[{data['model_with_data_bytes'] / 1e6:.1f} MB]({data['model_with_data_path']})",
            str(entry["onnx_version"]),
            str(entry["opset_version"]),
            f"{accuracy.ap:.4f}" if accuracy else "",
            f"{accuracy.ap50:.4f}" if accuracy else "",
            f"{latency.network_ms:.1f} ({latency.threads})" if latency else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _sources(rows: Sequence[tuple[dict[str, Any], Measurements]]) -> list[str]:
    """On what accuracy and time were measured; which file, where they differ in it."""
    scored: dict[str, list[str]] = {}
    timed: dict[str, list[str]] = {}
    for entry, measured in rows:
        if measured.accuracy:
            scored.setdefault(_scored_on(measured.accuracy), []).append(entry["model_path"])
        if latency := measured.latency:
            where = f"{latency.processor}, {latency.engine}"
            timed.setdefault(where, []).append(entry["model_path"])
    lines = [
        f"AP{_of(files, scored)}: COCO box AP over IoU 0.50 to 0.95, {data}."
        for data, files in scored.items()
    ]
    lines += [
        f"Network time{_of(files, timed)}: median of one run on {where}."
        for where, files in timed.items()
    ]
    return [line for text in lines for line in (text, "")]


def _scored_on(accuracy: Accuracy) -> str:
    words = [f"{counted(accuracy.pictures, 'picture')} of {accuracy.data}"]
    if lost := accuracy.unreadable:
        words.append(f"{lost} of them unreadable and counted as empty")
    words.append(accuracy.policy)
    if accuracy.engine != ONNXRUNTIME:  # what the other numbers of a card are of
        words.append(f"run by {accuracy.engine}")
    return ", ".join(words)


def _of(files: Sequence[str], sources: Mapping[str, Sequence[str]]) -> str:
    return f" of {', '.join(files)}" if len(sources) > 1 else ""


def _ports(entries: Sequence[dict[str, Any]]) -> list[str]:
    """Inputs and outputs, once for all files that have the same."""
    files: dict[tuple[str, ...], list[str]] = {}
    for entry in entries:
        files.setdefault(_port_lines(entry), []).append(f"`{entry['model_path']}`")
    if len(files) == 1:
        return list(next(iter(files)))
    lines: list[str] = []
    for ports, names in files.items():
        lines += ["", f"{', '.join(names)}:", "", *ports]
    return lines[1:]


def _port_lines(entry: dict[str, Any]) -> tuple[str, ...]:
    ports = entry["metadata"]["io_ports"]
    return tuple(
        f"- {kind} `{port['name']}` {Port('', port['type'], tuple(port['shape'])).form}"
        for kind, found in (("input", ports["inputs"]), ("output", ports["outputs"]))
        for port in found
    )
