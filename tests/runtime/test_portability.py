import json
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="qemu-x86_64 is not installed")
def test_int8_is_the_same_without_vnni(tmp_path):
    """On an emulated processor; that it does differ with other options shows that the emulation
    is one of a processor that saturates."""
    script, target = ROOT / "benchmarks" / "portability.py", tmp_path / "found.json"
    command = [sys.executable, str(script), "--json", str(target)]
    subprocess.run(command, check=True, timeout=300, capture_output=True)
    found = json.loads(target.read_text())
    assert found["8-bit weights, options: onnxruntime"]["outputs that differ"] > 0.01
    for name in (
        "8-bit weights, options: ours",
        "7-bit weights, options: ours",
        "7-bit weights, options: onnxruntime",
    ):
        assert found[name] == {"outputs that differ": 0, "largest difference": 0}
