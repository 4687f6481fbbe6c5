"""The instruction sets that there are kernels for, and which of them this processor has."""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import platform
import sys
from dataclasses import dataclass, replace

from llvmlite import binding

from ssd34.errors import ModelError


@dataclass(frozen=True)
class Level:
    """An instruction set and the shape of the kernels for it.

    Attributes:
        name: ``"amx"``, ``"avx512vnni"``, ``"avxvnni"`` or ``"avx2"``.
        lanes: 32-bit numbers in a register.
        rows: of a block of sums that stays in registers, two registers wide.
        multiplies_bytes: whether it multiplies bytes without saturating (VPDPBUSD); else direct
            convolutions take words, too.
        few_weights: of a layer of few tiles, bytes of transformed weights for each tile. With more,
            it is computed directly: moving the weights would take longer than it saves.
        needs: features of the processor, in LLVM's words.
        cpu: what LLVM compiles for.
        features: what LLVM may use beside it.
        amx: whether convolutions are computed by AMX, all of them directly; then rows, few_weights
            and multiplies_bytes say nothing.
        by_name_only: whether it is used only where it is asked for by its name.
    """

    name: str
    lanes: int
    rows: int
    multiplies_bytes: bool
    few_weights: int
    needs: frozenset[str]
    cpu: str
    features: str
    amx: bool = False
    by_name_only: bool = False

    @property
    def outputs(self) -> int:
        """Channels of a block of sums."""
        return 2 * self.lanes

    @property
    def group(self) -> int:
        """Tiles or results whose sums are kept before they become bytes."""
        return self.rows * max(1, 12 // self.rows)


_V3 = frozenset({"avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe"})
"""What LLVM may use on x86-64-v3; v4 has more."""

AVX512_VNNI = Level(
    name="avx512vnni",
    lanes=16,
    rows=14,
    multiplies_bytes=True,
    few_weights=2**17,
    needs=_V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512vnni"},
    cpu="x86-64-v4",
    # Without fast-dpwssd LLVM may take VPDPWSSD apart into two instructions, at half the speed.
    features="+avx512vnni,+fast-dpwssd,-prefer-256-bit",
)
AMX = replace(
    AVX512_VNNI,
    name="amx",
    needs=AVX512_VNNI.needs | {"amx-tile", "amx-int8"},
    features=f"{AVX512_VNNI.features},+amx-tile,+amx-int8",
    amx=True,
    by_name_only=True,  # it has not run on such a processor yet: docs/decisions/0015
)
AVX_VNNI = Level(
    name="avxvnni",
    lanes=8,
    rows=6,
    multiplies_bytes=True,
    few_weights=2**17,
    needs=_V3 | {"avxvnni"},
    cpu="x86-64-v3",
    features="+avxvnni,+fast-dpwssd",
)
AVX2 = Level(
    name="avx2",
    lanes=8,
    rows=6,
    multiplies_bytes=False,
    few_weights=2**21,  # it saves three products of four, not one of two
    needs=_V3,
    cpu="x86-64-v3",
    features="",
)
LEVELS = (AMX, AVX512_VNNI, AVX_VNNI, AVX2)
"""The fastest first."""

VARIABLE = "SSD34_NATIVE_LEVEL"
"""In the environment: the name of the level to use."""


def available_levels() -> tuple[Level, ...]:
    """Those that this processor and system have."""
    return tuple(level for level in LEVELS if is_available(level))


def is_available(level: Level) -> bool:
    """Whether this processor and system have it."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    features = binding.get_host_cpu_features()
    has = all(features.get(feature) for feature in level.needs)
    return has and ("amx-tile" not in level.needs or may_use_amx())


def choose_level(name: str | None = None) -> Level:
    """A level by name, which may come from the environment: `VARIABLE`; None: the best one that is
    not `by_name_only`.

    Raises:
        ModelError: this processor or system does not have it, or no executable memory.
    """
    name = name or os.environ.get(VARIABLE) or None
    wanted = [e for e in LEVELS if e.name == name or (name is None and not e.by_name_only)]
    levels = [level for level in wanted if is_available(level)]
    if not levels:
        names = name or " or ".join(level.name for level in wanted)
        raise ModelError(
            f"the engine native needs an x86 processor with {names}, which this one "
            f"({platform.machine()}) does not have or this system does not permit; use the engine "
            "onnxruntime"
        )
    if not may_execute():
        raise ModelError(
            "the engine native needs executable memory, which this system forbids; use the engine "
            "onnxruntime"
        )
    return levels[0]


_ARCH_PRCTL, _REQUEST_PERMISSION, _AMX_DATA = 158, 0x1023, 18


def may_use_amx() -> bool:
    """Ask Linux to let this process, all its threads, use AMX, and whether it does.

    AMX registers make what is saved of a thread 8 KB larger, so a process has to ask first and is
    ended if it does not; what was granted once stays. Other systems are not asked.
    Source: https://docs.kernel.org/arch/x86/xstate.html.
    """
    if not sys.platform.startswith("linux"):
        return False
    call = ctypes.CDLL(None).syscall
    call.argtypes, call.restype = [ctypes.c_long] * 3, ctypes.c_long
    granted: bool = call(_ARCH_PRCTL, _REQUEST_PERMISSION, _AMX_DATA) == 0
    return granted


@functools.cache
def may_execute() -> bool:
    """Whether memory that was written may be made executable, as a compiler in the process does.

    LLVM would end the process where it may not.
    """
    if not sys.platform.startswith("linux"):
        return True
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(page))
    protect = ctypes.CDLL(None).mprotect
    protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    allowed: bool = protect(start, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_EXEC) == 0
    return allowed
