"""``ssd34 data check``."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import click
from rich.table import Table

from ssd34.cli import console
from ssd34.datasets.check import (
    RELATIVE_SIZES,
    SMALLEST_DEFAULT_BOX,
    Check,
    Spread,
    Statistics,
    check,
)
from ssd34.datasets.dataset import Dataset
from ssd34.datasets.open import find_dataset, split_path
from ssd34.errors import OptionError
from ssd34.files.atomic import written_whole
from ssd34.machine import thread_budget
from ssd34.version import __version__
from ssd34.workflows.outputs import check_outputs

WRONG = 1
_SHOWN_CLASSES = 15
_BAR = 20


@click.command("check", short_help="Find what is wrong with data sets.")
@click.argument("paths", type=console.PATH, nargs=-1, required=True, metavar="PATH...")
@console.json_option
@click.option(
    "--sheet", type=console.FILE, metavar="FILE.png",
    help="Write an overview of the suspicious pictures, with boxes and reasons.",
)  # fmt: skip
@click.option(
    "--sheet-pictures", type=click.IntRange(1, 1000), default=60, metavar="N",
    help="Most pictures on the sheet.",
)  # fmt: skip
@click.option("--threads", type=console.THREADS, help="Threads that decode. [default: all]")
def check_data(
    *,
    paths: tuple[str, ...],
    json_file: Path | None,
    sheet: Path | None,
    sheet_pictures: int,
    threads: int | None,
) -> None:
    """Find what is wrong with the data sets at PATH.

    Every picture is decoded. All splits of a data set are checked, or only the one in PATH@SPLIT.
    A picture that is in two splits or paths leaks from one into the other.

    Example: ssd34 data check mine.zip mine-val.zip --sheet suspicious.png
    """
    if sheet and sheet.suffix.lower() != ".png":
        raise OptionError(f"--sheet {sheet}: expected a file name that ends in .png")
    datasets = [dataset for path in paths for dataset in _opened(path)]
    check_outputs((console.file_of(json_file), sheet), data=paths, datasets=datasets)
    with console.progress_bar() as bar:
        done = console.count_on(bar, "checking", sum(map(len, datasets)))
        result = check(datasets, threads=threads or thread_budget(), progress=done)
    if json_file != console.PRINTED:
        _print(result)
    console.emit_json({"ssd34": __version__, **result.to_dict()}, json_file)
    if sheet:
        _write_sheet(result, sheet, most=sheet_pictures)
    if not result.clean:
        raise SystemExit(WRONG)


def _opened(path: str) -> list[Dataset]:
    """The data set, or all its splits."""
    source, split = split_path(path)
    layout = find_dataset(source)
    if split is not None:
        return [layout.open(split)]
    # VOC's trainval is train and val once more.
    both = {"train", "val"} <= set(layout.splits)
    names = [name for name in layout.splits if not (both and name == "trainval")]
    return [*layout.open_all(names).values()]


def _write_sheet(result: Check, target: Path, *, most: int) -> None:
    from ssd34.datasets.contact_sheet import draw_contact_sheet

    picture = draw_contact_sheet(result.findings, most=most)
    if picture is None:
        click.echo("no suspicious picture to draw: no sheet written", err=True)
        return
    with written_whole(target) as temporary:
        picture.save(temporary, "PNG")


def _print(result: Check) -> None:
    out = console.wide_console()
    out.print(_holdings(result.statistics))
    out.print(_classes(result.statistics))
    if result.clean:
        out.print("nothing wrong found")
    if not result.findings:
        return
    table = console.plain_table("assumed" if result.clean else "wrong", "count", "first", right=[1])
    table.columns[0].no_wrap = True
    for kind, count in result.counts.items():
        first = next(f for f in result.findings if f.problem.kind == kind)
        where = f"{_short(first.dataset.name)}: {first.problem}"
        table.add_row(str(kind), str(count), where[:300])
    out.print(table)


def _holdings(sets: tuple[Statistics, ...]) -> Table:
    """One column for each data set."""
    table = console.plain_table("", *(_short(s.name) for s in sets), right=range(1, 1 + len(sets)))
    table.columns[0].no_wrap = True

    def row(title: str, cells: Iterable[str]) -> None:
        table.add_row(title, *cells)

    row("pictures", (str(s.pictures) for s in sets))
    row("  without boxes", (_share(len(s.empty), s.pictures) for s in sets))
    row("  width", (_spread(s.widths) for s in sets))
    row("  height", (_spread(s.heights) for s in sets))
    row("boxes", (str(s.boxes) for s in sets))
    row("  in a picture", (_spread(s.boxes_a_picture) for s in sets))
    row("  crowd", (_share(s.crowd, s.boxes) for s in sets))
    row("  difficult", (_share(s.difficult, s.boxes) for s in sets))
    for name, limits in (
        ("small", "below 32² pixels"), ("medium", "to 96²"), ("large", "above")
    ):  # fmt: skip
        row(f"  {name}, {limits}", (_share(s.coco_sizes[name], s.boxes) for s in sets))
    table.add_section()
    row("box side / picture side", ("" for _ in sets))
    for k, (low, high) in enumerate(pairwise(RELATIVE_SIZES)):
        row(f"  {low:g} to {high:g}", (_share(s.relative_sizes[k], s.boxes) for s in sets))
    row(
        f"  below the smallest default box, {SMALLEST_DEFAULT_BOX:.2g}",
        (_share(s.below_default_boxes, s.boxes) for s in sets),
    )
    return table


def _classes(sets: tuple[Statistics, ...]) -> Table:
    """The most frequent classes, and which occur nowhere."""
    totals: dict[str, int] = {}
    for counted in sets:
        for one in counted.classes:
            totals[one.name] = totals.get(one.name, 0) + one.boxes
    by_set = [{one.name: one.boxes for one in counted.classes} for counted in sets]
    names = sorted(totals, key=lambda name: -totals[name])
    headings = (f"class ({len(names)})", *(_short(s.name) for s in sets), "boxes")
    table = console.plain_table(*headings, right=range(1, 1 + len(sets)))
    most = max(totals.values(), default=0) or 1
    for name in names[:_SHOWN_CLASSES]:
        cells = (str(counts.get(name, "-")) for counts in by_set)
        table.add_row(name, *cells, "█" * round(_BAR * totals[name] / most))
    if rest := names[_SHOWN_CLASSES:]:
        cells = (str(sum(counts.get(name, 0) for name in rest)) for counts in by_set)
        table.add_row(f"{len(rest)} more", *cells, "")
    table.add_row("classes without a box", *(_unused(s) for s in sets), "")
    return table


def _unused(counted: Statistics) -> str:
    names = counted.unused
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} ({shown})" if names else "0"


def _share(count: int, of: int) -> str:
    if not count:
        return "0"
    return f"{count} ({count / of:4.0%})" if count >= of / 200 else f"{count} ( <1%)"


def _spread(values: Spread) -> str:
    return f"{values.least:g} to {values.most:g}, median {values.median:g}"


def _short(name: str) -> str:
    return Path(name).name or name
