"""The page that ``ssd34 train`` leaves behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ImageDraw

from ssd34.core.detections import Detections
from ssd34.datasets.dataset import Dataset
from ssd34.errors import ImageError
from ssd34.evaluate.report.page import encode_jpeg, render
from ssd34.files.atomic import write_text
from ssd34.files.checkpoint import read_checkpoint, read_header
from ssd34.images.draw import draw, draw_dashed_box
from ssd34.text import counted

PAGE = "report.html"
PICTURES = 6
SHOWN = 10
SCORE = 0.1
"""Up to so many detections in a picture, the best of those that score so much or more."""

TRUTH = (255, 255, 255)
LONGEST_SIDE = 640


def write_page(folder: Path, validation: Dataset, facts: Sequence[str], device: Any) -> Path:
    """Write ``report.html`` beside a run's checkpoints, of which there has to be one; returns
    where it is."""
    from ssd34.files.checkpoint import BEST, LAST
    from ssd34.train.run import HISTORY, read_history

    weights = next(folder / name for name in (BEST, LAST) if (folder / name).exists())
    checkpoint = read_checkpoint(weights)
    page = render_training_page(
        f"{checkpoint.spec.name}, {counted(len(checkpoint.labels), 'class')}",
        read_history(folder / HISTORY),
        # The best weights may be from before a resume that changed settings.
        recipe=read_header(folder / LAST).state["notes"].get("recipe", {}),
        facts=[
            *facts,
            f"Weights of the pictures below: {weights.name}; shown are the {SHOWN} best detections "
            f"that score {SCORE:g} or more, in the first pictures that have objects; dashed: where "
            "these are.",
        ],
        exhibits=_exhibits(checkpoint, validation, device),
    )
    write_text(folder / PAGE, page)
    return folder / PAGE


def _exhibits(checkpoint: Any, validation: Dataset, device: Any) -> list[tuple[str, bytes]]:
    """What the network finds in some pictures of the validation set."""
    from ssd34.network.ssd import SSD, load_weights
    from ssd34.train.validate import stage_network

    network = SSD(checkpoint.spec)
    load_weights(network, checkpoint.weights, source="the run")
    stages = stage_network(network.to(device), device=device)
    exhibits: list[tuple[str, bytes]] = []
    for sample in validation.samples:
        if len(exhibits) == PICTURES:
            break
        if sample.ignored.all():
            continue
        try:
            image = validation.read(sample)
        except ImageError:
            continue
        [raw] = stages.infer([stages.prepare(image)])
        [picked] = stages.pick(raw)
        found = Detections.from_picked(
            picked, label_set=checkpoint.labels, width=sample.width, height=sample.height,
            score=SCORE,
        )  # fmt: skip
        picture = draw(image, found.where(np.arange(len(found)) < SHOWN))
        canvas, line = ImageDraw.Draw(picture), max(1, round(min(picture.size) / 180))
        for box in sample.boxes[~sample.ignored].tolist():
            draw_dashed_box(canvas, tuple(box), colour=TRUTH, line=line)
        picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        exhibits.append((sample.file_name, encode_jpeg(picture.convert("RGB"))))
    return exhibits


Records = Sequence[Mapping[str, Any]]

_WIDTH, _HEIGHT = 520, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 508, 10, 214
_TONES = ("a", "b", "c")
_MOST_POINTS = 600
"""Points of a curve; longer ones are thinned out."""


def render_training_page(
    title: str,
    history: Records,
    *,
    recipe: Mapping[str, Any],
    facts: Sequence[str],
    exhibits: Sequence[tuple[str, bytes]] = (),
) -> str:
    """The page as HTML, of records of ``history.jsonl``, the settled recipe, lines below the title,
    and names of pictures with detections as JPEG; every name in it is escaped.
    MissingExtraError: Jinja2 is not installed."""
    steps = [record for record in history if record.get("event") == "step"]
    measured = [record for record in history if record.get("event") == "evaluation"]
    per_epoch = steps[-1]["batches_per_epoch"] if steps else 1
    best = None
    if measured:
        # A run may go on under another policy; what was best before does not count any more.
        policy = measured[-1].get("policy")
        same = (record for record in measured if record.get("policy") in (None, policy))
        best = max(same, key=lambda record: record["summary"]["AP"] or 0.0)
    # What was measured, as steps have it.
    aps = [{"step": record["step"], **record["summary"]} for record in measured]
    losses = {"all": "loss", "box": "box_loss", "class": "class_loss"}
    return render(
        "training.html.j2",
        title=title,
        facts=facts,
        per_epoch=per_epoch,
        charts=(
            _chart("Loss", steps, losses, per_epoch),
            _chart("AP on the validation pictures", aps, {"AP": "AP", "AP50": "AP50"}, per_epoch),
            _chart("Learning rate", steps, {"learning rate": "learning_rate"}, per_epoch),
            _chart("Images per second", steps, {"images/s": "images_per_second"}, per_epoch),
        ),
        best=best,
        pictures=counted(best["pictures"], "picture") if best else "",
        exhibits=exhibits,
        recipe={"recipe": "", **recipe},
    )


def _chart(
    title: str, records: Records, keys: Mapping[str, str], per_epoch: float
) -> dict[str, Any]:
    """Curves over epochs, from zero upwards, placed in an SVG; without points no lines."""
    lines = {
        name: [(r["step"] / per_epoch, r[key]) for r in records if r.get(key) is not None]
        for name, key in keys.items()
    }
    points = [point for line in lines.values() for point in line]
    last = max((x for x, _ in points), default=0) or 1.0
    top = max((y for _, y in points), default=0) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            round(_LEFT + (_RIGHT - _LEFT) * x / last, 1),
            round(_TOP + (_BOTTOM - _TOP) * (1 - max(0.0, y) / top), 1),
        )

    ticks = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = place(last * share, top * share)
        ticks.append(
            {"x": x, "y": y, "value": f"{top * share:.2g}", "epoch": f"{last * share:.3g}"}
        )
    return {
        "title": title,
        "width": _WIDTH,
        "height": _HEIGHT,
        "left": _LEFT,
        "right": _RIGHT,
        "ticks": ticks,
        "lines": [
            {
                "name": name,
                "tone": tone,
                "points": [place(x, y) for x, y in line[:: -(-len(line) // _MOST_POINTS) or 1]],
            }
            for tone, (name, line) in zip(_TONES, lines.items(), strict=False)
            if points
        ],
    }
