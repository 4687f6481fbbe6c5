"""``ssd34 verify`` as its user sees it."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile

import numpy as np
import onnx
import pytest

from ssd34.cli import app
from ssd34.deploy.publish.manifest import MANIFEST_NAME
from ssd34.deploy.publish.package import package
from ssd34.images.read import read_image
from tests.conftest import EXAMPLES
from tests.deploy.publish.test_verify import (
    FOUND,
    SET,
    damaged,
    manifest_of,
    save_data,
    small_model,
)


@pytest.fixture
def small(tmp_path):
    """A folder with a small model and test data that fits."""
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "small.onnx").write_bytes(small_model().SerializeToString())
    save_data(folder, np.zeros((1, 3, 64, 64), np.float32), FOUND)
    return folder


@pytest.fixture
def run(monkeypatch, capfd):
    """Run the whole command as its entry point does; returns exit code, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["ssd34", "verify", *map(str, arguments)])
        code: object = 0
        try:
            app.main()
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capfd.readouterr()
        return code, out, err

    return run


def test_good(small, run, tmp_path):
    with tarfile.open(tmp_path / "small.tar.gz", "w:gz") as tar:
        tar.add(small, "small")
    for target in (small, small / "small.onnx", tmp_path / "small.tar.gz"):
        code, out, err = run(target, "--threads", 1)
        assert (code, err) == (0, "")
        assert str(target) in out and f"{SET} values" in out
        assert "FAILED" not in out
        assert "3 of 3 detections matched" in out
        assert "largest score difference 0 (limit 0.001)" in out
        assert "lowest IoU 1.0000 (limit 0.99)" in out


def test_failed(small, run, tmp_path):
    damaged(small, 2, lambda scores: scores - np.array([0.01, 0, 0]))
    report = tmp_path / "report.json"
    code, out, err = run(small, "--json", report)
    assert code == 3
    assert "FAILED" in out and "differs by 0.01 > 0.001" in out
    assert err == f"warning: {small}: not verified: {SET} values\n"
    values = json.loads(report.read_text())
    assert values["passed"] is False
    failed = [check for check in values["checks"] if check["passed"] is False]
    assert [check["name"] for check in failed] == [f"{SET} values"]


def test_many_mismatches_are_shortened_on_the_screen_only(run, tmp_path):
    boxes = np.array([[[0, 2 * k, 1, 2 * k + 1] for k in range(30)]], np.float32)
    labels, scores = np.ones((1, 30), np.int64), np.full((1, 30), 0.9, np.float32)
    many = {"bboxes": boxes, "labels": labels, "scores": scores}
    (tmp_path / "small.onnx").write_bytes(small_model(many).SerializeToString())
    save_data(tmp_path, np.zeros((1, 3, 64, 64), np.float32), many | {"scores": scores / 2})
    code, out, _ = run(tmp_path / "small.onnx", "--json", tmp_path / "all.json")
    assert code == 3 and "and 18 more" in out
    assert out.count("differs by") == 12
    assert (tmp_path / "all.json").read_text().count("differs by") == 30


def test_a_broken_file_says_once_what_was_not_run(small, run, tmp_path):
    (tmp_path / "half.onnx").write_bytes((small / "small.onnx").read_bytes()[:200])
    code, out, err = run(tmp_path / "half.onnx")
    assert code == 3
    (line,) = [line for line in out.splitlines() if "test data" in line]
    assert line.count("not run") == 1 and "structure failed" in line
    assert err == f"warning: {tmp_path / 'half.onnx'}: not verified: structure\n"


def test_no_test_data(small, run):
    for path in (small / SET).iterdir():
        path.unlink()
    (small / SET).rmdir()
    code, out, err = run(small)
    assert code == 0 and "not run" in out
    assert err == ("warning: no test_data_set_* folder beside small.onnx: nothing was computed\n")
    code, out, err = run(small, "--require-test-data")
    assert code == 3 and err == f"warning: {small}: not verified: test data\n"


def test_the_folders_own_manifest_may_be_named(small, run):
    """It is the one that is taken anyway, and may know several files."""
    second = small / "second.onnx"
    second.write_bytes((small / "small.onnx").read_bytes())
    known = [manifest_of(small / name)[1] for name in ("small.onnx", "second.onnx")]
    (small / MANIFEST_NAME).write_text(json.dumps(known))
    usual = run(small)
    assert usual[0] == 0 and "second.onnx" in usual[1]
    assert run(small, "--manifest", small / MANIFEST_NAME) == usual


def test_manifest(small, run, tmp_path):
    manifest = tmp_path / "elsewhere.json"
    manifest.write_text(json.dumps(manifest_of(small / "small.onnx")))
    assert run(small, "--manifest", manifest)[0] == 0
    model = onnx.load(small / "small.onnx")
    model.doc_string = "changed"
    onnx.save(model, small / "small.onnx")
    code, out, err = run(small, "--manifest", manifest)
    assert code == 3 and err == f"warning: {small}: not verified: checksum\n"
    assert "bytes, the manifest says" in out and "SHA-256 is" in out


def test_square_brackets_are_no_markup(run, tmp_path):
    folder = tmp_path / "[red]x[/blue]"
    folder.mkdir(parents=True)
    (folder / "small.onnx").write_bytes(small_model().SerializeToString())
    code, out, _ = run(folder)
    assert code == 0 and "[red]x[/blue]" in out


def test_a_model_by_name(small, run, monkeypatch):
    """Through the same door as the other commands."""
    monkeypatch.setattr("ssd34.zoo.names.model_path", lambda name: small / f"{name}.onnx")
    code, out, _ = run("small")
    assert code == 0 and "3 of 3 detections matched" in out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("nothing.onnx",), "no such model"),
        (("empty",), "expected an .onnx file in it or one level down, found none"),
        (("notes.txt",), "expected an .onnx file"),
        (("small/small.onnx", "--manifest", "missing.json"), "missing.json: No such file"),
        (("small/small.onnx", "--manifest", "notes.txt"), "not JSON"),
        (("small/small.onnx", "--json", "no/folder/x.json"), "no/folder/x.json"),
    ],
)
@pytest.mark.usefixtures("small")
def test_unusable(run, tmp_path, monkeypatch, arguments, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "empty").mkdir()
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1 and expected in err


def test_a_damaged_archive_is_a_failure(run, tmp_path):
    (tmp_path / "broken.tar.gz").write_bytes(b"hello")
    code, out, err = run(tmp_path / "broken.tar.gz")
    assert code == 3 and "not a whole gzipped tar archive" in out and "make it again" in out
    assert err == f"warning: {tmp_path / 'broken.tar.gz'}: not verified: contents\n"


def test_what_package_wrote(run, tmp_path, tiny_model, tiny_raw_model):
    """The whole folder: every file, its archive, and what is wrong with which."""
    folder = tmp_path / "out"
    folder.mkdir()
    for name, model in (("a", tiny_model), ("b", tiny_raw_model)):
        package(model, output=folder, picture=read_image(EXAMPLES / "coffee.jpg"), name=name)
    code, out, err = run(folder, "--require-test-data", "--json", tmp_path / "all.json")
    assert (code, err) == (0, "")
    assert out.count(f"{SET} values") == 2
    values = json.loads((tmp_path / "all.json").read_text())
    assert values["passed"] and [one["file"] for one in values["files"]] == [
        str(folder / "a-12.onnx"), str(folder / "b-12.onnx")
    ]  # fmt: skip
    (folder / "b-12.onnx").write_bytes(tiny_model.read_bytes())
    code, out, err = run(folder)
    assert (code, err) == (3, f"warning: {folder / 'b-12.onnx'}: not verified: file\n")


BLOCKED = """
import sys
for name in {names!r}:
    sys.modules[name] = None
from ssd34.cli.app import main
main()
"""


@pytest.mark.parametrize(
    ("blocked", "code", "stderr"),
    [
        (("torch", "safetensors", "cv2", "matplotlib", "hotcoco"), 0, ""),
        (("onnx",), 2, "error: verify needs the package 'onnx', which is not installed; "
         "install it with: pip install 'ssd34[export]'\n"),
    ],
    ids=["neither torch nor the network", "missing extra"],
)  # fmt: skip
def test_what_it_needs(small, blocked, code, stderr):
    result = subprocess.run(
        [sys.executable, "-c", BLOCKED.format(names=blocked), "verify", str(small)],
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stderr) == (code, stderr)


@pytest.mark.parametrize("name", ["small.onnx", f"{SET}/input_0.pb", "ONNX_HUB_MANIFEST.json"])
def test_a_report_over_an_input_is_refused(small, run, name):
    kept = small / name
    if not kept.exists():
        kept.write_text("[]")
    before = kept.read_bytes()
    for target in (small, small / "small.onnx"):
        code, out, err = run(target, "--json", kept)
        assert (code, out) == (2, "")
        assert "not read here" in err and err.count("\n") == 1
        assert kept.read_bytes() == before
