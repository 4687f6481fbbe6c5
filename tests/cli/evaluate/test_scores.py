"""Measured numbers in a narrow terminal."""

import pytest

from ssd34.cli.evaluate import FEW, SHOWN_CLASSES, print_comparison, print_score
from ssd34.datasets.open import open_dataset
from ssd34.evaluate.bootstrap import Interval, match
from ssd34.evaluate.results import Results
from ssd34.evaluate.score import Difference, Differences, ScoreOptions, compare, score

TITLE = "/somewhere/with/a/long/name/coco-val.zip: 300 pictures, the file's own tail"


@pytest.fixture
def nothing_found(shapes, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    dataset = open_dataset(str(shapes))
    return dataset, Results.of([])


def test_a_title_is_not_broken_to_the_tables_width_and_names_another_metric(nothing_found, capsys):
    dataset, results = nothing_found
    found = score(dataset, results, ScoreOptions(resamples=0))
    print_score(found, title=TITLE)
    assert capsys.readouterr().out.splitlines()[0] == TITLE
    object.__setattr__(found, "metric", "zoo-2021")
    print_score(found, title=TITLE)
    title = capsys.readouterr().out.splitlines()[0]
    assert title == f"{TITLE}, metric zoo-2021, not COCO's"


def test_file_names_stay_whole_below_a_comparison(nothing_found, capsys):
    dataset, results = nothing_found
    matched = match(dataset, results)
    names = ("a" * 70 + ".json", "b" * 70 + ".json")
    found = compare(matched, matched, resamples=10, seed=0)
    print_comparison(found, title=TITLE, names=names)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == TITLE
    assert lines[-3:-1] == [f"A: {names[0]}", f"B: {names[1]}"]
    assert lines[-1].endswith("* where the interval leaves out 0")


def test_classes_beyond_those_shown_are_counted_below_them(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    gains = {
        f"class {k}": Difference(0.1, 0.1 + k / 100, Interval(0, k / 100) if k > 3 else None)
        for k in range(1, SHOWN_CLASSES + 4)
    }
    found = Differences(
        pictures=9, resamples=5, seed=0, second_better=0.9, summary={}, class_ap=gains
    )
    print_comparison(found, title=TITLE, names=("a", "b"))
    lines = capsys.readouterr().out.splitlines()
    (heading,) = (k for k, line in enumerate(lines) if "AP gained" in line)
    shown = [line.split("│")[1].strip() for line in lines[heading : heading + 10]]
    assert shown == ["AP gained", *(f"class {k}" for k in range(11, 3, -1)), "and 3 more"]
    assert lines[heading].replace("│", " ").split() == ["AP", "gained"]
    assert lines[-1] == FEW
