"""How measured numbers are shown."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ssd34.evaluate.coco_metrics import CocoMetrics


def metrics_table(metrics: CocoMetrics, *, title: str) -> None:
    """Print the twelve numbers."""
    table = Table("metric", "value", title=Text(title, style="table.title"))
    for name, value in metrics.summary.items():
        table.add_row(name, "-" if value is None else f"{value:.4f}")
    Console(highlight=False).print(table)
