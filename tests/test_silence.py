"""Nothing is looked up and nothing is left in the home folder by what is no download."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import EXAMPLES
from tests.support.engines import needs_openvino
from tests.support.silence_probe import CONTROL, REFUSED

ROOT = Path(__file__).parent.parent
HOLD = 16
"""Seconds: the libraries look up their host up to 12 s after the import."""

DETECT = """
import sys, time
import ssd34
model, engine, picture, seconds = sys.argv[1:]
started = time.monotonic()
detector = ssd34.load(model, engine=engine)
assert detector.session.engine.name == engine
detector.detect(picture)
time.sleep(max(0, float(seconds) - time.monotonic() + started))
"""
DRAW = """
from ssd34.files.cache import load_matplotlib
load_matplotlib(extra="plot", why="a test")
from matplotlib.figure import Figure
Figure().savefig("a.png")
"""


def run_in_namespace(commands, folder):
    """What `silence_probe` says of commands that have ``folder/home`` as home."""
    for name in ("home", "tmp", "work"):
        (folder / name).mkdir(exist_ok=True)
    kept = ("PATH", "LANG", "PYTHONPATH", "LD_LIBRARY_PATH", "PYTHONDONTWRITEBYTECODE")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    environment |= {"HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp")}
    unshare = ("unshare", "--user", "--map-root-user", "--net", "--mount")
    try:
        result = subprocess.run(
            [*unshare, sys.executable, str(ROOT / "tests" / "support" / "silence_probe.py")],
            input=json.dumps(commands), cwd=folder / "work", env=environment,
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
    except FileNotFoundError:
        pytest.skip("there is no unshare here")
    if result.returncode == REFUSED or "unshare:" in result.stderr:
        pytest.skip("namespaces are refused here")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert CONTROL in found["names"], "the probe sees no look-up at all"
    return found


def files_under(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir())


@needs_openvino
def test_the_engines_look_up_nothing_and_leave_nothing(tiny_model, tmp_path):
    picture = str(EXAMPLES / "coffee.jpg")
    common = (str(tiny_model), "{}", picture, str(HOLD))
    commands = [
        [sys.executable, "-c", DETECT, *(part.format(engine) for part in common)]
        for engine in ("onnxruntime", "openvino")
    ]
    found = run_in_namespace(commands, tmp_path)
    assert [code for _, code in found["ended"]] == [0, 0], found["ended"]
    assert set(found["names"]) == {CONTROL}
    assert files_under(tmp_path) == []


def test_plots_leave_nothing_but_in_our_cache(tmp_path):
    found = run_in_namespace([[sys.executable, "-c", DRAW]], tmp_path)
    assert found["ended"] == [["", 0]]
    files = files_under(tmp_path)
    assert files.pop() == "work/a.png"
    assert files and all(f.startswith("home/.cache/ssd34/matplotlib/") for f in files)


NO_HOME = """
import os, pathlib, sys
def no_home(*_):
    raise RuntimeError("Could not determine home directory.")
pathlib.Path.home = classmethod(no_home)
pathlib.Path.expanduser = no_home
os.path.expanduser = lambda path: path
os.environ.pop("HOME", None)
import ssd34
for engine in ("openvino", "auto"):
    assert len(ssd34.load(sys.argv[1], engine=engine).detect(sys.argv[2], score=0))
"""


@needs_openvino
def test_every_engine_works_without_a_home(tiny_model):
    command = [sys.executable, "-c", NO_HOME, str(tiny_model), str(EXAMPLES / "coffee.jpg")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("library", "door"),
    [("onnxruntime", "runtime/onnxruntime_engine.py"), ("openvino", "runtime/openvino_engine.py"),
     ("matplotlib", "files/cache.py")],
)  # fmt: skip
def test_each_is_imported_at_one_door(library, door):
    source = ROOT / "src" / "ssd34"
    for path in source.rglob("*.py"):
        text = path.read_text()
        if path == source / door or library not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            names = []
            if isinstance(node, ast.Import):
                names = [one.name for one in node.names]
            elif isinstance(node, ast.ImportFrom) and library != "matplotlib":
                names = [node.module or ""]
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "require":
                names = [getattr(node.args[0], "value", "")]
            assert library not in [name.split(".")[0] for name in names], path
