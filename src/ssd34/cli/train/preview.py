"""``ssd34 train --preview``."""

from __future__ import annotations

import dataclasses
import json
import math

import click
from rich.console import Console
from rich.table import Table

from ssd34.cli.console import emit_json, warn
from ssd34.files.atomic import write_text, written_whole
from ssd34.text import counted
from ssd34.train.progress import TrainListener
from ssd34.workflows.training.job import TrainJob

SHEET = "preview.png"
NUMBERS = "preview.json"


def show_preview(job: TrainJob, *, shown: int, listener: TrainListener, as_json: bool) -> None:
    """Write the sheet and the counts of a new run into its folder, and print them."""
    from ssd34.train.examples.loader import Loader
    from ssd34.train.examples.preview import preview
    from ssd34.workflows.training.new_run import plan_run
    from ssd34.workflows.training.resumed_run import check_resumable

    if job.resume:
        check_resumable(job, others=("--preview",))
    planned = plan_run(job, listener)
    spec, options, folder = planned.spec, planned.plan.options, job.folder

    def size_now(step: int) -> int:
        """As the run has it; by the clock its first epoch counts as its beginning."""
        steps = options.epochs * loader.batches_per_epoch if options.epochs else math.inf
        return options.size_at(step / steps, spec.image_size)

    loader = Loader(
        planned.sources,
        spec=spec,
        options=dataclasses.replace(options, workers=0, cache_mb=0),
        size_now=size_now,
    )
    seen = preview(loader, planned.labels, shown=shown)
    for problem in seen.problems:
        warn(f"left out {problem}")
    folder.mkdir(parents=True, exist_ok=True)
    with written_whole(folder / SHEET) as temporary:
        seen.sheet.save(temporary, "PNG")
    write_text(folder / NUMBERS, json.dumps(seen.to_dict(), indent=2) + "\n")
    smallest, largest = seen.sides
    sizes = f"{smallest}" if smallest == largest else f"{smallest} to {largest}"
    table = Table(
        title=f"objects in {counted(seen.pictures, 'varied picture')} of {sizes} pixels",
        title_justify="left",
    )
    alone = "one or none learns it" if options.matcher == "atss" else "none overlaps by 0.5"
    for name in ("side in pixels", "objects", alone, "default boxes each"):
        table.add_column(name, justify="right")
    for row in seen.rows:
        share = row.forced / row.objects if row.objects else 0.0
        side = (
            f"{row.side_from:g} or more"
            if math.isinf(row.side_to)
            else f"{row.side_from:g} to {row.side_to:g}"
        )
        table.add_row(
            side, str(row.objects), f"{row.forced} ({share:.0%})", f"{row.default_boxes:.1f}"
        )
    if as_json:
        emit_json(seen.to_dict())
        return
    Console(emoji=False).print(table)
    click.echo(
        f"{folder / SHEET}: {counted(min(shown, seen.pictures), 'picture')}; {folder / NUMBERS}"
    )
