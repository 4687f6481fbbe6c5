"""``ssd34 evaluate --report``: the page, with a progress bar."""

from __future__ import annotations

import datetime
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ssd34.cli.console import errors, progress_bar
from ssd34.core.counted import counted
from ssd34.data.checksum import sha256_of
from ssd34.data.dataset import Dataset
from ssd34.evaluate.report.provenance import Provenance, machine, versions
from ssd34.evaluate.report.write import STEPS, Report, write_report
from ssd34.evaluate.results import Results
from ssd34.evaluate.score import Score


@dataclass(frozen=True, eq=False)
class ReportJob:
    """A report that was asked for; `write` it once the numbers are there.

    Attributes:
        folder: where.
        dataset: what is measured on.
        about: what is known of the data before anything ran.
        classes: those with a precision-recall curve of their own; none: the commonest.
    """

    folder: Path
    dataset: Dataset
    about: Mapping[str, str]
    classes: Sequence[str]

    def write(
        self,
        results: Results,
        score: Score,
        *,
        subject: str,
        about: Mapping[str, object],
        threads: int | None = None,
    ) -> None:
        """Write it and say where it lies.

        Args:
            results: what was scored.
            score: the score.
            subject: what was measured, for the title.
            about: more of it: file, hash, policy.
            threads: that computed; None: nothing was computed here.
        """
        inputs = {**about, **self.about, "metric": score.metric}
        report = Report(
            title=f"{subject} on {Path(self.dataset.name).name}",
            dataset=self.dataset,
            results=results,
            score=score,
            provenance=Provenance(
                command=shlex.join(["ssd34", *sys.argv[1:]]),
                created=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
                inputs={name.replace("_sha256", " SHA-256"): str(v) for name, v in inputs.items()},
                versions=versions(),
                machine=machine(threads=threads),
            ),
            classes=self.classes,
        )
        with progress_bar() as bar:
            task = bar.add_task("report", total=STEPS)
            page = write_report(
                self.folder, report, progress=lambda done: bar.update(task, completed=done)
            )
        errors.print(f"report: {page}", markup=False, soft_wrap=True)


def about_data(data: str, *, fingerprint: str, limit: int | None) -> dict[str, str]:
    """What a report says of the data: a file's hash says more than the annotations'."""
    about = {"data": data, "annotations_sha256": fingerprint}
    if Path(data).is_file():
        about["data file_sha256"] = sha256_of(Path(data))
    if limit:
        about["limit"] = f"the first {counted(limit, 'picture')}"
    return about
