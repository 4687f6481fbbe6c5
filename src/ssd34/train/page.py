"""A run as one HTML page in the style of a report: curves, AP, pictures, recipe."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ssd34.core.counted import counted
from ssd34.evaluate.report.page import render
from ssd34.train.history import other_policy

Records = Sequence[Mapping[str, Any]]

_WIDTH, _HEIGHT = 520, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 508, 10, 214
_TONES = ("a", "b", "c")
_MOST_POINTS = 600
"""Points of a curve; longer ones are thinned out."""


@dataclass(frozen=True, eq=False)
class Exhibit:
    """A picture with detections drawn on it, as JPEG, and its name."""

    name: str
    picture: bytes

    @classmethod
    def of(cls, name: str, picture: Image.Image) -> Exhibit:
        """A drawn picture."""
        file = io.BytesIO()
        picture.convert("RGB").save(file, "JPEG", quality=85)
        return cls(name, file.getvalue())


def training_page(
    title: str,
    history: Records,
    *,
    recipe: Mapping[str, Any],
    facts: Sequence[str],
    exhibits: Sequence[Exhibit] = (),
) -> str:
    """The page as HTML; every name in it is escaped.

    Args:
        title: what was trained.
        history: records of ``history.jsonl``.
        recipe: the settled recipe, as in ``recipe.json``.
        facts: lines below the title.
        exhibits: pictures with detections.

    Raises:
        MissingExtraError: Jinja2 is not installed.
    """
    steps = [record for record in history if record.get("event") == "step"]
    measured = [record for record in history if record.get("event") == "evaluation"]
    per_epoch = steps[-1]["batches_per_epoch"] if steps else 1
    best = None
    if measured:
        # A run may go on under another policy; what was best before does not count any more.
        policy = measured[-1].get("policy")
        same = (record for record in measured if other_policy(record, policy) is None)
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
