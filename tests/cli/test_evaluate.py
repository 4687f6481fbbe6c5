from __future__ import annotations

import hashlib
import json
import os
import re

import onnx
import pytest
from PIL import Image

from ssd34.core.postprocess import POLICIES
from ssd34.runtime.detector import Detector
from ssd34.runtime.session import Session
from ssd34.workflows import evaluate as workflow
from tests.conftest import COCO_NUMBERS as NAMES
from tests.conftest import TINY_LABELS, shapes_dataset
from tests.support.cli import invoke
from tests.support.coco_oracle import assert_same_summary, oracle


def evaluate(*arguments):
    return invoke("evaluate", *arguments)


def report_of(folder, *arguments):
    """What ``--json`` says."""
    evaluate(*arguments, "--json", folder / "report.json")
    return json.loads((folder / "report.json").read_text())


def expected_of(data, detections):
    """pycocotools' twelve numbers of two files."""
    return oracle(
        json.loads((data / "instances.json").read_text()), json.loads(detections.read_text())
    )[0]


def test_twelve_numbers_as_json_and_detections(tiny_model, found_shapes, tmp_path):
    """Those of pycocotools; the printed table shows the same."""
    report, detections = tmp_path / "report.json", tmp_path / "detections.json"
    result = evaluate(
        tiny_model, "--data", found_shapes, "--json", report, "--detections", detections
    )
    assert result.stderr == ""
    values = json.loads(report.read_text())
    assert set(values) == {
        "model", "data", "classes", "policy", "pictures", "summary", "class_ap", "class_ap50",
        "model_sha256", "engine", "problems", "unreadable", "ssd34", "area_class_ap", "limit",
        "data_sha256", "metric", "intervals", "preprocess", "tail_cut", "int8", "precision_at",
    }  # fmt: skip
    assert values["model_sha256"] == hashlib.sha256(tiny_model.read_bytes()).hexdigest()
    assert (values["problems"], values["unreadable"], values["pictures"]) == (0, 0, 12)
    assert values["model"] == str(tiny_model) and values["data"] == str(found_shapes)
    assert set(values["class_ap"]) == set(values["class_ap50"]) <= set(TINY_LABELS.names)
    rows = json.loads(detections.read_text())
    assert len(rows) > 500
    for row in rows:
        assert set(row) == {"image_id", "category_id", "bbox", "score"}
        assert row["image_id"] in range(1, 13) and row["category_id"] in TINY_LABELS.category_ids
        assert len(row["bbox"]) == 4 and min(row["bbox"][2:]) >= 0 and 0 < row["score"] < 1
    summary = values["summary"]
    assert summary["AP50"] > 0.1
    assert_same_summary(summary, expected_of(found_shapes, detections))
    for name, value in summary.items():
        shown = "-" if value is None else f"{value:.4f}"
        (line,) = (k for k in result.stdout.splitlines() if f"│ {name} " in k)
        assert shown in line


@pytest.mark.parametrize(("broken", "pictures"), [(True, 3), (False, 2)])
def test_broken_and_missing_pictures_are_warnings_and_exit_1(
    run_evaluate, tiny_model, tmp_path, broken, pictures
):
    """A broken one counts as empty, a missing one is left out."""
    folder = shapes_dataset(tmp_path / "set", pictures=3)
    picture, found = folder / "images" / "0002.png", tmp_path / "detections.json"
    if broken:
        picture.write_bytes(b"no picture")
    else:
        picture.unlink()
    code, _, err = run_evaluate(
        tiny_model, "--data", folder, "--json", tmp_path / "r.json", "--detections", found
    )
    lines = err.splitlines()
    assert (code, len(lines)) == (1, 2 if broken else 1)
    assert lines[0].startswith("warning: ") and "0002.png" in lines[0]
    assert not broken or "1 of 3 pictures" in lines[1]
    assert json.loads((tmp_path / "r.json").read_text())["pictures"] == pictures
    assert {row["image_id"] for row in json.loads(found.read_text())} == {1, 3}


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


def test_data_of_other_classes_and_a_class_that_is_not_there(
    run_evaluate, tiny_model, shapes, tmp_path
):
    renamed = shapes_dataset(tmp_path / "renamed", pictures=1)
    values = json.loads((renamed / "instances.json").read_text())
    for category in values["categories"]:
        category["name"] += " of another kind"
    (renamed / "instances.json").write_text(json.dumps(values))
    for data, more, fact in (
        (renamed, (), "no class in common"),
        (shapes, ("--class", "disk"), "disc"),
    ):
        code, out, err = run_evaluate(
            tiny_model, "--data", data, *more, "--json", tmp_path / "r.json"
        )
        assert (code, out) == (2, "") and fact in err
        assert list(tmp_path.glob("r.json*")) == []


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


def test_of_many_missing_pictures_the_first_are_named(tiny_model, tmp_path):
    folder = shapes_dataset(tmp_path / "set", pictures=9)
    for number in range(1, 8):
        (folder / "images" / f"{number:04}.png").unlink()
    told = invoke("evaluate", tiny_model, "--data", folder, "--resamples", 0, code=1).stderr
    assert "0005.png" in told and "0006.png" not in told and "left out 2 more" in told


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


@pytest.mark.usefixtures("no_plots")
def test_a_report_needs_scores_that_it_can_draw(
    run_evaluate, found_shapes, found_detections, tmp_path
):
    """Any score can be ranked; of what rounding adds a report takes no notice."""
    found = json.loads(found_detections[1].read_text())
    found[0]["score"] = 1.0000001
    file, numbers, report = (tmp_path / name for name in ("d.json", "r.json", "report"))
    arguments = ("--data", found_shapes, "--detections", file, "--json", numbers)
    file.write_text(json.dumps(found))
    assert run_evaluate(*arguments, "--report", report)[0] == 0
    assert json.loads(numbers.read_text())["summary"]["AP"] > 0
    found[0]["score"] = 37.5
    file.write_text(json.dumps(found))
    code, _, err = run_evaluate(*arguments, "--report", tmp_path / "other")
    assert code == 2
    assert str(file) in err and "37.5" in err and "--report" in err
    assert run_evaluate(*arguments)[0] == 0


# --- limit, interruption, resumption --------------------------------------------------------


def interrupted_at(monkeypatch, number):
    """The keyboard interrupts the run while the given picture is looked at."""
    looked = 0
    run = Session.compute

    def counted(self, images):
        nonlocal looked
        looked += 1
        if looked == number:
            raise KeyboardInterrupt
        return run(self, images)

    monkeypatch.setattr(Session, "compute", counted)


@pytest.mark.parametrize("output", ["--json", "--detections"])
def test_an_interrupted_run_goes_on(
    run_evaluate, monkeypatch, tiny_model, shapes, tmp_path, output
):
    whole, resumed = tmp_path / "whole.json", tmp_path / "resumed.json"
    arguments = (tiny_model, "--data", shapes, "--resamples", 0, output)
    assert run_evaluate(*arguments, whole)[0] == 0
    with monkeypatch.context() as context:
        interrupted_at(context, 8)
        code, out, err = run_evaluate(*arguments, resumed)
    assert (code, out) == (130, "")
    kept = re.search(
        r"(\d+) of 12 pictures done, kept in .*resumed.json.partial; continue with --resume", err
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
    assert sorted(p.name for p in tmp_path.iterdir()) == ["resumed.json", "whole.json"]


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
    assert err.startswith(f"3 of 3 pictures done, kept in {partial}; continue with --resume")
    assert run_evaluate(*arguments, "--resume")[0] == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.json", "r.json"]


@pytest.mark.skipif(not os.path.exists("/dev/null"), reason="no such device")
@pytest.mark.parametrize("output", [(), ("--json", "/dev/null")])
def test_without_a_file_as_output_nothing_is_kept(
    run_evaluate, monkeypatch, tiny_model, shapes, tmp_path, output
):
    monkeypatch.chdir(tmp_path)
    arguments = (tiny_model, "--data", shapes, *output)
    assert run_evaluate(*arguments, "--limit", 2)[0] == 0
    interrupted_at(monkeypatch, 8)
    code, _, err = run_evaluate(*arguments)
    assert code == 130 and "not kept" in err
    assert list(tmp_path.iterdir()) == [] and not os.path.exists("/dev/null.partial")
    assert not os.path.isfile("/dev/null")
    code, _, err = run_evaluate(*arguments, "--resume")
    assert code == 2 and "--json" in err


# --- detections in files --------------------------------------------------------------------


@pytest.fixture(scope="module")
def found_detections(tiny_model, found_shapes, tmp_path_factory):
    """The report and the detections of the tiny model."""
    folder = tmp_path_factory.mktemp("detections")
    file = folder / "found.json"
    return report_of(folder, tiny_model, "--data", found_shapes, "--detections", file), file


@pytest.fixture(scope="module")
def half(found_detections):
    """Every other one of them."""
    file = found_detections[1].with_name("half.json")
    file.write_text(json.dumps(json.loads(found_detections[1].read_text())[::2]))
    return file


def test_detections_alone_are_scored_and_left_as_they_are(found_shapes, found_detections, tmp_path):
    of_model, detections = found_detections
    before = detections.read_bytes()
    result = evaluate(
        "--data", found_shapes, "--detections", detections, "--json", tmp_path / "r.json"
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


def test_annotations_alone_a_class_and_a_limit(found_shapes, found_detections, tmp_path):
    of_model, detections = found_detections
    alone = tmp_path / "annotations.json"
    alone.write_bytes((found_shapes / "instances.json").read_bytes())
    values = report_of(tmp_path, "--data", alone, "--detections", detections)
    for key in ("summary", "data_sha256"):
        assert values[key] == of_model[key]
    name = next(iter(of_model["class_ap"]))
    arguments = ("--data", found_shapes, "--detections", detections)
    values = report_of(tmp_path, *arguments, "--class", name)
    assert values["class_ap"] == {name: of_model["class_ap"][name]}
    values = report_of(tmp_path, *arguments, "--limit", 2, "--resamples", 0)
    assert (values["pictures"], values["limit"], values["intervals"]) == (2, 2, None)
    (tmp_path / "none.json").write_text("[]")
    values = report_of(tmp_path, "--data", found_shapes, "--detections", tmp_path / "none.json")
    assert values["summary"]["AP"] == 0


def test_detections_of_too_few_pictures_are_asked_about(
    run_evaluate, found_shapes, found_detections, tmp_path
):
    _, detections = found_detections
    rows = json.loads(detections.read_text())
    first = tmp_path / "first.json"
    first.write_text(json.dumps([row for row in rows if row["image_id"] <= 2]))
    code, _, err = run_evaluate("--data", found_shapes, "--detections", first)
    assert code == 0
    assert err.startswith(f"warning: {first}: ") and "last 10 of 12" in err
    assert run_evaluate("--data", found_shapes, "--detections", first, "--limit", 2)[2] == ""


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


@pytest.mark.parametrize("resamples", [100, 0])
def test_two_files_are_compared(found_shapes, found_detections, half, tmp_path, resamples):
    detections = found_detections[1]
    result = evaluate(
        "--data", found_shapes, "--compare", detections, half, "--json", tmp_path / "r.json",
        "--resamples", resamples,
    )  # fmt: skip
    values = json.loads((tmp_path / "r.json").read_text())
    assert (values["first"], values["second"]) == (str(detections), str(half))
    for side, file in (("first", detections), ("second", half)):
        expected = expected_of(found_shapes, file)
        for name in ("AP", "AP50", "AP75"):
            assert values["summary"][name][side] == pytest.approx(expected[name], abs=1e-9)
        assert values[f"{side}_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    ap = values["summary"]["AP"]
    assert ap["difference"] == ap["second"] - ap["first"] != 0
    assert f"{ap['difference']:+.4f}" in result.stdout
    assert all(name in result.stdout for name in values["class_ap"])
    if resamples:
        assert ap["low"] <= ap["difference"] <= ap["high"] and values["resamples"] == 100
    else:
        assert (ap["low"], ap["high"], values["second_better"]) == (None, None, None)
        assert "interval" not in result.stdout and "draws" not in result.stdout


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
        (("--detections", "a", "--preprocess", "fast"), "--preprocess fast: no model runs"),
        (("--detections", "no.json"), "no.json: No such file"),
        (("--metric", "zoo-2021", "default"), "COCO's 80 classes"),
        (("default", "--policy", "all", "--detections", "a"), "one policy"),
        (("default", "--json", "a", "--detections", "a"), "a: "),
        (("default", "--json", "no/r.json"), "no/r.json: "),
        (("no.onnx", "--json", "r.json"), "no.onnx: "),
        (("default", "--detections", "."), ".: is a folder"),
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


def test_all_policies_are_what_each_is_alone(tiny_raw_model, tiny_model, found_shapes, tmp_path):
    report, data = tmp_path / "r.json", ("--data", found_shapes, "--resamples", 20)
    together = {}
    for model in (tiny_raw_model, tiny_model):  # of the second the tail is cut off
        result = evaluate(model, *data, "--policy", "all", "--json", report)
        values = json.loads(report.read_text())
        assert set(values["policies"]) == set(POLICIES)
        assert values["model_sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
        assert "summary" not in values
        together[model] = values["policies"]
        (row,) = (line for line in result.stdout.splitlines() if "95% interval" in line)
        for found in together[model].values():
            low, high = found["intervals"]["summary"]["AP"]
            assert f"{low:.4f}-{high:.4f}" in row
        assert values["tail_cut"] == (model == tiny_model)
        assert all(name in result.stdout for name in POLICIES)
    default = report_of(tmp_path, tiny_raw_model, *data)
    assert default["policy"] == "zoo"
    assert default["summary"] == together[tiny_raw_model]["zoo"]["summary"]
    for name, found in together[tiny_raw_model].items():
        alone = report_of(tmp_path, tiny_raw_model, *data, "--policy", name)
        assert found == {key: alone[key] for key in found}
        assert alone["tail_cut"] is False
        other = together[tiny_model][name]
        for key, value in found["summary"].items():
            assert other["summary"][key] == pytest.approx(value, abs=5e-3)


def test_all_policies_go_on_too(run_evaluate, monkeypatch, tiny_raw_model, shapes, tmp_path):
    quick = ("--data", shapes, "--resamples", 0, "--json")
    arguments = (tiny_raw_model, "--policy", "all", *quick)
    assert run_evaluate(*arguments, tmp_path / "whole.json")[0] == 0
    with monkeypatch.context() as context:
        interrupted_at(context, 8)
        assert run_evaluate(*arguments, tmp_path / "resumed.json")[0] == 130
    one = (tiny_raw_model, "--policy", "zoo", *quick)
    code, _, err = run_evaluate(*one, tmp_path / "resumed.json", "--resume")
    assert code == 2 and "policies" in err
    assert run_evaluate(*arguments, tmp_path / "resumed.json", "--resume")[0] == 0
    assert (tmp_path / "resumed.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


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
