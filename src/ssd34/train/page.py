"""A run as one HTML page that refers to nothing outside itself: curves, AP, pictures, recipe."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Any

from PIL import Image

from ssd34.core.counted import counted
from ssd34.train.history import other_policy

Records = Sequence[Mapping[str, Any]]
Line = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT = 520, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 10, 26
_TONES = ("a", "b", "c")
_MOST_POINTS = 600
"""Points of a curve; longer ones are thinned out."""


@dataclass(frozen=True, eq=False)
class Exhibit:
    """A picture with detections drawn on it, and its name."""

    name: str
    picture: Image.Image


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
    """
    steps = [record for record in history if record.get("event") == "step"]
    measured = [record for record in history if record.get("event") == "evaluation"]
    per_epoch = steps[-1]["batches_per_epoch"] if steps else 1
    parts = [
        f"<h1>{escape(title)}</h1>",
        *(f'<p class="quiet">{escape(fact)}</p>' for fact in facts),
        "<section><h2>Curves</h2><div class=columns>",
        *_curves(steps, measured, per_epoch),
        "</div></section>",
    ]
    if measured:
        # A run may go on under another policy; what was best before does not count any more.
        policy = measured[-1].get("policy")
        same = (record for record in measured if other_policy(record, policy) is None)
        best = max(same, key=lambda record: record["summary"]["AP"] or 0.0)
        parts.append(_results(best, per_epoch))
    if exhibits:
        parts += ["<section><h2>Pictures that it was measured on</h2><div class=columns>"]
        parts += [
            f"<figure><figcaption>{escape(e.name)}</figcaption>"
            f'<img alt="detections in {escape(e.name)}" src="{_embedded(e.picture)}"></figure>'
            for e in exhibits
        ]
        parts.append("</div></section>")
    parts.append(_recipe(recipe))
    sheets = (("ssd34.evaluate.report", "style.css"), ("ssd34.train", "curves.css"))
    style = "\n".join(files(room).joinpath(name).read_text("utf-8") for room, name in sheets)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>\n{style}</style></head>\n<body><main>\n"
        + "\n".join(parts)
        + "\n</main></body></html>\n"
    )


def _curves(steps: Records, measured: Records, per_epoch: int) -> Iterable[str]:
    def over(records: Records, key: str) -> Line:
        return [(r["step"] / per_epoch, r[key]) for r in records if r.get(key) is not None]

    def metric(key: str) -> Line:
        return [
            (r["step"] / per_epoch, r["summary"][key])
            for r in measured
            if r["summary"].get(key) is not None
        ]

    yield _plot("Loss", {"all": over(steps, "loss"), "box": over(steps, "box_loss"),
                         "class": over(steps, "class_loss")})  # fmt: skip
    yield _plot("AP on the validation pictures", {"AP": metric("AP"), "AP50": metric("AP50")})
    yield _plot("Learning rate", {"learning rate": over(steps, "learning_rate")})
    yield _plot("Images per second", {"images/s": over(steps, "images_per_second")})


def _plot(title: str, lines: Mapping[str, Line]) -> str:
    """Curves over epochs, from zero upwards, as SVG."""
    points = [point for line in lines.values() for point in line]
    if not points:
        return f"<figure><figcaption>{title}</figcaption><p class=quiet>nothing yet</p></figure>"
    right = max(x for x, _ in points) or 1.0
    top = max(y for _, y in points) or 1.0
    wide, high = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return _LEFT + wide * x / right, _TOP + high * (1 - max(0.0, y) / top)

    marks = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = place(right * share, top * share)
        marks.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{top * share:.2g}</text>'
            f'<text x="{x:.1f}" y="{_HEIGHT - 8}" text-anchor="middle">{right * share:.3g}</text>'
        )
    curves = []
    for tone, line in zip(_TONES, lines.values(), strict=False):
        thinned = line[:: -(-len(line) // _MOST_POINTS)] if line else []
        places = [place(x, y) for x, y in thinned]
        spots = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        curves.append(f'<polyline class="{tone}" points="{spots}"/>')
        if len(places) == 1:
            x, y = places[0]
            curves.append(f'<circle class="{tone}" cx="{x:.1f}" cy="{y:.1f}" r="2"/>')
    key = ", ".join(
        f'<b class="{tone}">{escape(name)}</b>' for tone, name in zip(_TONES, lines, strict=False)
    )
    return (
        f'<figure><figcaption>{title}</figcaption><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"'
        f' aria-label="{title} over epochs">{"".join(marks)}{"".join(curves)}</svg>'
        f'<div class="key">{key} over epochs</div></figure>'
    )


def _results(best: Mapping[str, Any], per_epoch: int) -> str:
    summary = "".join(
        f"<tr><td>{escape(name)}</td><td>{'' if value is None else f'{value:.4f}'}</td></tr>"
        for name, value in best["summary"].items()
    )
    classes = "".join(
        f"<tr><td>{escape(name)}</td><td>{ap:.4f}</td>"
        f"<td>{best['class_ap50'].get(name, 0):.4f}</td></tr>"
        for name, ap in sorted(best["class_ap"].items(), key=lambda item: -item[1])
    )
    epoch = best["step"] / per_epoch
    policy = f", policy {escape(best['policy'])}" if "policy" in best else ""
    return (
        f"<section><h2>Best evaluation: epoch {epoch:g}, "
        f"{counted(best['pictures'], 'picture')}{policy}</h2>"
        f"<div class=columns><table><tr><th>metric</th><th>value</th></tr>{summary}</table>"
        f"<table><tr><th>class</th><th>AP</th><th>AP50</th></tr>{classes}</table></div></section>"
    )


def _recipe(recipe: Mapping[str, Any]) -> str:
    changed = recipe.get("changed", {})
    rows = "".join(
        f"<tr><td>{escape(str(key))}</td><td>{escape(json.dumps(value))}</td>"
        f"<td>{'changed' if key in changed else ''}</td></tr>"
        for key, value in recipe.get("settings", {}).items()
    )
    name = escape(str(recipe.get("recipe", "")))
    return f"<section><h2>Recipe {name}</h2><table>{rows}</table></section>"


def _embedded(picture: Image.Image) -> str:
    data = io.BytesIO()
    picture.convert("RGB").save(data, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
