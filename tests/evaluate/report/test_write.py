from __future__ import annotations

import base64
import dataclasses
import io
import itertools
import json
import re
import sys

import numpy as np
import pytest
from PIL import Image

from ssd34.core.labels import COCO_LABELS
from ssd34.datasets.dataset import Dataset
from ssd34.errors import MissingExtraError
from ssd34.evaluate.report.page import (
    STEPS,
    check_report,
    describe_machine,
    list_versions,
    write_report,
)
from ssd34.evaluate.report.plots import NAMES
from ssd34.evaluate.results import Results
from ssd34.evaluate.score import ScoreOptions, score
from ssd34.files.tree import FolderFiles
from tests.evaluate.report.conftest import HOSTILE, Elements, report_of
from tests.support.scenes import every_error, result, sample


@pytest.fixture(scope="module")
def page(written):
    return Elements(written.read_text())


@pytest.fixture
def scene(tmp_path):
    return every_error(tmp_path / "images")


def decoded(address):
    kind, _, data = address.partition(";base64,")
    assert kind in ("data:image/png", "data:image/jpeg")
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_the_folder_has_page_numbers_and_every_plot_thrice(written):
    names = {f"plots/{n}{end}" for n in NAMES for end in (".png", "-dark.png", ".json")}
    found = {str(p.relative_to(written.parent)) for p in written.parent.rglob("*") if p.is_file()}
    assert found == {"report.html", "report.json"} | names
    for name in NAMES:
        assert "NaN" not in (written.parent / "plots" / f"{name}.json").read_text()
        light, dark = (
            np.asarray(Image.open(written.parent / "plots" / f"{name}{end}").convert("L"))
            for end in (".png", "-dark.png")
        )
        assert light.shape == dark.shape and light.shape[1] == 1040
        assert light[0, 0] > 240 and dark[0, 0] < 60
        assert light.std() > 5 and dark.std() > 5


def test_the_data_of_a_plot_are_its_numbers(written):
    def data(name):
        return json.loads((written.parent / "plots" / f"{name}.json").read_text())

    assert [one["name"] for one in data("precision-recall-by-iou")["iou"]] == [
        f"{k / 100:.2f}" for k in range(50, 100, 5)
    ]
    assert len(data("precision-recall-by-iou")["recall"]) == 101
    assert data("confusion")["counts"] == [[1, 0, 4], [0, 1, 0], [0, 0, 0]]
    assert data("score-threshold")["best"] == 0.85
    assert {one["name"] for one in data("errors")["kinds"]} >= {"localisation", "missed"}
    assert sum(one["count"] for one in data("calibration")["bins"]) == 9
    numbers = json.loads((written.parent / "report.json").read_text())
    assert numbers["summary"]["AP50"] == pytest.approx(data("errors")["ap50"])
    assert numbers["intervals"]["resamples"] == 50
    assert numbers["provenance"]["machine"]["threads"] == "3"


def test_the_page_refers_to_nothing_outside_itself(page):
    for tag, attributes in page.found:
        assert tag not in ("script", "iframe", "object", "embed", "form")
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "srcset", "href"):
                assert value.startswith(("data:", "#")), (tag, value[:80])
    (policy,) = (m["content"] for m in page.all("meta") if "http-equiv" in m)
    assert "default-src 'none'" in policy
    assert not re.search(r"url\(|@import", page.text)
    targets = {attributes.get("id") for _, attributes in page.found}
    for link in page.all("a"):
        assert link["href"][1:] in targets


def test_names_are_text(page):
    assert page.all("b") == [] and page.all("script") == []
    assert "scene <b>bold</b>" in page.text
    assert HOSTILE in page.text and "犬 dog" in page.text
    assert "ssd34 evaluate 'a <b> model' --report out" in page.text


def test_every_picture_has_words_and_its_size(page):
    images = page.all("img")
    # Eight plots, and twice two pictures with two drawings each.
    assert len(images) == 16
    for image in images:
        assert len(image["alt"]) > 20
        picture = decoded(image["src"])
        ratio = int(image["width"]) / int(image["height"])
        assert ratio == pytest.approx(picture.width / picture.height, rel=0.01)
    for dark in page.all("source"):
        assert "dark" in dark["media"]
        assert np.asarray(decoded(dark["srcset"]).convert("L"))[0, 0] < 60


def test_headings_and_tables_say_what_they_are(page):
    levels = [int(tag[1]) for tag, _ in page.found if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))
    for cell in page.all("th"):
        assert cell["scope"] in ("row", "col")
    assert page.all("html")[0]["lang"] == "en"
    assert page.all("title") and page.all("main") and page.all("nav")


def test_the_numbers_stand_on_the_page(page, written):
    text = re.sub(r"\s+", " ", page.text)
    numbers = json.loads((written.parent / "report.json").read_text())
    for low, high in numbers["intervals"]["summary"].values():
        assert f"{low:.4f} to {high:.4f}" in text
    assert "the middle 95 % of the spread of 50 draws" in text
    assert "the score 0.850 gives the best F1, 0.500: 100.0 %" in text
    for name, version in list_versions().items():
        assert f"{name}{version}" in text.replace(" ", "")
    for value in describe_machine(threads=3).values():
        assert value in text


def test_right_and_wrong_have_colours_in_the_gallery(page):
    """In the best picture the object is blue; in the worst it is orange."""
    drawn = [decoded(i["src"]).convert("RGB") for i in page.all("img") if "jpeg" in i["src"][:20]]

    def has(picture, colour):
        near = np.abs(np.asarray(picture, int) - colour).max(axis=-1) < 40
        return int(near.sum()) > 40

    blue, orange = (0, 140, 220), (235, 110, 20)
    best_truth, best_found = drawn[0], drawn[1]
    worst_truth, worst_found = drawn[4], drawn[5]
    assert has(best_truth, blue) and has(best_found, blue) and not has(best_found, orange)
    assert has(worst_truth, orange) and not has(worst_truth, blue)
    assert not has(worst_found, blue)


def test_nothing_to_measure_is_a_page_and_old_plots_go(scene, tmp_path):
    dataset, _ = scene
    folder = tmp_path / "out"
    (folder / "plots").mkdir(parents=True)
    (folder / "plots" / "calibration.png").write_bytes(b"old")
    (folder / "plots" / "mine.txt").write_text("kept")
    steps: list[int] = []
    bare = dataclasses.replace(dataset, samples=dataset.samples[-1:])
    text = write_report(folder, report_of(bare, Results.of([])), progress=steps.append).read_text()
    assert "nothing to draw" in text and not re.search(r"\bnan\b", text)
    assert [p.name for p in (folder / "plots").iterdir()] == ["mine.txt"]
    assert steps == sorted(steps) and steps[-1] == STEPS
    Elements(text)


@pytest.mark.usefixtures("no_plots")
def test_objects_and_no_detections(scene, tmp_path):
    dataset, _ = scene
    text = write_report(tmp_path, report_of(dataset, Results.of([]), pictures=1)).read_text()
    assert "In no picture was anything found" in text


@pytest.mark.usefixtures("no_plots")
def test_unreadable_pictures_are_left_out_of_the_gallery(scene, tmp_path):
    dataset, results = scene
    (tmp_path / "images" / "1.png").write_bytes(b"no picture")
    (tmp_path / "images" / "2.png").unlink()
    text = write_report(tmp_path / "out", report_of(dataset, results, pictures=1)).read_text()
    shown = [i["alt"][:5] for i in Elements(text).all("img") if "jpeg" in i["src"][:20]]
    assert shown == ["6.png", "6.png", "3.png", "3.png"]


@pytest.mark.usefixtures("no_plots")
def test_equal_input_gives_equal_files(scene, tmp_path):
    dataset, results = scene
    report = report_of(dataset, results, pictures=1)
    first, second = (write_report(tmp_path / name, report) for name in "ab")
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.usefixtures("no_plots")
def test_chosen_classes_have_a_curve(scene, tmp_path):
    dataset, results = scene
    report = report_of(dataset, results, classes=["dog"], pictures=0)
    page = Elements(write_report(tmp_path / "out", report).read_text())
    (alt,) = (image["alt"] for image in page.all("img") if "these classes" in image["alt"])
    assert "dog" in alt and "cat" not in alt


@pytest.mark.parametrize("module", ["matplotlib", "jinja2"])
def test_a_missing_library_is_named(scene, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=re.escape("'ssd34[report]'")):
        check_report(scene[0], ())


def test_the_machine_has_threads_only_where_something_ran():
    assert describe_machine(threads=3) == {**describe_machine(), "threads": "3"}
    assert describe_machine()["processor"] and "threads" not in describe_machine()


@pytest.mark.usefixtures("no_plots")
def test_the_metric_with_defects_is_named(tmp_path):
    """And what it does not see is not in the report. An object of 32 x 32 pixels is of two sizes,
    and one object."""
    (tmp_path / "1.png").write_bytes(b"")
    crowd = sample(
        1, [(10, 10, 42, 42), (60, 60, 90, 90)], [1, COCO_LABELS.label("toaster")], crowd=[0]
    )
    dataset = Dataset("coco", COCO_LABELS, (crowd,), FolderFiles(tmp_path))
    results = Results.of(
        [result(1, 1, (10, 10, 42, 42), 0.9), result(1, 80, (60, 60, 90, 90), 0.8)]
    )
    report = report_of(dataset, results)
    options = ScoreOptions(metric="zoo-2021", resamples=0)
    report = dataclasses.replace(report, score=score(dataset, results, options))
    text = write_report(tmp_path / "out", report).read_text()
    assert "The metric is zoo-2021" in text and "toaster" not in text
    assert (
        "1 objects" in text
        and "The metric is"
        not in write_report(tmp_path / "true", report_of(dataset, results)).read_text()
    )
    assert "Some or all pictures could not be read" in text
