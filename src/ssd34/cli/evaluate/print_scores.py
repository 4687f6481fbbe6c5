"""How an evaluation and its numbers are shown."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Self

from rich.progress import TaskID
from rich.table import Table
from rich.text import Text

from ssd34.cli.console import plain_table, print_titled, progress_bar, say, warn, warn_of_problems
from ssd34.datasets.dataset import Dataset
from ssd34.evaluate.metrics.bootstrap import FEWEST_PICTURES, Interval
from ssd34.evaluate.metrics.comparison import Difference, Differences
from ssd34.evaluate.metrics.score import Score
from ssd34.workflows.scoring import EvaluateListener

SHOWN_CLASSES = 8
FEW = f"no interval where objects lie in fewer than {FEWEST_PICTURES} pictures"


class EvaluateScreen(EvaluateListener):
    """Bars and warnings on stderr. Use it as a context manager."""

    def __init__(self) -> None:
        self._bar = progress_bar()
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def dataset_opened(self, dataset: Dataset) -> None:
        """What had to be left out."""
        warn_of_problems(dataset)

    def engine_chosen(self, reason: str) -> None:
        """What ``--engine auto`` took."""
        say(reason)

    def warned(self, message: str) -> None:
        """One line."""
        warn(message)

    def progressed(self, step: str, done: int, total: int) -> None:
        """A bar for each step, until it is done."""
        if step not in self._tasks:
            self._tasks[step] = self._bar.add_task(step, total=total)
        self._bar.update(self._tasks[step], completed=done)
        if done >= total:
            self._bar.remove_task(self._tasks.pop(step))

    def interrupted(self, done: int, total: int, kept: Path | None) -> None:
        """How to continue."""
        where = (
            f"kept in {kept}; continue with --resume"
            if kept
            else "not kept, as no --json, --detections or --report names a file"
        )
        say(f"{done} of {total} pictures done, {where}")


def print_score(score: Score, *, title: str) -> None:
    """The twelve numbers, with intervals where there are any."""
    sure = score.uncertainty
    table = Table("metric", "value")
    if sure:
        table.add_column(f"{sure.confidence:.0%} interval")
    for name, value in score.metrics.summary.items():
        cells = [name, _number(value)]
        if sure:
            cells.append(_range(sure.summary.get(name)))
        table.add_row(*cells)
    if any(one.detections for one in score.precisions):
        table.add_section()
    for one in score.precisions:
        if one.precision is not None:
            table.add_row(f"right from score {one.score:g}", _number(one.precision))
    few = sure and not sure.summary and score.metrics.summary["AP"] is not None
    print_titled(_titled(title, score), table, *([FEW] if few else ()))


def print_scores(scores: Mapping[str, Score], *, title: str) -> None:
    """The twelve numbers of several policies side by side."""
    some = next(iter(scores.values()))
    # Four policies fit into 80 columns.
    table = plain_table("metric", *scores)
    for name in some.metrics.summary:
        table.add_row(name, *(_number(score.metrics.summary[name]) for score in scores.values()))
        if name == "AP" and some.uncertainty and not _few(some):
            row = f"{some.uncertainty.confidence:.0%} interval"
            every = [score.uncertainty for score in scores.values()]
            ranges = (_range(one.summary.get(name)) for one in every if one)
            table.add_row(row, *(text.replace(" to ", "-") for text in ranges))
    print_titled(_titled(title, some), table)


def print_comparison(found: Differences, *, title: str, names: tuple[str, str]) -> None:
    """Differences of AP, and the classes that gained and lost most."""
    table = Table("metric", "A", "B", "B - A")
    if found.resamples:
        table.add_column(f"{found.confidence:.0%} interval")
    cells = partial(_cells, drawn=bool(found.resamples))
    for name, difference in found.summary.items():
        table.add_row(name, *cells(difference))
    ordered = sorted(found.class_ap.items(), key=lambda item: item[1].difference)
    for heading, chosen in (
        ("gained", [item for item in ordered[::-1] if item[1].difference > 0]),
        ("lost", [item for item in ordered if item[1].difference < 0]),
    ):
        if chosen:
            table.add_section()
            table.add_row(Text(f"AP {heading}", style="bold"))
        for name, difference in chosen[:SHOWN_CLASSES]:
            table.add_row(Text(name), *cells(difference))
        if len(chosen) > SHOWN_CLASSES:
            table.add_row(f"and {len(chosen) - SHOWN_CLASSES} more")
    print_titled(title, table, f"A: {names[0]}", f"B: {names[1]}", *_notes(found))


def _notes(found: Differences) -> tuple[str, ...]:
    """What the intervals of a comparison mean."""
    if not found.resamples:
        return ()
    better = found.second_better
    share = [] if better is None else [f"B is better in {better:.1%} of the draws"]
    if found.summary and not any(d.difference for d in found.summary.values()):
        share = ["no difference in AP"]
    missing = [d for d in (*found.summary.values(), *found.class_ap.values()) if not d.interval]
    return ("; ".join([*share, "* where the interval leaves out 0"]), *([FEW] if missing else ()))


def _cells(difference: Difference, *, drawn: bool) -> tuple[str, ...]:
    numbers = (
        f"{difference.first:.4f}",
        f"{difference.second:.4f}",
        f"{difference.difference:+.4f}",
    )
    if not drawn:
        return numbers
    sure = difference.interval
    star = " *" if difference.clear else ""
    return (*numbers, f"{sure.low:+.4f} to {sure.high:+.4f}{star}" if sure else "-")


def _titled(title: str, score: Score) -> str:
    return title if score.metric == "coco" else f"{title}, metric {score.metric}, not COCO's"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _range(found: Interval | None) -> str:
    return f"{found.low:.4f} to {found.high:.4f}" if found else ""
