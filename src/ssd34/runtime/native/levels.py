"""The instruction sets that there are kernels for, and which of them this processor has."""

from __future__ import annotations

import ctypes
import functools
import mmap
import platform
import sys
from dataclasses import dataclass

from llvmlite import binding

from ssd34.errors import ModelError


@dataclass(frozen=True)
class Level:
    """An instruction set and the shape of the kernels for it.

    Attributes:
        name: ``"avx512vnni"``, ``"avxvnni"`` or ``"avx2"``.
        lanes: 32-bit numbers in a register.
        rows: of a block of sums that stays in registers, two registers wide.
        multiplies_bytes: whether it multiplies bytes without saturating (VPDPBUSD); else direct
            convolutions take words, too.
        few_weights: of a layer of few tiles, bytes of transformed weights for each tile. With more,
            it is computed directly: moving the weights would take longer than it saves.
        needs: features of the processor, in LLVM's words.
        cpu: what LLVM compiles for.
        features: what LLVM may use beside it.
    """

    name: str
    lanes: int
    rows: int
    multiplies_bytes: bool
    few_weights: int
    needs: frozenset[str]
    cpu: str
    features: str

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
LEVELS = (AVX512_VNNI, AVX_VNNI, AVX2)
"""The fastest first."""

NAMES = tuple(level.name for level in LEVELS)


def available_levels() -> tuple[Level, ...]:
    """Those that this processor and system have."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return ()
    features = binding.get_host_cpu_features()
    return tuple(level for level in LEVELS if all(features.get(f) for f in level.needs))


def choose_level(name: str | None = None) -> Level:
    """A level by name; None: the best one.

    Raises:
        ModelError: this processor does not have it, or the system no executable memory.
    """
    levels = [level for level in available_levels() if name in (None, level.name)]
    if not levels:
        raise ModelError(
            f"the engine native needs an x86 processor with {name or ' or '.join(NAMES)}, which "
            f"this one ({platform.machine()}) does not have; use the engine onnxruntime"
        )
    if not may_execute():
        raise ModelError(
            "the engine native needs executable memory, which this system forbids; use the engine "
            "onnxruntime"
        )
    return levels[0]


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
