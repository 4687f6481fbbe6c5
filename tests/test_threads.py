import os

import pytest

from ssd34.machine import thread_budget


@pytest.fixture(autouse=True)
def eight_processors(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


def version_two(root, text):
    (root / "cpu.max").write_text(text)
    return root


def version_one(root, quota, period):
    (root / "cpu").mkdir()
    (root / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (root / "cpu" / "cpu.cfs_period_us").write_text(f"{period}\n")
    return root


def test_without_a_quota_the_affinity_counts(tmp_path):
    assert thread_budget(tmp_path) == 8
    assert thread_budget(tmp_path / "no") == 8


@pytest.mark.parametrize(
    ("text", "threads"),
    [("max 100000\n", 8), ("200000 100000\n", 2), ("150000 100000\n", 2), ("100000 100000\n", 1),
     ("5000 100000\n", 1), ("1600000 100000\n", 8), ("50000 10000\n", 5)],
)  # fmt: skip
def test_quota_of_cgroup_version_two(tmp_path, text, threads):
    assert thread_budget(version_two(tmp_path, text)) == threads


@pytest.mark.parametrize(
    ("quota", "period", "threads"),
    [(-1, 100000, 8), (300000, 100000, 3), (250000, 100000, 3), (1000, 100000, 1),
     (9999999, 100000, 8), (0, 100000, 8)],
)  # fmt: skip
def test_quota_of_cgroup_version_one(tmp_path, quota, period, threads):
    assert thread_budget(version_one(tmp_path, quota, period)) == threads


@pytest.mark.parametrize("text", ["", "nonsense", "a b", "100000 0", "100000"])
def test_unreadable_version_two_falls_back_to_version_one(tmp_path, text):
    assert thread_budget(version_two(version_one(tmp_path, 300000, 100000), text)) == 3


@pytest.mark.parametrize(("quota", "period"), [("", 100000), ("x", 100000), (100000, 0)])
def test_unreadable_quotas_do_not_count(tmp_path, quota, period):
    assert thread_budget(version_one(tmp_path, quota, period)) == 8


def test_affinity_may_be_the_smaller_one(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5}, raising=False)
    assert thread_budget(version_two(tmp_path, "400000 100000")) == 1


def test_systems_without_affinity_use_the_processor_count(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert thread_budget(tmp_path) == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert thread_budget(tmp_path) == 1


def test_this_machine(monkeypatch):
    monkeypatch.undo()
    assert 1 <= thread_budget() <= (os.cpu_count() or 1)
