"""One report that the tests of the page share."""

from __future__ import annotations

import html.parser
from pathlib import Path

import pytest

from ssd34.evaluate.report.page import (
    EvaluationReport,
    Provenance,
    describe_machine,
    list_versions,
    write_report,
)
from ssd34.evaluate.score import ScoreOptions, score
from tests.support.scenes import every_error

HOSTILE = '<script>alert("cat")</script> & $x_{1}$'
"""A class name that no page and no plot may take for more than text."""


class Elements(html.parser.HTMLParser):
    """Every element with its attributes, the text, and whether elements close as they open."""

    VOID = ("meta", "link", "img", "source", "br")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


def report_of(dataset, results, **options):
    return EvaluationReport(
        title=options.pop("title", "scene <b>bold</b>"),
        dataset=dataset,
        results=results,
        score=score(dataset, results, ScoreOptions(resamples=options.pop("resamples", 0))),
        provenance=Provenance(
            command="ssd34 evaluate 'a <b> model' --report out",
            created="2026-01-02 03:04 UTC",
            inputs={"model": "a <b> model", "data SHA-256": "f0" * 32},
            versions=list_versions(),
            machine=describe_machine(threads=3),
        ),
        **options,
    )


@pytest.fixture(scope="package")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a scene with every kind of error and a hostile class name."""
    folder = tmp_path_factory.mktemp("report")
    dataset, results = every_error(folder / "images", names=(HOSTILE, "犬 dog"))
    report = report_of(dataset, results, resamples=50, pictures=2)
    return write_report(folder / "new" / "out", report)
