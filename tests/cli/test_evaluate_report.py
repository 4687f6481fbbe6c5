"""What ``ssd34 evaluate`` prints in a narrow terminal, and ``--report``; what stands on the page is
tested in tests/evaluate/report."""

from __future__ import annotations

import hashlib
import json

import pytest

from ssd34.cli.evaluate import FEW, SHOWN_CLASSES, print_comparison, print_score
from ssd34.datasets.open import open_dataset
from ssd34.evaluate.bootstrap import Interval, match
from ssd34.evaluate.results import Results
from ssd34.evaluate.score import Difference, Differences, ScoreOptions, compare, score
from ssd34.workflows import scoring
from tests.conftest import shapes_dataset

pytestmark = pytest.mark.usefixtures("no_plots")


def test_a_model_is_reported(run_evaluate, tiny_model, shapes, tmp_path):
    folder = tmp_path / "out" / "a b"
    code, out, err = run_evaluate(
        tiny_model, "--data", shapes, "--report", folder, "--json", folder / "ap.json",
        "--resamples", 20, "--threads", 1, "--report-class", "disc", "--limit", 9,
    )  # fmt: skip
    assert code == 0 and "AP50" in out
    assert err == f"report: {folder / 'report.html'}\n"
    assert {p.name for p in folder.iterdir()} == {"report.html", "report.json", "plots", "ap.json"}
    numbers = json.loads((folder / "report.json").read_text())
    told = json.loads((folder / "ap.json").read_text())
    assert numbers["summary"] == told["summary"] and numbers["intervals"] == told["intervals"]
    assert numbers["title"] == "tiny.onnx on set"
    origin = numbers["provenance"]
    assert origin["command"].startswith(f"ssd34 evaluate {tiny_model} --data {shapes} --report '")
    digest = hashlib.sha256(tiny_model.read_bytes()).hexdigest()
    assert origin["inputs"]["model SHA-256"] == digest
    assert origin["inputs"]["annotations SHA-256"] == told["data_sha256"]
    assert origin["inputs"]["limit"] == "the first 9 pictures"
    assert origin["inputs"]["policy"] == "the file's own tail"
    assert origin["machine"]["threads"] == "1"
    assert "disc (AP50" in (folder / "report.html").read_text()


def test_detections_are_reported_with_pictures_or_without(run_evaluate, shapes, tmp_path):
    """The same numbers; the gallery needs the pictures."""
    values = json.loads((shapes / "instances.json").read_text())
    found = [
        {k: one[k] for k in ("image_id", "category_id", "bbox")} | {"score": 0.9}
        for one in values["annotations"][:9]
    ]
    (tmp_path / "found.json").write_text(json.dumps(found))
    alone = tmp_path / "alone.json"
    alone.write_text(json.dumps(values))
    pages = {}
    for name, data in (("with", shapes / "instances.json"), ("without", alone)):
        code, _, err = run_evaluate(
            "--data", data, "--detections", tmp_path / "found.json", "--resamples", 0,
            "--report", tmp_path / name,
        )  # fmt: skip
        assert code == 0, err
        pages[name] = (tmp_path / name / "report.html").read_text()
    shown = {name: page.count("data:image/jpeg") for name, page in pages.items()}
    assert shown["with"] >= 8 and shown["without"] == 0
    assert "could not be read and are not shown" in pages["without"]
    both = [json.loads((tmp_path / k / "report.json").read_text()) for k in pages]
    assert both[0]["summary"] == both[1]["summary"]
    inputs = both[0]["provenance"]["inputs"]
    digest = hashlib.sha256((tmp_path / "found.json").read_bytes()).hexdigest()
    assert inputs["detections SHA-256"] == digest
    assert inputs["data file SHA-256"]
    assert "threads" not in both[0]["provenance"]["machine"]


def test_other_outputs_may_lie_in_the_new_folder(run_evaluate, tiny_model, shapes, tmp_path):
    code, _, _ = run_evaluate(
        tiny_model, "--data", shapes, "--limit", 2, "--resamples", 0, "--json", tmp_path / "a.json",
        "--report", tmp_path / "out", "--detections", tmp_path / "out" / "found.json",
    )  # fmt: skip
    assert code == 0 and (tmp_path / "out" / "found.json").exists()


def test_an_interrupted_report_goes_on(run_evaluate, monkeypatch, tiny_model, tmp_path):
    """The folder of the report holds what was done, as other outputs do."""
    data = shapes_dataset(tmp_path / "set", pictures=3)
    arguments = (tiny_model, "--data", data, "--report", tmp_path / "out", "--resamples", 0)
    with monkeypatch.context() as patched:
        patched.setattr(scoring, "score", interrupt)
        code, _, err = run_evaluate(*arguments)
    assert code == 130 and "--resume" in err
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["report.html.partial"]
    code, _, err = run_evaluate(*arguments, "--resume")
    assert code == 0 and (tmp_path / "out" / "report.html").exists()
    assert not (tmp_path / "out" / "report.html.partial").exists()


def interrupt(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("MODEL", "--policy", "all"), "--policy all"),
        (("--compare", "a.json", "b.json"), "--compare"),
        (("MODEL", "--report-class", "disk"), "disc"),
        (("MODEL", "--metric", "zoo-2021"), "zoo-2021"),
    ],
)
def test_what_cannot_be_reported_is_one_line(
    run_evaluate, tiny_model, shapes, tmp_path, arguments, word
):  # fmt: skip
    given = [tiny_model if word == "MODEL" else word for word in arguments]
    code, _, err = run_evaluate(*given, "--data", shapes, "--report", tmp_path / "out")
    assert code == 2 and word in err
    assert not (tmp_path / "out" / "report.html").exists()


def test_a_file_in_the_way_and_curves_without_a_report(run_evaluate, tiny_model, shapes, tmp_path):
    (tmp_path / "out").write_text("mine")
    code, _, err = run_evaluate(tiny_model, "--data", shapes, "--report", tmp_path / "out")
    assert code == 2 and str(tmp_path / "out") in err
    assert (tmp_path / "out").read_text() == "mine"
    code, _, err = run_evaluate(tiny_model, "--data", shapes, "--report-class", "disc")
    assert code == 2 and "--report DIR" in err


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
