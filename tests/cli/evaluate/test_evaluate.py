from __future__ import annotations

import hashlib
import json
import os
import re

import onnx
import pytest
from click.testing import CliRunner
from PIL import Image

from ssd34.cli import app
from ssd34.core.postprocess import POLICIES
from ssd34.runtime.detector import Detector
from ssd34.runtime.session import Session
from ssd34.workflows import evaluate as workflow
from tests.conftest import COCO_NUMBERS as NAMES
from tests.conftest import TINY_LABELS, shapes_dataset
from tests.support.coco_oracle import assert_same_summary, oracle


def evaluate(*arguments, code=0):
    """Run `ssd34 evaluate` in this process; errors come out as they are raised."""
    result = CliRunner().invoke(
        app.commands, ["evaluate", *map(str, arguments)], catch_exceptions=False
    )
    assert result.exit_code == code, result.output
    return result


def expected_of(data, detections):
    """pycocotools' twelve numbers of two files."""
    return oracle(
        json.loads((data / "instances.json").read_text()), json.loads(detections.read_text())
    )[0]


@pytest.fixture(scope="module")
def found_boxes(tiny_model, tmp_path_factory):
    """Pictures whose boxes lie about where the tiny network finds something."""
    folder = shapes_dataset(tmp_path_factory.mktemp("found") / "set", pictures=5, seed=4)
    values = json.loads((folder / "instances.json").read_text())
    detector = Detector.load(tiny_model)
    values["annotations"] = []
    for image in values["images"]:
        found = detector.detect(folder / "images" / image["file_name"], score=0)
        for row in found.to_coco(image["id"])[:40:4]:
            left, top, width, height = row["bbox"]
            box = [round(left), round(top), max(1, round(width)), max(1, round(height))]
            values["annotations"].append(
                {
                    "id": len(values["annotations"]) + 1,
                    "image_id": image["id"],
                    "category_id": row["category_id"],
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    (folder / "instances.json").write_text(json.dumps(values))
    return folder


def test_shapes_give_twelve_numbers_as_json_and_detections(tiny_model, shapes, tmp_path):
    report, detections = tmp_path / "report.json", tmp_path / "detections.json"
    result = evaluate(tiny_model, "--data", shapes, "--json", report, "--detections", detections)
    assert result.stderr == ""
    values = json.loads(report.read_text())
    assert set(values) == {
        "model", "data", "classes", "policy", "pictures", "summary", "class_ap", "class_ap50",
        "model_sha256", "engine", "problems", "unreadable", "ssd34", "area_class_ap", "limit",
        "data_sha256", "metric", "intervals", "preprocess", "tail_cut", "int8", "precision_at",
    }  # fmt: skip
    assert values["model_sha256"] == hashlib.sha256(tiny_model.read_bytes()).hexdigest()
    assert (values["problems"], values["unreadable"]) == (0, 0)
    assert values["model"] == str(tiny_model) and values["data"] == str(shapes)
    assert values["pictures"] == 12
    assert set(values["class_ap"]) == set(values["class_ap50"]) == set(TINY_LABELS.names)
    rows = json.loads(detections.read_text())
    assert len(rows) > 500
    for row in rows:
        assert set(row) == {"image_id", "category_id", "bbox", "score"}
        assert row["image_id"] in range(1, 13) and row["category_id"] in TINY_LABELS.category_ids
        assert len(row["bbox"]) == 4 and min(row["bbox"][2:]) >= 0 and 0 < row["score"] < 1
    assert_same_summary(values["summary"], expected_of(shapes, detections))


def test_numbers_are_those_of_pycocotools(tiny_model, found_boxes, tmp_path):
    report, detections = tmp_path / "report.json", tmp_path / "detections.json"
    result = evaluate(
        tiny_model, "--data", found_boxes, "--json", report, "--detections", detections
    )
    summary = json.loads(report.read_text())["summary"]
    assert summary["AP50"] > 0.1
    assert_same_summary(summary, expected_of(found_boxes, detections))
    # The printed table shows the same numbers.
    for name, value in summary.items():
        shown = "-" if value is None else f"{value:.4f}"
        (line,) = (k for k in result.stdout.splitlines() if f"│ {name} " in k)
        assert shown in line


def test_raw_model_under_the_zoo_policy_scores_as_the_tail(
    tiny_model, tiny_raw_model, found_boxes, tmp_path
):
    for name, model in (("tail", tiny_model), ("raw", tiny_raw_model)):
        evaluate(model, "--data", found_boxes, "--json", tmp_path / f"{name}.json")
    tail, raw = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("tail", "raw"))
    assert tail["policy"] == "the file's own tail" and raw["policy"] == "zoo"
    for name in NAMES:
        assert raw["summary"][name] == pytest.approx(tail["summary"][name], abs=5e-3), name


def test_policy_counts_for_raw_models(tiny_raw_model, found_boxes, tmp_path):
    for policy in ("zoo", "mlperf"):
        evaluate(
            tiny_raw_model, "--data", found_boxes, "--policy", policy,
            "--json", tmp_path / f"{policy}.json",
        )  # fmt: skip
    zoo, mlperf = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("zoo", "mlperf"))
    assert (zoo["policy"], mlperf["policy"]) == ("zoo", "mlperf")
    assert mlperf["summary"]["AP50"] > 0.1


def test_class_counts_only_that_class(tiny_model, found_boxes, tmp_path):
    def report(*options):
        evaluate(tiny_model, "--data", found_boxes, "--json", tmp_path / "r.json", *options)
        return json.loads((tmp_path / "r.json").read_text())

    everything = report()
    present = [name for name in TINY_LABELS.names if name in everything["class_ap"]]
    assert len(present) >= 2
    for name in present:
        alone = report("--class", name)
        assert set(alone["class_ap"]) == {name}
        assert (alone["classes"], everything["classes"]) == ([name], None)
        assert alone["class_ap"][name] == pytest.approx(everything["class_ap"][name], abs=1e-12)
        assert alone["summary"]["AP"] == pytest.approx(everything["class_ap"][name], abs=1e-12)


def test_broken_picture_is_reported_and_counts_as_empty(run_evaluate, tiny_model, tmp_path):
    folder = shapes_dataset(tmp_path / "set", pictures=3)
    (folder / "images" / "0002.png").write_bytes(b"no picture")
    detections = tmp_path / "detections.json"
    code, _, err = run_evaluate(tiny_model, "--data", folder, "--detections", detections)
    assert code == 1
    lines = err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("warning: 0002.png: not a picture")
    assert lines[1] == "warning: 1 of 3 pictures could not be read and counts as empty"
    assert {row["image_id"] for row in json.loads(detections.read_text())} == {1, 3}


def test_problems_of_the_data_set_are_warnings_and_exit_1(run_evaluate, tiny_model, tmp_path):
    folder = shapes_dataset(tmp_path / "set", pictures=3)
    (folder / "images" / "0002.png").unlink()
    code, _, err = run_evaluate(tiny_model, "--data", folder, "--json", tmp_path / "r.json")
    assert code == 1
    assert err == f"warning: {folder}: left out 0002.png: the picture is missing\n"
    assert json.loads((tmp_path / "r.json").read_text())["pictures"] == 2


def test_data_set_without_boxes_gives_no_numbers(tiny_model, tmp_path):
    folder = shapes_dataset(tmp_path / "set", pictures=1)
    values = json.loads((folder / "instances.json").read_text())
    (folder / "instances.json").write_text(json.dumps(values | {"annotations": []}))
    result = evaluate(tiny_model, "--data", folder, "--json", tmp_path / "r.json")
    summary = json.loads((tmp_path / "r.json").read_text())["summary"]
    assert tuple(summary) == NAMES and set(summary.values()) == {None}
    assert "nan" not in result.stdout.lower()


def test_paths_with_brackets_are_no_markup(run_evaluate, tiny_model, tmp_path):
    folder = shapes_dataset(tmp_path / "set[/red]", pictures=1)
    code, out, err = run_evaluate(tiny_model, "--data", folder)
    assert (code, err) == (0, "")
    assert "[/red]" in out.replace("\n", "").replace(" ", "")


def unusable(kind, root, model, shapes):
    """Arguments and a word that the message must have."""
    renamed = shapes_dataset(root / "renamed", pictures=1)
    values = json.loads((renamed / "instances.json").read_text())
    for category in values["categories"]:
        category["name"] += " of another kind"
    (renamed / "instances.json").write_text(json.dumps(values))
    picture = root / "a.png"
    Image.new("RGB", (4, 4)).save(picture)
    return {
        "no common class": ([model, "--data", renamed], "no class in common"),
        "missing data": ([model, "--data", root / "no"], "no such data set"),
        "picture as data": ([model, "--data", picture], "not a zip"),
        "unknown class": ([model, "--data", shapes, "--class", "disk"], "disc"),
        "missing model": ([root / "no.onnx", "--data", shapes], "no such model"),
        "picture as model": ([picture, "--data", shapes], "not an ONNX file"),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "no common class",
        "missing data",
        "picture as data",
        "unknown class",
        "missing model",
        "picture as model",
    ],
)
def test_unusable_input_is_one_line_and_exit_code_two(
    run_evaluate, tiny_model, shapes, tmp_path, kind
):
    arguments, word = unusable(kind, tmp_path, tiny_model, shapes)
    code, out, err = run_evaluate(*arguments, "--json", tmp_path / "r.json")
    assert (code, out) == (2, "")
    assert word in err
    assert list(tmp_path.glob("r.json*")) == []


@pytest.mark.parametrize("option", ["--json", "--detections"])
@pytest.mark.parametrize("target", ["no/r.json", "."])
def test_bad_output_is_noticed_before_the_work(
    run_evaluate, tiny_model, shapes, tmp_path, option, target
):
    code, out, _ = run_evaluate(tiny_model, "--data", shapes, option, tmp_path / target)
    assert code == 2
    assert out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["m.onnx", "set/instances.json", "picture"])
@pytest.mark.parametrize("data", ["set", "set/instances.json"])
def test_output_over_an_input_is_refused(run_evaluate, tiny_model, tmp_path, target, data):
    shapes_dataset(tmp_path / "set", pictures=2)
    (tmp_path / "m.onnx").write_bytes(tiny_model.read_bytes())
    if target == "picture":
        target = next((tmp_path / "set" / "images").iterdir())
    kept = tmp_path / target
    before = kept.read_bytes()
    code, out, err = run_evaluate(tmp_path / "m.onnx", "--data", tmp_path / data, "--json", kept)
    assert (code, out) == (2, "")
    assert str(kept) in err
    assert kept.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "set"]


def test_an_earlier_output_in_the_data_sets_folder_is_replaced(tiny_model, tmp_path):
    shapes_dataset(tmp_path / "set", pictures=2)
    for _ in range(2):
        evaluate(tiny_model, "--data", tmp_path / "set", "--json", tmp_path / "set" / "ap.json")


def test_somebodys_detections_are_not_overwritten(run_evaluate, tiny_model, shapes, tmp_path):
    theirs = tmp_path / "theirs.json"
    theirs.write_text("[]")
    arguments = (tiny_model, "--data", shapes, "--limit", 2, "--detections", theirs)
    code, out, err = run_evaluate(*arguments)
    assert (code, out) == (2, "")
    assert str(theirs) in err and "--overwrite" in err
    assert theirs.read_text() == "[]"
    assert run_evaluate(*arguments, "--overwrite")[0] == 0
    assert json.loads(theirs.read_text())
    assert run_evaluate(*arguments, "--resume")[0] == 0
    assert [p.name for p in tmp_path.iterdir()] == ["theirs.json"]


def test_scored_detections_and_their_report_are_two_files(run_evaluate, shapes, tmp_path):
    (tmp_path / "found.json").write_text("[]")
    arguments = ("--data", shapes, "--detections", tmp_path / "found.json")
    code, _, err = run_evaluate(*arguments, "--json", tmp_path / "found.json")
    assert code == 2 and "found.json" in err
    assert (tmp_path / "found.json").read_text() == "[]"


def test_a_report_needs_scores_that_it_can_draw(
    run_evaluate, found_boxes, found_detections, tmp_path
):
    """Any score can be ranked; of what rounding adds a report takes no notice."""
    found = json.loads(found_detections[1].read_text())
    found[0]["score"] = 1.0000001
    file, numbers, report = (tmp_path / name for name in ("d.json", "r.json", "report"))
    arguments = ("--data", found_boxes, "--detections", file, "--json", numbers)
    file.write_text(json.dumps(found))
    assert run_evaluate(*arguments, "--report", report)[0] == 0
    assert json.loads(numbers.read_text())["summary"]["AP"] > 0
    found[0]["score"] = 37.5
    file.write_text(json.dumps(found))
    code, _, err = run_evaluate(*arguments, "--report", tmp_path / "other")
    assert code == 2
    assert str(file) in err and "37.5" in err and "--report" in err
    assert run_evaluate(*arguments)[0] == 0


@pytest.mark.skipif(not os.path.exists("/dev/null"), reason="no such device")
def test_a_device_as_output_keeps_nothing(run_evaluate, monkeypatch, tiny_model, shapes):
    assert run_evaluate(tiny_model, "--data", shapes, "--limit", 2, "--json", "/dev/null")[0] == 0
    assert not os.path.isfile("/dev/null")
    interrupted_at(monkeypatch, 8)
    code, _, err = run_evaluate(tiny_model, "--data", shapes, "--json", "/dev/null")
    assert code == 130 and "not kept" in err and not os.path.exists("/dev/null.partial")


# --- limit, interruption, resumption --------------------------------------------------------


def test_limit_takes_the_first_pictures(tiny_model, shapes, tmp_path):
    report, detections = tmp_path / "r.json", tmp_path / "d.json"
    evaluate(
        tiny_model, "--data", shapes, "--limit", 4, "--json", report, "--detections", detections
    )
    values = json.loads(report.read_text())
    assert (values["limit"], values["pictures"]) == (4, 4)
    assert {row["image_id"] for row in json.loads(detections.read_text())} == {1, 2, 3, 4}
    evaluate(tiny_model, "--data", shapes, "--limit", 99, "--json", report)
    assert json.loads(report.read_text())["pictures"] == 12


def interrupted_at(monkeypatch, number, *, method="run_detections"):
    """The keyboard interrupts the run while the given picture is looked at."""
    looked = 0
    run = getattr(Session, method)

    def counted(self, images):
        nonlocal looked
        looked += 1
        if looked == number:
            raise KeyboardInterrupt
        return run(self, images)

    monkeypatch.setattr(Session, method, counted)


@pytest.mark.parametrize("output", ["--json", "--detections"])
def test_an_interrupted_run_goes_on(
    run_evaluate, monkeypatch, tiny_model, shapes, tmp_path, output
):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    arguments = (tiny_model, "--data", shapes, output)
    assert run_evaluate(*arguments, whole)[0] == 0
    with monkeypatch.context() as context:
        interrupted_at(context, 8)
        code, out, err = run_evaluate(*arguments, resumed)
    assert (code, out) == (130, "")
    kept = re.search(
        r"(\d+) of 12 pictures done, kept in .*resumed.partial; go on with --resume", err
    )
    assert kept and 4 <= int(kept[1]) < 8
    assert not resumed.exists()
    # It is not thrown away by mistake.
    code, _, err = run_evaluate(*arguments, resumed)
    assert code == 2 and "--resume" in err
    # Another model's detections are not mixed in.
    with monkeypatch.context() as context:
        interrupted_at(context, 1)
        code, out, err = run_evaluate(*arguments, resumed, "--resume", "--limit", 11)
    assert code == 2 and "data sha256" in err
    with monkeypatch.context() as context:
        interrupted_at(context, 12)  # looks only at what is missing
        code, _, err = run_evaluate(*arguments, resumed, "--resume")
    assert (code, err) == (0, "")
    assert resumed.read_bytes() == whole.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["resumed", "whole"]


def test_the_faster_engine_of_an_interrupted_run_goes_on(
    run_evaluate, monkeypatch, tiny_model, shapes, tmp_path
):
    arguments = (tiny_model, "--data", shapes, "--json", tmp_path / "r.json")
    with monkeypatch.context() as context:
        interrupted_at(context, 8)
        assert run_evaluate(*arguments)[0] == 130

    def measured_again(*_, **__):
        raise AssertionError("the other one might be the faster now")

    monkeypatch.setattr("ssd34.runtime.session.choose_faster_engine", measured_again)
    code, _, err = run_evaluate(*arguments, "--resume", "--engine", "auto")
    assert (code, err) == (0, "")
    assert json.loads((tmp_path / "r.json").read_text())["engine"] == "onnxruntime"


def test_an_interruption_while_the_outputs_are_written_says_what_is_kept(
    run_evaluate, monkeypatch, tiny_model, shapes, tmp_path
):
    def interrupt(*_):
        raise KeyboardInterrupt

    arguments = (
        tiny_model, "--data", shapes, "--limit", 3, "--resamples", 0,
        "--json", tmp_path / "r.json", "--detections", tmp_path / "d.json",
    )  # fmt: skip
    with monkeypatch.context() as context:
        context.setattr(workflow, "write_results", interrupt)
        code, _, err = run_evaluate(*arguments)
    assert code == 130
    partial = tmp_path / "r.json.partial"
    assert err.startswith(f"3 of 3 pictures done, kept in {partial}; go on with --resume")
    assert run_evaluate(*arguments, "--resume")[0] == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.json", "r.json"]


def test_resume_with_nothing_there_begins(run_evaluate, tiny_model, shapes, tmp_path):
    arguments = (tiny_model, "--data", shapes, "--json", tmp_path / "r.json", "--resume")
    assert run_evaluate(*arguments)[0] == 0
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


def test_without_an_output_nothing_is_kept(run_evaluate, monkeypatch, tiny_model, shapes, tmp_path):
    monkeypatch.chdir(tmp_path)
    interrupted_at(monkeypatch, 8)
    code, _, err = run_evaluate(tiny_model, "--data", shapes)
    assert code == 130 and "not kept" in err
    assert list(tmp_path.iterdir()) == []
    code, _, err = run_evaluate(tiny_model, "--data", shapes, "--resume")
    assert code == 2 and "--json" in err


# --- detections in files --------------------------------------------------------------------


@pytest.fixture
def found_detections(tiny_model, found_boxes, tmp_path):
    """The report and the detections of the tiny model."""
    report, detections = tmp_path / "of-model.json", tmp_path / "found.json"
    evaluate(tiny_model, "--data", found_boxes, "--json", report, "--detections", detections)
    return json.loads(report.read_text()), detections


def test_detections_alone_are_scored_and_left_as_they_are(found_boxes, found_detections, tmp_path):
    of_model, detections = found_detections
    before = detections.read_bytes()
    result = evaluate(
        "--data", found_boxes, "--detections", detections, "--json", tmp_path / "r.json"
    )
    values = json.loads((tmp_path / "r.json").read_text())
    for key in ("summary", "class_ap", "intervals", "pictures", "data_sha256", "metric"):
        assert values[key] == of_model[key]
    assert values["detections"] == str(detections)
    assert values["detections_sha256"] == hashlib.sha256(before).hexdigest()
    assert "model_sha256" not in values  # no card may take it for a model's
    assert detections.read_bytes() == before
    assert f"{values['summary']['AP']:.4f}" in result.stdout
    low, high = values["intervals"]["summary"]["AP"]
    assert f"{low:.4f} to {high:.4f}" in result.stdout


def test_detections_are_scored_without_the_pictures(found_boxes, found_detections, tmp_path):
    of_model, detections = found_detections
    alone = tmp_path / "annotations.json"
    alone.write_bytes((found_boxes / "instances.json").read_bytes())
    evaluate("--data", alone, "--detections", detections, "--json", tmp_path / "r.json")
    values = json.loads((tmp_path / "r.json").read_text())
    assert values["summary"] == of_model["summary"]
    assert values["data_sha256"] == of_model["data_sha256"]


def test_class_and_limit_take_parts_of_the_detections(found_boxes, found_detections, tmp_path):
    of_model, detections = found_detections
    name = next(iter(of_model["class_ap"]))
    arguments = ("--data", found_boxes, "--detections", detections, "--json", tmp_path / "r.json")
    evaluate(*arguments, "--class", name)
    values = json.loads((tmp_path / "r.json").read_text())
    assert values["class_ap"] == {name: of_model["class_ap"][name]}
    evaluate(*arguments, "--limit", 2, "--resamples", 0)
    values = json.loads((tmp_path / "r.json").read_text())
    assert (values["pictures"], values["limit"], values["intervals"]) == (2, 2, None)


def test_detections_of_too_few_pictures_are_asked_about(
    run_evaluate, found_boxes, found_detections, tmp_path
):
    _, detections = found_detections
    rows = json.loads(detections.read_text())
    first = tmp_path / "first.json"
    first.write_text(json.dumps([row for row in rows if row["image_id"] <= 2]))
    code, _, err = run_evaluate("--data", found_boxes, "--detections", first)
    assert code == 0
    assert err.startswith(f"warning: {first}: has no detections in the last 3 of 5 pictures")
    assert run_evaluate("--data", found_boxes, "--detections", first, "--limit", 2)[2] == ""


def test_empty_detections_score_zero(found_boxes, tmp_path):
    (tmp_path / "none.json").write_text("[]")
    evaluate(
        "--data", found_boxes, "--detections", tmp_path / "none.json", "--json", tmp_path / "r"
    )
    assert json.loads((tmp_path / "r").read_text())["summary"]["AP"] == 0


def test_coco_names_leave_the_ids_that_detections_have(tmp_path):
    """Here 1 and 2 are not what they are in COCO's own numbering."""
    folder = shapes_dataset(tmp_path / "set", pictures=4)
    values = json.loads((folder / "instances.json").read_text())
    names = {3: (2, "person"), 7: (1, "cat"), 11: (9, "tvmonitor")}
    values["categories"] = [{"id": k, "name": name} for k, name in names.values()]
    for annotation in values["annotations"]:
        annotation["category_id"] = names[annotation["category_id"]][0]
    (folder / "instances.json").write_text(json.dumps(values))
    keys = ("image_id", "category_id", "bbox")
    rows = [{**{k: a[k] for k in keys}, "score": 0.9} for a in values["annotations"]]
    by_name = [
        {**row, "file_name": f"x/{row['image_id']:04}.png", "category_id": 0, "category_name": name}
        for row in rows
        for k, name in ((1, "cat"), (2, "person"), (9, "tv"))
        if row["category_id"] == k
    ]
    for detections in (rows, by_name):
        (tmp_path / "d.json").write_text(json.dumps(detections))
        evaluate(
            "--data", folder, "--detections", tmp_path / "d.json", "--coco-names",
            "--json", tmp_path / "r.json", "--resamples", 0,
        )  # fmt: skip
        class_ap = json.loads((tmp_path / "r.json").read_text())["class_ap"]
        assert class_ap == pytest.approx(dict.fromkeys(class_ap, 1.0))
        assert set(class_ap) <= {"cat", "person", "tv"} and len(class_ap) > 1


def test_two_files_are_compared(found_boxes, found_detections, tmp_path):
    _, detections = found_detections
    rows = json.loads(detections.read_text())
    half = tmp_path / "half.json"
    half.write_text(json.dumps(rows[::2]))
    result = evaluate(
        "--data", found_boxes, "--compare", detections, half, "--json", tmp_path / "r.json",
        "--resamples", 100,
    )  # fmt: skip
    values = json.loads((tmp_path / "r.json").read_text())
    assert (values["first"], values["second"]) == (str(detections), str(half))
    for side, file in (("first", detections), ("second", half)):
        expected = expected_of(found_boxes, file)
        for name in ("AP", "AP50", "AP75"):
            assert values["summary"][name][side] == pytest.approx(expected[name], abs=1e-9)
        assert values[f"{side}_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    ap = values["summary"]["AP"]
    assert ap["low"] <= ap["difference"] <= ap["high"] and values["resamples"] == 100
    assert f"{ap['difference']:+.4f}" in result.stdout
    assert all(name in result.stdout for name in values["class_ap"])


def test_a_comparison_without_draws(found_boxes, found_detections, tmp_path):
    _, detections = found_detections
    half = tmp_path / "half.json"
    half.write_text(json.dumps(json.loads(detections.read_text())[::2]))
    result = evaluate(
        "--data", found_boxes, "--compare", detections, half, "--json", tmp_path / "r.json",
        "--resamples", 0,
    )  # fmt: skip
    values = json.loads((tmp_path / "r.json").read_text())
    ap = values["summary"]["AP"]
    assert ap["difference"] == ap["second"] - ap["first"] != 0
    assert (ap["low"], ap["high"], values["second_better"]) == (None, None, None)
    assert f"{ap['difference']:+.4f}" in result.stdout
    assert "interval" not in result.stdout and "draws" not in result.stdout


def test_a_report_instead_of_detections_is_named(run_evaluate, shapes, tmp_path):
    report, found = tmp_path / "report.json", tmp_path / "found.json"
    report.write_text(json.dumps({"summary": {}}))
    found.write_text("[]")
    code, _, err = run_evaluate("--data", shapes, "--compare", found, report)
    assert code == 2 and "--detections wrote" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("default", "--compare", "a", "b"), "MODEL default"),
        (("--compare", "a", "b", "--detections", "c"), "--detections c"),
        (("--compare", "a", "b", "--policy", "zoo"), "--policy zoo"),
        (("--detections", "a", "--policy", "all"), "--policy all"),
        (("--detections", "a", "--resume"), "--resume"),
        (("--detections", "a", "--overwrite"), "--overwrite"),
        (("default", "--overwrite"), "give --detections FILE"),
        (("--detections", "a", "--threads", "2"), "--threads 2"),
        (("--detections", "a", "--engine", "openvino"), "--engine openvino"),
        (("--compare", "a", "b", "--engine", "onnxruntime"), "--engine onnxruntime"),
        (("--detections", "no.json"), "no.json: No such file"),
        (("--metric", "zoo-2021", "default"), "COCO's 80 classes"),
        (("default", "--policy", "all", "--detections", "a"), "one policy"),
        (("default", "--json", "a", "--detections", "a"), "a: "),
    ],
)
def test_options_that_do_not_go_together(
    run_evaluate, monkeypatch, shapes, tmp_path, arguments, words
):
    monkeypatch.chdir(tmp_path)
    code, out, err = run_evaluate("--data", shapes, *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert list(tmp_path.iterdir()) == []


# --- all policies ---------------------------------------------------------------------------


def test_all_policies_are_what_each_is_alone(tiny_raw_model, tiny_model, found_boxes, tmp_path):
    report = tmp_path / "r.json"
    together = {}
    for model in (tiny_raw_model, tiny_model):  # of the second the tail is cut off
        result = evaluate(model, "--data", found_boxes, "--policy", "all", "--json", report)
        values = json.loads(report.read_text())
        assert set(values["policies"]) == set(POLICIES)
        assert values["model_sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
        assert "summary" not in values
        together[model] = values["policies"]
        assert values["tail_cut"] == (model == tiny_model)
        assert all(name in result.stdout for name in POLICIES)
    for name, found in together[tiny_raw_model].items():
        evaluate(tiny_raw_model, "--data", found_boxes, "--policy", name, "--json", report)
        alone = json.loads(report.read_text())
        assert found == {key: alone[key] for key in found}
        other = together[tiny_model][name]
        for key, value in found["summary"].items():
            assert other["summary"][key] == pytest.approx(value, abs=5e-3)


@pytest.mark.parametrize("policy", ["best", "zoo"])
def test_one_policy_for_a_file_with_a_tail(
    tiny_raw_model, tiny_model, found_boxes, tmp_path, policy
):
    """Detections and numbers are those of the same network without the tail."""
    values = {}
    for name, model in (("raw", tiny_raw_model), ("cut", tiny_model)):
        report, detections = tmp_path / f"{name}.json", tmp_path / f"{name}-found.json"
        evaluate(
            model, "--data", found_boxes, "--policy", policy, "--json", report,
            "--detections", detections,
        )  # fmt: skip
        values[name] = json.loads(report.read_text()), json.loads(detections.read_text())
    (raw, raw_found), (cut, cut_found) = values["raw"], values["cut"]
    assert (raw["policy"], cut["policy"]) == (policy, policy)
    assert (raw["tail_cut"], cut["tail_cut"]) == (False, True)
    assert cut["summary"]["AP50"] == pytest.approx(raw["summary"]["AP50"], abs=5e-3)
    assert len(cut_found) == pytest.approx(len(raw_found), rel=0.01)
    one, other = (sorted((r["score"] for r in rows), reverse=True)[:20]
                  for rows in (raw_found, cut_found))  # fmt: skip
    assert other == pytest.approx(one, abs=1e-4)


def test_all_policies_go_on_too(run_evaluate, monkeypatch, tiny_raw_model, shapes, tmp_path):
    arguments = (tiny_raw_model, "--data", shapes, "--policy", "all", "--json")
    assert run_evaluate(*arguments, tmp_path / "whole")[0] == 0
    with monkeypatch.context() as context:
        interrupted_at(context, 8, method="run_raw")
        assert run_evaluate(*arguments, tmp_path / "resumed")[0] == 130
    code, _, err = run_evaluate(*arguments[:-2], "zoo", "--json", tmp_path / "resumed", "--resume")
    assert code == 2 and "policies" in err
    assert run_evaluate(*arguments, tmp_path / "resumed", "--resume")[0] == 0
    assert (tmp_path / "resumed").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_file_with_a_foreign_tail(run_evaluate, tiny_model, shapes, tmp_path):
    model = onnx.load(tiny_model)
    for node in model.graph.node:
        for names in (node.input, node.output):
            for k, name in enumerate(names):
                names[k] = name.replace("tail.", "end.")
    for tensor in model.graph.initializer:
        tensor.name = tensor.name.replace("tail.", "end.")
    onnx.save(model, tmp_path / "foreign.onnx")
    for policy in ("all", "best"):
        code, _, err = run_evaluate(tmp_path / "foreign.onnx", "--data", shapes, "--policy", policy)
        assert code == 2 and "--tail none" in err


# --- preprocessing --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Shapes of five times the size, as JPEG."""
    folder = shapes_dataset(tmp_path_factory.mktemp("large") / "set", pictures=4, seed=6)
    values = json.loads((folder / "instances.json").read_text())
    for image in values["images"]:
        path = folder / "images" / image["file_name"]
        image["file_name"] = path.with_suffix(".jpg").name
        image["width"], image["height"] = 5 * image["width"], 5 * image["height"]
        with Image.open(path) as picture:
            enlarged = picture.resize((image["width"], image["height"]))
        enlarged.save(path.with_suffix(".jpg"), quality=95)
    for annotation in values["annotations"]:
        annotation["bbox"] = [5 * value for value in annotation["bbox"]]
        annotation["area"] *= 25
    (folder / "instances.json").write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize("name", ["card", "fast"])
def test_a_preprocessing_is_the_detectors_own(tiny_raw_model, large, tmp_path, name):
    values, found = tmp_path / "r.json", tmp_path / "found.json"
    evaluate(
        tiny_raw_model, "--data", large, "--preprocess", name, "--resamples", 0,
        "--json", values, "--detections", found,
    )  # fmt: skip
    assert json.loads(values.read_text())["preprocess"] == name
    detector = Detector.load(tiny_raw_model, preprocessing=name)
    expected = [
        result["score"]
        for path in sorted((large / "images").glob("*.jpg"))
        for result in detector.detect(path, score=0).to_coco(0)
    ]
    scores = [result["score"] for result in json.loads(found.read_text())]
    assert sorted(scores) == pytest.approx(sorted(expected), abs=1e-5)


def test_both_preprocessings_at_once_name_what_stands_in_for_them(run_evaluate, tiny_model, large):
    code, out, err = run_evaluate(tiny_model, "--data", large, "--preprocess", "both")
    assert (code, out) == (2, "")
    assert "--preprocess both" in err and "--compare" in err


def test_preprocess_without_a_model_is_refused(run_evaluate, large, tmp_path):
    code, _, err = run_evaluate(
        "--data", large, "--detections", tmp_path / "x.json", "--preprocess", "fast"
    )
    assert code == 2 and "--preprocess fast: no model runs here" in err
