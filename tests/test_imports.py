"""What may import what: a base install runs without the extras."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "ssd34"
EXTRAS = (
    "torch", "onnx", "safetensors", "hotcoco", "supervision", "cv2", "matplotlib", "yaml",
    "jinja2", "msgspec",
    "openvino", "mlperf_loadgen",
)  # fmt: skip

BLOCKED = f"""
import sys
for name in {EXTRAS!r}:
    sys.modules[name] = None
"""


def python(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120
    )


def modules(*, without=()):
    for path in sorted(SOURCE.rglob("*.py")):
        relative = path.relative_to(SOURCE).with_suffix("")
        if relative.parts[0] not in without:
            yield ".".join(("ssd34", *relative.parts)).removesuffix(".__init__")


def test_only_network_and_train_import_torch():
    names = [n for n in modules(without=("network", "train")) if n != "ssd34.__main__"]
    code = "import sys; sys.modules['torch'] = None\nimport importlib\n"
    code += f"for name in {names!r}: importlib.import_module(name)"
    result = python(code)
    assert result.returncode == 0, result.stderr


def test_a_base_install_detects(tiny_model, tmp_path):
    code = BLOCKED + "from ssd34.cli.app import main; main()"
    example = str(SOURCE.parent.parent / "examples" / "coffee.jpg")
    result = python(code, "detect", example, "--model", str(tiny_model), "--save", str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert "coffee.jpg" in result.stdout
    assert (tmp_path / "coffee.jpg").exists()


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (("train", "--data", "x", "--val", "x", "--output", "x"), "train"),
        (("export", "a", "b.onnx"), "export"),
        (("convert", "a.pth", "b.safetensors"), "train"),
        (("evaluate", "--data", "x"), "evaluate"),
        (("detect", "examples", "--engine", "openvino"), "openvino"),
        (("quantize", "default", "--data", "x", "--output", "x"), "quantize"),
    ],
)
def test_a_missing_extra_is_named_with_the_remedy(arguments, extra):
    result = python(BLOCKED + "from ssd34.cli.app import main; main()", *arguments)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert f"pip install 'ssd34[{extra}]'" in result.stderr
    assert len(result.stderr.splitlines()) == 1


ALLOWED = {
    "errors": set(),
    "version": set(),
    "machine": set(),
    "core": {"errors"},
    "data": {"core", "errors"},
    "network": {"core", "data", "errors"},
    "zoo": {"core", "data", "errors", "version"},
    "runtime": {"core", "data", "zoo", "errors", "version", "machine"},
    "evaluate": {"core", "data", "zoo", "runtime", "errors", "machine"},
    "deploy": {"core", "data", "zoo", "runtime", "evaluate", "errors", "version", "machine"},
    "setting_types": {"errors"},
    "train": {"core", "data", "network", "evaluate", "errors", "setting_types", "machine"},
    "workflows": {
        "core",
        "data",
        "network",
        "zoo",
        "runtime",
        "evaluate",
        "deploy",
        "train",
        "errors",
        "version",
        "machine",
    },
}


def test_arrows_point_one_way():
    """cli uses everything; the rest uses only what the architecture allows."""
    for path in SOURCE.rglob("*.py"):
        room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        if room not in ALLOWED:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ssd34."):
                used = (node.module or "").split(".")[1]
                assert used in ALLOWED[room] | {room}, f"{path}: {node.module}"


def test_no_work_at_import():
    """Importing the package is quick and loads neither models nor optional libraries."""
    rooms = ("ssd34.workflows", "ssd34.evaluate", "ssd34.deploy", "ssd34.train")
    code = f"import ssd34, sys; print([m for m in {EXTRAS + rooms!r} if m in sys.modules])"
    assert python(code).stdout.strip() == "[]"


@pytest.mark.parametrize("first", ["ssd34", "ssd34.evaluate.results", "ssd34.workflows.evaluate"])
def test_a_workflow_can_be_called_whatever_was_imported_first(first):
    code = f"""
import {first}, ssd34
from ssd34 import EvaluateOptions, Ssd34Error
import ssd34.evaluate.results as results
assert results.Results and EvaluateOptions().engine == "onnxruntime"
for evaluate in (ssd34.evaluate, __import__("ssd34", fromlist=["evaluate"]).evaluate):
    try:
        evaluate("default", "nowhere")
    except Ssd34Error as error:
        assert "nowhere" in str(error)
    else:
        raise AssertionError
"""
    assert python(code).stderr == ""
