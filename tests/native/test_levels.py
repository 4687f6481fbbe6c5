import ctypes
import dataclasses
import platform
import sys

import pytest
from llvmlite import binding

from ssd34.errors import ModelError
from ssd34.runtime.native import levels, program
from ssd34.runtime.native.levels import (
    AMX,
    AVX2,
    AVX512_VNNI,
    AVX_VNNI,
    available_levels,
    choose_level,
    may_use_amx,
)
from ssd34.runtime.native.self_check import check_level
from tests.support.refusals import refused
from tests.support.spelled_out import AMX_SPELLED_OUT, SpelledOut


class Linux:
    """The C library, as far as a process asks Linux for AMX."""

    def __init__(self, answer):
        self.asked: list[tuple[int, ...]] = []

        def syscall(*arguments):
            self.asked.append(arguments)
            return answer

        self.syscall = syscall


@pytest.fixture
def pretend(monkeypatch):
    """That this is Linux on a processor with some levels' features, and what it answers."""

    def pretend(*has, answer):
        features = dict.fromkeys(AMX.needs, False)
        features |= dict.fromkeys({feature for level in has for feature in level.needs}, True)
        linux = Linux(answer)
        monkeypatch.setattr(binding, "get_host_cpu_features", lambda: features)
        monkeypatch.setattr(platform, "machine", lambda: "x86_64")
        monkeypatch.setattr(sys, "platform", "linux")
        monkeypatch.setattr(levels, "may_execute", lambda: True)
        monkeypatch.setattr(ctypes, "CDLL", lambda _: linux)
        monkeypatch.setattr(levels, "LEVELS", (AMX, AVX512_VNNI, AVX_VNNI, AVX2))
        return linux

    return pretend


def test_amx_is_used_where_it_is_named(pretend, monkeypatch):
    linux = pretend(AMX, answer=0)
    assert choose_level("amx") is AMX
    assert set(linux.asked) == {(158, 0x1023, 18)}  # arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA
    monkeypatch.setenv("SSD34_NATIVE_LEVEL", "amx")
    assert choose_level() is AMX and choose_level("avx2") is AVX2
    monkeypatch.setenv("SSD34_NATIVE_LEVEL", "")
    assert available_levels() == (AMX, AVX512_VNNI, AVX2)
    linux.asked.clear()
    assert choose_level() is AVX512_VNNI and linux.asked == []


@pytest.mark.parametrize("feature", ["amx-tile", "amx-int8", "avx512f"])
def test_no_amx_and_nobody_asks_for_it(pretend, feature):
    less = dataclasses.replace(AMX, needs=AMX.needs - {feature})
    linux = pretend(less, answer=0)
    assert AMX not in available_levels() and AVX2 in available_levels()
    with refused(ModelError, "amx", "onnxruntime"):
        choose_level("amx")
    assert linux.asked == []


def test_linux_does_not_permit_amx(pretend):
    linux = pretend(AMX, answer=-1)
    assert available_levels() == (AVX512_VNNI, AVX2)
    with refused(ModelError, "amx", "permit", "onnxruntime"):
        choose_level("amx")
    assert len(linux.asked) == 2


def test_other_systems_are_not_asked(pretend, monkeypatch):
    linux = pretend(AMX, answer=0)
    monkeypatch.setattr(sys, "platform", "win32")
    assert AMX not in available_levels() and AVX512_VNNI in available_levels()
    assert linux.asked == []


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
def test_this_system_grants_it_only_to_processors_that_have_it():
    if not binding.get_host_cpu_features().get("amx-tile"):
        assert not may_use_amx()


@pytest.mark.skipif(not levels.is_available(AMX_SPELLED_OUT), reason="no AVX2 here")
def test_wrong_numbers_are_found_when_a_file_is_loaded(monkeypatch):
    """As of a system that loses registers when a thread has to wait."""

    class Forgetful(SpelledOut):
        def intrinsic(self, name, result, arguments, *, suffix=()):
            if name.endswith("tileloadd64") and arguments[0].raw.constant == 3:
                name, arguments = "llvm.x86.tilezero", arguments[:1]
            return super().intrinsic(name, result, arguments, suffix=suffix)

    level = dataclasses.replace(AMX_SPELLED_OUT, name="forgetful")
    monkeypatch.setattr(program, "Code", Forgetful)
    with refused(ModelError, "forgetful", "wrong numbers", "onnxruntime"):
        check_level(level)
