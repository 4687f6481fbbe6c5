"""What the package asks of the machine: threads, processor, memory."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ssd34.machine import peak_memory, this_cpu, thread_budget, trim_heap


@pytest.fixture
def eight_processors(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


@pytest.mark.usefixtures("eight_processors")
@pytest.mark.parametrize(
    ("two", "one", "threads"),
    [(None, None, 8), ("max 100000\n", None, 8), ("200000 100000\n", None, 2),
     ("150000 100000\n", None, 2), ("100000 100000\n", None, 1), ("5000 100000\n", None, 1),
     ("1600000 100000\n", None, 8), ("50000 10000\n", None, 5),
     (None, (-1, 100000), 8), (None, (300000, 100000), 3), (None, (250000, 100000), 3),
     (None, (1000, 100000), 1), (None, (9999999, 100000), 8), (None, (0, 100000), 8),
     (None, ("", 100000), 8), (None, ("x", 100000), 8), (None, (100000, 0), 8),
     *((text, (300000, 100000), 3) for text in ("", "nonsense", "a b", "100000 0", "100000"))],
)  # fmt: skip
def test_quotas_of_both_versions_of_cgroups(tmp_path, two, one, threads):
    """What cannot be read in version two falls back to version one, and there does not count."""
    if two is not None:
        (tmp_path / "cpu.max").write_text(two)
    if one is not None:
        (tmp_path / "cpu").mkdir()
        (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(f"{one[0]}\n")
        (tmp_path / "cpu" / "cpu.cfs_period_us").write_text(f"{one[1]}\n")
    assert thread_budget(tmp_path) == threads
    assert thread_budget(tmp_path / "no") == 8


@pytest.mark.usefixtures("eight_processors")
def test_affinity_may_be_the_smaller_one(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5}, raising=False)
    (tmp_path / "cpu.max").write_text("400000 100000")
    assert thread_budget(tmp_path) == 1


def test_systems_without_affinity_use_the_processor_count(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert thread_budget(tmp_path) == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert thread_budget(tmp_path) == 1


def test_this_machine():
    assert 1 <= thread_budget() <= (os.cpu_count() or 1)


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


MEGABYTE = 2**20


def resident():
    """Bytes of this process in memory."""
    import resource

    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_freed_pieces_between_used_ones_go_back():
    freed = [np.ones(MEGABYTE // 100) for _ in range(800)]  # 80 kB each: small enough for the heap
    kept = freed[::8]
    before = resident()
    del freed
    trim_heap()
    assert before - resident() > 30 * MEGABYTE
    assert len(kept) == 100


def test_without_the_function_nothing_happens(monkeypatch):
    monkeypatch.setattr("ssd34.machine._malloc_trim", lambda: None)
    trim_heap()
