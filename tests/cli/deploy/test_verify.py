"""``ssd34 verify`` as its user sees it."""

from __future__ import annotations

import json
import shutil
from functools import partial

import numpy as np
import onnx
import pytest

from ssd34.deploy.publish.manifest import MANIFEST_NAME
from ssd34.deploy.publish.package import package
from ssd34.images.read import read_image
from tests.conftest import EXAMPLES, tiny_spec
from tests.support.cli import run_commands
from tests.support.refusals import assert_facts
from tests.support.small_models import (
    SET,
    manifest_of,
    packed,
    raw_outputs,
    save_tensor,
    small_folder,
    write_small_model,
)


@pytest.fixture
def small(tmp_path):
    return small_folder(tmp_path / "small")


@pytest.fixture
def run(main, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    return partial(main, "verify")


def test_good(small, run, tmp_path):
    for target in (small, small / "small.onnx", packed(small, tmp_path / "small.tar.gz")):
        code, out, err = run(target, "--threads", 1)
        assert (code, err) == (0, "") and "FAILED" not in out
        assert_facts(out, target, f"{SET} values", "3 of 3", "0.001", "1.0000", "0.99")


def test_many_mismatches_are_shortened_on_the_screen_only(run, tmp_path):
    boxes = np.array([[[0, 2 * k, 60, 2 * k + 1] for k in range(30)]], np.float32) / 60
    labels, scores = np.ones((1, 30), np.int64), np.full((1, 30), 0.9, np.float32)
    folder = small_folder(tmp_path, {"bboxes": boxes, "labels": labels, "scores": scores})
    save_tensor(folder / SET / "output_2.pb", "scores", scores / 2)
    code, out, err = run(folder / "small.onnx", "--json", tmp_path / "all.json")
    assert code == 3 and "18 more" in out and out.count("0.45") >= 12
    assert_facts(err, folder / "small.onnx", f"{SET} values")
    values = json.loads((tmp_path / "all.json").read_text())
    [failed] = [check for check in values["checks"] if check["passed"] is False]
    assert values["passed"] is False and failed["name"] == f"{SET} values"
    assert len(failed["detail"].splitlines()) == 30


def test_a_broken_file_says_once_what_was_not_run(small, run, tmp_path):
    half, archive = tmp_path / "half.onnx", tmp_path / "broken.tar.gz"
    half.write_bytes((small / "small.onnx").read_bytes()[:200])
    code, out, err = run(half)
    assert code == 3
    (line,) = [line for line in out.splitlines() if "test data" in line]
    assert line.count("not run") == 1 and "structure" in line
    assert_facts(err, half, "structure")
    archive.write_bytes(b"hello")
    code, _, err = run(archive)
    assert code == 3
    assert_facts(err, archive, "contents")


def test_no_test_data(small, run):
    shutil.rmtree(small / SET)
    code, out, err = run(small)
    assert code == 0 and "not run" in out and "small.onnx" in err
    code, out, err = run(small, "--require-test-data")
    assert code == 3
    assert_facts(err, small, "test data")


def test_manifest(small, run, tmp_path):
    """One elsewhere; and the folder's own, which is taken anyway and may know several files."""
    manifest = tmp_path / "elsewhere.json"
    manifest.write_text(json.dumps(manifest_of(small / "small.onnx")))
    assert run(small, "--manifest", manifest)[0] == 0
    model = onnx.load(small / "small.onnx")
    model.doc_string = "changed"
    onnx.save(model, small / "small.onnx")
    code, _, err = run(small, "--manifest", manifest)
    assert code == 3
    assert_facts(err, small, "checksum")

    shutil.copy(small / "small.onnx", small / "second.onnx")
    known = [manifest_of(small / name)[1] for name in ("small.onnx", "second.onnx")]
    (small / MANIFEST_NAME).write_text(json.dumps(known))
    usual = run(small)
    assert usual[0] == 0 and "second.onnx" in usual[1]
    assert run(small, "--manifest", small / MANIFEST_NAME) == usual


def test_a_model_by_name_whose_folder_has_square_brackets(small, run, monkeypatch, tmp_path):
    """Through the same door as the other commands; and brackets are no markup."""
    folder = shutil.copytree(small, tmp_path / "[red]x[/blue]")
    monkeypatch.setattr("ssd34.zoo.names.model_path", lambda name: folder / f"{name}.onnx")
    assert "[red]x[/blue]" in run(folder)[1]
    code, out, _ = run("small")
    assert code == 0 and "3 of 3" in out


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        (("nothing.onnx",), "nothing.onnx"),
        (("empty",), "empty"),
        (("notes.txt",), "notes.txt"),
        (("small/small.onnx", "--manifest", "missing.json"), "missing.json"),
        (("small/small.onnx", "--manifest", "notes.txt"), "notes.txt"),
        (("small/small.onnx", "--json", "no/folder/x.json"), "no/folder/x.json"),
    ],
)
@pytest.mark.usefixtures("small")
def test_unusable(run, tmp_path, monkeypatch, arguments, fact):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "empty").mkdir()
    code, _, err = run(*arguments)
    assert code == 2 and fact in err


def test_what_package_wrote(run, small, tmp_path):
    """The whole folder: every file, its archive, and what is wrong with which."""
    folder = tmp_path / "out"
    raw = write_small_model(tmp_path / "raw.onnx", raw_outputs(tiny_spec()))
    for name, model in (("a", small / "small.onnx"), ("b", raw)):
        package(model, output=folder, picture=read_image(EXAMPLES / "coffee.jpg"), name=name)
    code, out, err = run(folder, "--require-test-data", "--json", tmp_path / "all.json")
    assert (code, err) == (0, "")
    assert out.count(f"{SET} values") == 2
    values = json.loads((tmp_path / "all.json").read_text())
    assert values["passed"] and [one["file"] for one in values["files"]] == [
        str(folder / "a-12.onnx"), str(folder / "b-12.onnx")
    ]  # fmt: skip
    (folder / "b-12.onnx").write_bytes((small / "small.onnx").read_bytes())
    code, out, err = run(folder)
    assert code == 3 and "a-12.onnx" not in err
    assert_facts(err, folder / "b-12.onnx", "file")


def test_it_needs_neither_torch_nor_the_network(small):
    blocked = ("torch", "safetensors", "cv2", "matplotlib", "hotcoco")
    first = f"import sys\nfor name in {blocked!r}: sys.modules[name] = None"
    assert run_commands(("verify", small), first=first)[0][0][0] == 0


@pytest.mark.parametrize("name", ["small.onnx", f"{SET}/input_0.pb", MANIFEST_NAME])
def test_a_report_over_an_input_is_refused(small, run, name):
    kept = small / name
    if not kept.exists():
        kept.write_text("[]")
    before = kept.read_bytes()
    for target in (small, small / "small.onnx"):
        code, _, err = run(target, "--json", kept)
        assert code == 2 and str(kept) in err and kept.read_bytes() == before
