from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import sys

import pytest
from click.testing import CliRunner
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ssd34.cli import app
from ssd34.runtime.detector import Detector
from ssd34.runtime.session import Session
from tests.conftest import COCO_NUMBERS as NAMES
from tests.conftest import TINY_LABELS, shapes_dataset


def evaluate(*arguments, code=0):
    """Run `ssd34 evaluate` in this process; errors come out as they are raised."""
    result = CliRunner().invoke(
        app.commands, ["evaluate", *map(str, arguments)], catch_exceptions=False
    )
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def main(monkeypatch, capfd):
    """Run the whole command as its entry point does; returns exit code, stdout and stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["ssd34", "evaluate", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            app.main()
        code = caught.value.code
        out, err = capfd.readouterr()
        return 0 if code is None else code, out, err

    return run


def assert_one_error_line(err):
    assert err.endswith("\n") and err.count("\n") == 1, err
    assert err.startswith("error: ")
    assert "Traceback" not in err


def oracle(annotations, detections):
    """The twelve numbers of pycocotools on two files; None for -1."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes(str(detections)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {
        name: None if value == -1 else float(value)
        for name, value in zip(NAMES, evaluation.stats, strict=True)
    }


def assert_same_numbers(summary, expected):
    assert tuple(summary) == NAMES
    for name in NAMES:
        if expected[name] is None:
            assert summary[name] is None, name
        else:
            assert summary[name] == pytest.approx(expected[name], abs=1e-9), name


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
        "model", "data", "policy", "pictures", "summary", "class_ap", "class_ap50",
        "model_sha256", "problems", "unreadable", "ssd34", "area_class_ap", "limit", "data_sha256",
        "metric", "intervals",
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
    assert_same_numbers(values["summary"], oracle(shapes / "instances.json", detections))


def test_numbers_are_those_of_pycocotools(tiny_model, found_boxes, tmp_path):
    report, detections = tmp_path / "report.json", tmp_path / "detections.json"
    result = evaluate(
        tiny_model, "--data", found_boxes, "--json", report, "--detections", detections
    )
    summary = json.loads(report.read_text())["summary"]
    assert summary["AP50"] > 0.1
    assert_same_numbers(summary, oracle(found_boxes / "instances.json", detections))
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
        assert alone["class_ap"][name] == pytest.approx(everything["class_ap"][name], abs=1e-12)
        assert alone["summary"]["AP"] == pytest.approx(everything["class_ap"][name], abs=1e-12)


def test_broken_picture_is_reported_and_counts_as_empty(main, tiny_model, tmp_path):
    folder = shapes_dataset(tmp_path / "set", pictures=3)
    (folder / "images" / "0002.png").write_bytes(b"no picture")
    detections = tmp_path / "detections.json"
    code, _, err = main(tiny_model, "--data", folder, "--detections", detections)
    assert code == 1
    lines = err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("warning: 0002.png: not a picture")
    assert lines[1] == "warning: 1 of 3 pictures could not be read and count as empty"
    assert {row["image_id"] for row in json.loads(detections.read_text())} == {1, 3}


def test_problems_of_the_data_set_are_warnings_and_exit_1(main, tiny_model, tmp_path):
    folder = shapes_dataset(tmp_path / "set", pictures=3)
    (folder / "images" / "0002.png").unlink()
    code, _, err = main(tiny_model, "--data", folder, "--json", tmp_path / "r.json")
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


def test_paths_with_brackets_are_no_markup(main, tiny_model, tmp_path):
    folder = shapes_dataset(tmp_path / "set[/red]", pictures=1)
    code, out, err = main(tiny_model, "--data", folder)
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
def test_unusable_input_is_one_line_and_exit_code_two(main, tiny_model, shapes, tmp_path, kind):
    arguments, word = unusable(kind, tmp_path, tiny_model, shapes)
    code, out, err = main(*arguments, "--json", tmp_path / "r.json")
    assert (code, out) == (2, "")
    assert_one_error_line(err)
    assert word in err
    assert not (tmp_path / "r.json").exists()


@pytest.mark.parametrize("option", ["--json", "--detections"])
@pytest.mark.parametrize("target", ["no/r.json", "."])
def test_bad_output_is_noticed_before_the_work(main, tiny_model, shapes, tmp_path, option, target):
    code, out, err = main(tiny_model, "--data", shapes, option, tmp_path / target)
    assert code == 2
    assert_one_error_line(err)
    assert out == ""
    assert list(tmp_path.iterdir()) == []


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


def interrupted_at(monkeypatch, number):
    """The keyboard interrupts the run while the given picture is looked at."""
    looked = 0
    run = Session.run_detections

    def counted(self, images):
        nonlocal looked
        looked += 1
        if looked == number:
            raise KeyboardInterrupt
        return run(self, images)

    monkeypatch.setattr(Session, "run_detections", counted)


@pytest.mark.parametrize("output", ["--json", "--detections"])
def test_an_interrupted_run_goes_on(main, monkeypatch, tiny_model, shapes, tmp_path, output):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    arguments = (tiny_model, "--data", shapes, output)
    assert main(*arguments, whole)[0] == 0
    with monkeypatch.context() as context:
        interrupted_at(context, 8)
        code, out, err = main(*arguments, resumed)
    assert (code, out) == (130, "")
    kept = re.search(
        r"(\d+) of 12 pictures done, kept in .*resumed.partial; go on with --resume", err
    )
    assert kept and 4 <= int(kept[1]) < 8
    assert not resumed.exists()
    # It is not thrown away by mistake.
    code, _, err = main(*arguments, resumed)
    assert code == 2 and "--resume" in err
    assert_one_error_line(err)
    # Another model's detections are not mixed in.
    with monkeypatch.context() as context:
        interrupted_at(context, 1)
        code, out, err = main(*arguments, resumed, "--resume", "--limit", 11)
    assert code == 2 and "another data sha256" in err
    assert_one_error_line(err)
    with monkeypatch.context() as context:
        interrupted_at(context, 12)  # looks only at what is missing
        code, _, err = main(*arguments, resumed, "--resume")
    assert (code, err) == (0, "")
    assert resumed.read_bytes() == whole.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["resumed", "whole"]


def test_resume_with_nothing_there_begins(main, tiny_model, shapes, tmp_path):
    arguments = (tiny_model, "--data", shapes, "--json", tmp_path / "r.json", "--resume")
    assert main(*arguments)[0] == 0
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


def test_without_an_output_nothing_is_kept(main, monkeypatch, tiny_model, shapes, tmp_path):
    monkeypatch.chdir(tmp_path)
    interrupted_at(monkeypatch, 8)
    code, _, err = main(tiny_model, "--data", shapes)
    assert code == 130 and "not kept" in err
    assert list(tmp_path.iterdir()) == []
    code, _, err = main(tiny_model, "--data", shapes, "--resume")
    assert code == 2 and "--json" in err
    assert_one_error_line(err)
