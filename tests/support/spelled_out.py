"""Levels for processors that lack them: AMX with each of its instructions spelled out in plain
ones, AVX-VNNI with the same instructions as AVX-512 encodes them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from llvmlite import ir

from ssd34.runtime.native import program
from ssd34.runtime.native.emit import I8, I16, I32, POINTER, Code, Value, vector
from ssd34.runtime.native.levels import AMX, AVX2, AVX_VNNI

AMX_SPELLED_OUT = dataclasses.replace(
    AMX, name="amx spelled out", needs=AVX2.needs, cpu=AVX2.cpu, features=AVX2.features
)
"""The program of `AMX` for every processor with AVX2, once `compile_spelled_out` was called."""

AVX_VNNI_OF_AVX512 = dataclasses.replace(
    AVX_VNNI,
    name="avxvnni of AVX-512",
    needs=AVX_VNNI.needs - {"avxvnni"} | {"avx512vl", "avx512vnni"},
    features="+avx512vl,+avx512vnni,+fast-dpwssd",
)
"""The program of `AVX_VNNI`, on registers as wide, for a processor with AVX512-VNNI."""

_ROW = vector(I32, 16)


def compile_spelled_out() -> program.Program:
    """Compile it, once, so that networks of this level find it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "Code", SpelledOut)
        return program.compile_program(AMX_SPELLED_OUT)


class SpelledOut(Code):
    """Registers are memory of the function that uses them: none is used across functions. Their
    configuration is kept where the module has ``configuration``."""

    def __init__(self) -> None:
        super().__init__()
        self._registers: dict[tuple[str, int], Value] = {}
        kept = ir.GlobalVariable(self.module, _ROW, "configuration")
        kept.initializer, kept.type = ir.Constant(_ROW, [0] * 16), POINTER
        self._configuration = Value(self, kept)

    def intrinsic(
        self, name: str, result: Any, arguments: list[Value], *, suffix: tuple[Any, ...] = ()
    ) -> Value:
        """AMX's instructions as Intel's manual explains them, the others as they are."""
        _, _, instruction = name.partition("llvm.x86.")
        if not instruction.startswith(("ldtilecfg", "tile", "tdp")):
            return super().intrinsic(name, result, arguments, suffix=suffix)
        registers = [self._register(a.raw.constant) for a in arguments if a.type == I8]
        if instruction == "tdpbusd":
            self._multiply(*registers)
        elif instruction == "tilezero":
            self._copy(registers[0], None, 64, 64)
        elif instruction == "tileloadd64":
            self._copy(registers[0], arguments[1], 64, arguments[2])
        elif instruction == "tilestored64":
            self._copy(arguments[1], registers[0], arguments[2], 64)
        elif instruction == "ldtilecfg":
            self._configuration.store(arguments[0].load(_ROW))
        else:
            assert instruction == "tilerelease"
        return arguments[0] if arguments else Value(self, ir.Constant(I32, 0))

    def _register(self, number: int) -> Value:
        assert 0 <= number < 8
        key = self.builder.function.name, number
        if key not in self._registers:
            self._registers[key] = self.variable(ir.ArrayType(I8, 1024), align=64)
        return self._registers[key]

    def _copy(
        self, target: Value, source: Value | None, to_next: Value | int, from_next: Value | int
    ) -> None:
        with self.loop(16) as row:
            values = source and (source + row * from_next).load(_ROW)
            (target + row * to_next).store(values or self.value(0, _ROW))

    def _multiply(self, sums: Value, inputs: Value, weights: Value) -> None:
        """Bytes 0 and 2 of each four as words, then 1 and 3: VPMADDWD adds two products."""
        half, words = vector(I32, 8), vector(I16, 16)
        with self.loop(16) as row, self.loop(2) as v:
            place = sums + row * 64 + v * 32
            total = self.variable(half, align=32)
            total.store(place.load(half))
            with self.loop(16) as k:
                four = self.value((inputs + row * 64 + k * 4).load(I32), half)
                others = (weights + k * 64 + v * 32).load(half).as_bits(words)
                for odd in range(2):
                    unsigned = ((four >> 8 * odd) & 0xFF00FF).as_bits(words)
                    signed = (others if odd else others << 8) >> 8
                    sum_of_two = self.intrinsic("llvm.x86.avx2.pmadd.wd", half, [unsigned, signed])
                    total.store(total.load(half) + sum_of_two)
            place.store(total.load(half))
