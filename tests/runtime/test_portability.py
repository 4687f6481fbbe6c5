import json
import shutil
import subprocess
import sys

import pytest

from ssd34.runtime.libraries import int8_saturates
from tests.conftest import ROOT

SAME = {"outputs that differ": 0, "largest difference": 0}
EIGHT = "8-bit weights, options: onnxruntime"
OTHERS = (
    "8-bit weights, options: ours",
    "7-bit weights, options: ours",
    "7-bit weights, options: onnxruntime",
)


def found_by(folder, *options):
    script, target = ROOT / "benchmarks" / "portability.py", folder / "found.json"
    command = [sys.executable, str(script), *options, "--json", str(target)]
    subprocess.run(command, check=True, timeout=300, capture_output=True)
    return json.loads(target.read_text())


def test_int8_is_exact_here(tmp_path):
    """With our options, whatever this processor is; with others where it does not saturate."""
    found = found_by(tmp_path, "--here")
    for name in OTHERS:
        assert found[name] == {"here": SAME}
    assert (found[EIGHT]["here"] != SAME) == int8_saturates()
    assert found["here"] == ("saturates" if int8_saturates() else "does not saturate")


@pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="qemu-x86_64 is not installed")
def test_int8_is_exact_without_vnni(tmp_path):
    """On an emulated processor; that other options are wrong there shows that the emulation is
    one of a processor that saturates."""
    found = found_by(tmp_path)
    assert found[EIGHT]["there"]["outputs that differ"] > 0.01
    for name in OTHERS:
        assert found[name] == {"here": SAME, "there": SAME}
