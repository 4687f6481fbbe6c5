"""What the package asks of the machine: threads, processor, memory."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ssd34.machine import describe_cpu, measure_peak_memory, thread_budget, trim_heap


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
    assert thread_budget(tmp_path, tmp_path) == threads
    assert thread_budget(tmp_path / "no", tmp_path) == 8


@pytest.mark.usefixtures("eight_processors")
@pytest.mark.parametrize(
    ("group", "files", "threads"),
    [("0::/system.slice/my.service", {"system.slice/my.service/cpu.max": "200000 100000"}, 2),
     ("0::/a.slice/b.slice/c", {"a.slice/cpu.max": "300000 100000",
                                "a.slice/b.slice/cpu.max": "max 100000",
                                "a.slice/b.slice/c/cpu.max": "500000 100000"}, 3),
     ("0::/a", {"b/cpu.max": "100000 100000"}, 8),
     ("3:cpu,cpuacct:/s\n2:memory:/t\n0::/", {"cpu/s/cpu.cfs_quota_us": "400000",
                                             "cpu/s/cpu.cfs_period_us": "100000"}, 4),
     ("0::/../other", {"cpu.max": "600000 100000", "../other/cpu.max": "100000 100000"}, 6),
     ("0::/of/the/machine", {"cpu.max": "600000 100000"}, 6),
     ("nonsense", {"cpu.max": "600000 100000"}, 6)],
)  # fmt: skip
def test_quotas_of_services_and_of_all_groups_above(tmp_path, group, files, threads):
    cgroup, proc = tmp_path / "cgroup", tmp_path / "proc"
    for path, text in {cgroup / name: text for name, text in files.items()}.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text(f"{group}\n")
    assert thread_budget(cgroup, proc) == threads


def test_affinity_may_be_the_smaller_one_or_unknown(tmp_path, monkeypatch):
    assert 1 <= thread_budget() <= (os.cpu_count() or 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5}, raising=False)
    (tmp_path / "cpu.max").write_text("400000 100000")
    assert thread_budget(tmp_path, tmp_path) == 1
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    for processors, threads in ((3, 3), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda processors=processors: processors)
        assert thread_budget(tmp_path, tmp_path) == threads


NEW = """processor\t: 0
model name\t: Some CPU @ 2.00GHz
flags\t\t: fpu avx2 avx512f avx512_vnni avx512_bf16 amx_tile amx_int8

processor\t: 1
model name\t: Another
flags\t\t: fpu
"""
ARM = "processor\t: 0\nBogoMIPS\t: 100.00\nFeatures\t: fp asimd asimddp\n"


@pytest.mark.parametrize(
    ("text", "features"),
    [(NEW, {"avx2", "avx512", "vnni", "bf16", "amx"}),
     ("flags : fpu avx2 avx_vnni\n", {"avx2", "vnni"}),
     ("flags : fpu avx2 avx512_vnni_not\n", {"avx2"}),
     (ARM, None), ("", None), ("nonsense\n\n:::\n", None)],
)  # fmt: skip
def test_features_of_the_first_processor(text, features, tmp_path):
    path = tmp_path / "cpuinfo"
    path.write_text(text)
    cpu = describe_cpu(path)
    assert (cpu.model == "Some CPU @ 2.00GHz") == (text == NEW)
    found = cpu.features and {name for name, has in cpu.features.items() if has}
    assert found == features


def test_a_system_without_the_file(tmp_path):
    cpu = describe_cpu(tmp_path / "no")
    assert cpu.features is None and cpu.model
    assert cpu.processors == os.cpu_count() and cpu.thread_budget == thread_budget()
    assert set(cpu.to_dict()) == {"model", "system", "processors", "thread_budget", "features"}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux only")
def test_peak_memory_is_not_the_parents():
    """A child of a big process: the usual counter starts at the parent's size."""
    ballast = bytearray(300 * 2**20)
    ballast[::4096] = b"x" * len(ballast[::4096])
    code = (
        "from ssd34.machine import measure_peak_memory; import resource;"
        "print(measure_peak_memory(), 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    ours, usual = (int(word) for word in result.stdout.split())
    assert ours < 150 * 2**20
    assert usual >= ours
    here = measure_peak_memory()
    assert here is not None and here >= 300 * 2**20


@pytest.mark.parametrize("text", ["", "VmHWM:\n", "VmHWM: many kB\n"])
def test_peak_memory_of_another_system(text, tmp_path):
    path = tmp_path / "status"
    path.write_text(text)
    found = measure_peak_memory(path)
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
    monkeypatch.setattr("ctypes.CDLL", lambda _: None)
    trim_heap()
