"""What may import what: a base install runs without the extras."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import EXAMPLES
from tests.support.cli import run_commands

SOURCE = Path(__file__).parent.parent / "src" / "ssd34"
EXTRAS = (
    "torch", "onnx", "safetensors", "hotcoco", "supervision", "cv2", "matplotlib", "yaml",
    "jinja2", "msgspec",
    "openvino", "mlperf_loadgen", "av", "edgefirst", "llvmlite", "pyarrow", "fsspec", "ray",
    "starlette", "uvicorn", "prometheus_client", "python_multipart",
    "grpc", "fastapi", "watchfiles",
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
    below = "ssd34.workflows.training"
    names = [n for n in modules(without=("network", "train")) if n != "ssd34.__main__"]
    names = [n for n in names if not n.startswith(f"{below}.")] + [f"{below}.job"]
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


NEEDS = (
    (("train", "--data", "x", "--val", "x", "--output", "x"), "train"),
    (("verify", "a.onnx"), "export"), (("calibrate", "a", "--data", "x"), "export"),
    (("package", "a.onnx", "--output", "x", "--picture", "a.jpg"), "export"),
    (("export", "a", "b.onnx"), "export"), (("convert", "a.pth", "b.safetensors"), "train"),
    (("evaluate", "--data", "x"), "evaluate"),
    (("detect", EXAMPLES, "--engine", "openvino"), "openvino"),
    (("detect", "rtsp://127.0.0.1/door"), "video"),
    (("benchmark", "default", "--engine", "native"), "native"),
    (("benchmark", "default", "--plot", "b.png"), "plot"),
    (("benchmark", "default", "--loadgen", "logs"), "loadgen"),
    (("serve",), "serve"),
    (("batch", EXAMPLES, "--output", "x"), "batch"),
    (("quantize", "default", "--data", "x", "--output", "x"), "quantize"),
)  # fmt: skip


def test_missing_extras_are_named_with_the_remedy(tmp_path):
    ended, errors = run_commands(*(words for words, _ in NEEDS), first=BLOCKED, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert {code for code, _ in ended} == {2}
    for line, (_, extra) in zip(errors.splitlines(), NEEDS, strict=True):
        assert line.startswith("error: ") and f"pip install 'ssd34[{extra}]'" in line


LEAVES = {"errors", "version", "text", "machine", "setting_types"}
"""Modules that every room may use; they use only each other."""

DATA = {"core", "files", "images", "datasets"}

ROOMS: dict[str, set[str]] = {
    "core": set(),
    "files": {"core"},
    "images": {"core", "files"},
    "datasets": {"core", "files", "images"},
    "zoo": {"core", "files"},
    "network": {"core", "files", "zoo"},
    "runtime": {"core", "files", "images", "zoo"},
    "video": {"core", "files", "images", "zoo", "runtime"},
    "benchmark": {"core", "files", "images", "zoo", "runtime"},
    "cluster": DATA | {"zoo", "runtime", "serve"},
    "evaluate": DATA | {"zoo", "runtime"},
    "deploy": DATA | {"zoo", "runtime", "evaluate"},
    "train": DATA | {"zoo", "network", "runtime", "evaluate"},
    "workflows": DATA | {"zoo", "network", "runtime", "benchmark", "evaluate", "deploy", "train"},
    "serve": DATA | {"zoo", "runtime", "workflows"},
}
"""What each room may use beside itself and the leaves; `cli` may use everything."""

NEVER = {
    "deploy.graph": {"deploy.int8", "deploy.search", "deploy.publish", "evaluate"},
    "deploy.int8": {"deploy.search", "deploy.publish", "evaluate"},
    "deploy.search": {"deploy.publish"},
    "deploy.publish": {"deploy.search", "deploy.int8"},
    "train.options": {"train.loop", "train.step", "train.loss", "train.run"},
    "train.recipe": {"train.loop", "train.step", "train.loss", "train.run"},
    "train.examples": {"train.loop", "train.step", "train.loss", "train.run"},
    "train.loss": {"train.loop", "train.step", "train.run"},
    "train.step": {"train.loop", "train.run"},
    "workflows": {"cli", "serve"},
}
"""Ways back inside the house."""

MOST_ENTRIES = 14


def imports_of(path):
    """The modules of the package that a file names in any import, without ``ssd34.``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ssd34"):
            inside = (node.module or "").removeprefix("ssd34").removeprefix(".")
            for alias in node.names:
                whole = f"{inside}.{alias.name}".removeprefix(".")
                place = SOURCE.joinpath(*whole.split("."))
                yield whole if place.is_dir() or place.with_suffix(".py").is_file() else inside


def name_of(path):
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")


def test_arrows_point_one_way():
    for path in SOURCE.rglob("*.py"):
        name = name_of(path)
        room = name.split(".")[0]
        if room not in ROOMS and room not in LEAVES:
            continue
        for used in imports_of(path):
            assert used.split(".")[0] in ROOMS.get(room, set()) | {room} | LEAVES, f"{path}: {used}"
            for part, never in NEVER.items():
                if f"{name}.".startswith(f"{part}."):
                    assert not any(f"{used}.".startswith(f"{n}.") for n in never), f"{path}: {used}"


def test_no_modules_import_each_other_in_a_circle():
    graph = {name_of(path): set(imports_of(path)) for path in SOURCE.rglob("*.py")}
    del graph["__init__"]
    order = TopologicalSorter({n: {u for u in used if u in graph} for n, used in graph.items()})
    order.prepare()  # raises CycleError


def test_rooms_are_small():
    for folder in [SOURCE, *(p for p in SOURCE.rglob("*") if p.is_dir())]:
        entries = [p for p in folder.iterdir() if p.name not in ("__init__.py", "__pycache__")]
        modules = [p for p in entries if p.suffix == ".py"]
        assert len(modules) <= MOST_ENTRIES, folder
        assert folder == SOURCE or len(entries) <= MOST_ENTRIES, folder


def test_the_map_for_contributors_shows_every_room():
    text = (SOURCE.parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    drawn = text.split("src/ssd34/\n", 1)[1].split("```", 1)[0]
    shown = {line.split()[0].rstrip("/") for line in drawn.splitlines() if line.startswith("  ")}
    rooms = {p.name for p in SOURCE.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert {name for name in shown if not name.endswith(".py")} == rooms


def test_no_work_at_import():
    """Importing the package is quick and loads neither models nor optional libraries."""
    rooms = ("ssd34.workflows", "ssd34.evaluate", "ssd34.deploy", "ssd34.train")
    code = f"import ssd34, sys; print([m for m in {EXTRAS + rooms!r} if m in sys.modules])"
    assert python(code).stdout.strip() == "[]"


def test_a_workflow_without_its_extra_says_what_to_install():
    code = """
from ssd34 import *
import ssd34
for name in ("export", "quantize", "QuantizeConfig"):
    try:
        getattr(ssd34, name)
    except MissingExtraError as error:
        print(error)
"""
    assert python(BLOCKED + code).stdout.count("pip install 'ssd34[") == 3


@pytest.mark.parametrize(
    "first", ["ssd34", "ssd34.evaluate.results", "ssd34.workflows.evaluate", "ssd34.train.progress"]
)
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
for train in (ssd34.train, __import__("ssd34", fromlist=["train"]).train):
    try:
        train(data="nowhere", val="nowhere", output="nowhere", device="tpu")
    except Ssd34Error as error:
        assert "tpu" in str(error)
    else:
        raise AssertionError
"""
    assert python(code).stderr == ""
