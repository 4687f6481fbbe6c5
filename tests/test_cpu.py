import os
import subprocess
import sys
from pathlib import Path

import pytest

from ssd34.machine import peak_memory, this_cpu, thread_budget

NEW = """processor\t: 0
model name\t: Some CPU @ 2.00GHz
flags\t\t: fpu avx2 avx512f avx512_vnni avx512_bf16 amx_tile amx_int8

processor\t: 1
model name\t: Another
flags\t\t: fpu
"""
ARM = "processor\t: 0\nBogoMIPS\t: 100.00\nFeatures\t: fp asimd asimddp\n"


def cpu_of(text, tmp_path):
    path = tmp_path / "cpuinfo"
    path.write_text(text)
    return this_cpu(path)


def test_features_of_the_first_processor(tmp_path):
    cpu = cpu_of(NEW, tmp_path)
    assert cpu.model == "Some CPU @ 2.00GHz"
    assert cpu.features == {"avx2": True, "avx512": True, "vnni": True, "bf16": True, "amx": True}


@pytest.mark.parametrize(("flag", "vnni"), [("avx_vnni", True), ("avx512_vnni_not", False)])
def test_vnni_comes_in_two_kinds(flag, vnni, tmp_path):
    cpu = cpu_of(f"flags : fpu avx2 {flag}\n", tmp_path)
    assert cpu.features is not None
    assert cpu.features["vnni"] is vnni and cpu.features["avx2"] and not cpu.features["avx512"]


@pytest.mark.parametrize("text", [ARM, "", "nonsense\n\n:::\n"])
def test_a_system_that_does_not_say(text, tmp_path):
    assert cpu_of(text, tmp_path).features is None


def test_a_system_without_the_file(tmp_path):
    cpu = this_cpu(tmp_path / "no")
    assert cpu.features is None and cpu.model
    assert cpu.processors == os.cpu_count() and cpu.thread_budget == thread_budget()
    assert set(cpu.to_dict()) == {"model", "system", "processors", "thread_budget", "features"}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux only")
def test_peak_memory_is_not_the_parents():
    """A child of a big process: the usual counter starts at the parent's size."""
    ballast = bytearray(300 * 2**20)
    ballast[::4096] = b"x" * len(ballast[::4096])
    code = (
        "from ssd34.machine import peak_memory; import resource;"
        "print(peak_memory(), 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    ours, usual = (int(word) for word in result.stdout.split())
    assert ours < 150 * 2**20
    assert usual >= ours
    here = peak_memory()
    assert here is not None and here >= 300 * 2**20


@pytest.mark.parametrize("text", ["", "VmHWM:\n", "VmHWM: many kB\n"])
def test_peak_memory_of_another_system(text, tmp_path):
    path = tmp_path / "status"
    path.write_text(text)
    found = peak_memory(path)
    assert found is None or found > 2**20
