"""``ssd34 data info``."""

from __future__ import annotations

import json
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ssd34.cli.console import PARTLY, warn_of_problems
from ssd34.datasets.check.statistics import statistics
from ssd34.datasets.dataset import Dataset
from ssd34.datasets.open import find_dataset, split_path

_FIELDS = ("pictures", "empty", "boxes", "crowd", "difficult", "left_out")


@click.command(short_help="Show what a data set holds.")
@click.argument("path")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(*, path: str, as_json: bool) -> None:
    """Show what the data set PATH holds: format, splits, pictures, boxes and classes.

    Example: ssd34 data info VOCdevkit/VOC2007
    """
    source, chosen = split_path(path)
    layout = find_dataset(source)
    names = layout.splits if chosen is None else (chosen,)
    datasets = {name: layout.open(name) for name in names}
    counts = {name: _counts(dataset) for name, dataset in datasets.items()}
    if as_json:
        click.echo(json.dumps({"path": path, "format": layout.format, "splits": counts}, indent=1))
    else:
        for dataset in datasets.values():
            warn_of_problems(dataset)
        console = Console(highlight=False, markup=False, emoji=False)
        console.print(f"{layout.format} data set")
        splits = Table("split", *(field.replace("_", " ") for field in _FIELDS))
        classes = Table("class", "id", *(f"boxes of {name or 'all'}" for name in names))
        for column in (*splits.columns[1:], *classes.columns[1:]):
            column.justify = "right"
        for name, values in counts.items():
            splits.add_row(name or "all", *(str(values[field]) for field in _FIELDS))
        rows: dict[tuple[str, int], dict[str, int]] = {}
        for split, values in counts.items():
            for entry in values["classes"]:
                rows.setdefault((entry["name"], entry["id"]), {})[split] = entry["boxes"]
        for (name, category), boxes in rows.items():
            classes.add_row(Text(name), str(category), *(str(boxes.get(s, "-")) for s in names))
        console.print(splits)
        console.print(classes)
    if any(dataset.problems for dataset in datasets.values()):
        raise SystemExit(PARTLY)


def _counts(dataset: Dataset) -> dict[str, Any]:
    """What one split holds; the JSON form of it."""
    counted = statistics(dataset)
    return {
        "pictures": counted.pictures,
        "empty": len(counted.empty),
        "boxes": counted.boxes,
        "crowd": counted.crowd,
        "difficult": counted.difficult,
        "left_out": len(dataset.problems),
        "problems": [str(problem) for problem in dataset.problems],
        "classes": [
            {"name": one.name, "id": one.category_id, "boxes": one.boxes} for one in counted.classes
        ],
    }
