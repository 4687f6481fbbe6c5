"""All convolutions of a file, ready to run: where their pictures lie, and who computes them."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from ssd34.errors import ModelError
from ssd34.runtime.native.convolution import Convolution, Packed, empty, rounded_up
from ssd34.runtime.native.kernels import ALIGN, CHANNELS
from ssd34.runtime.native.levels import Level
from ssd34.runtime.native.program import COUNTERS, compile_program, scratch_bytes, weight_bytes

Sizes = dict[str, tuple[int, int, int]]
"""Values to height, width and channels in memory."""


class NativeNetwork:
    """Convolutions ready to run, by several callers at once.

    Memory for pictures and scratch is taken `streams` times at most; further callers wait.
    """

    def __init__(
        self,
        convolutions: Sequence[Convolution],
        level: Level,
        *,
        entry: str,
        size: tuple[int, int],
        exits: Sequence[str],
        threads: int,
        streams: int = 1,
    ) -> None:
        """
        Args:
            convolutions: in order.
            level: the instruction set.
            entry: the value that the first one reads.
            size: its height and width.
            exits: values that are asked for.
            threads: that one run uses.
            streams: runs that will be under way at once.

        Raises:
            ModelError: a picture is smaller than a window, or a residual of another size.
        """
        self._level, self._threads, self._entry = level, threads, entry
        self._sizes: Sizes = {entry: (*size, convolutions[0].weight.shape[1])}
        self._packed = []
        for conv in convolutions:
            height, width, channels = self._sizes[conv.source]
            made = (*conv.size_of_target(height, width), rounded_up(len(conv.weight), CHANNELS))
            residual = conv.addition and self._sizes[conv.addition.residual]
            fits = channels == rounded_up(conv.weight.shape[1], CHANNELS) and min(made[:2]) > 0
            if not fits or residual not in (None, made):
                raise ModelError(
                    f"{conv.name}: weights {conv.weight.shape} do not fit a picture of "
                    f"{self._sizes[conv.source]}, or its residual is of another size; export the "
                    "file again"
                )
            self._sizes[conv.target] = made
            self._packed.append(Packed(conv, level, height=height, width=width, threads=threads))
        self._names, self._exits = [conv.names for conv in convolutions], list(exits)
        self._places, self._bytes = _places(self._names, self._sizes, self._exits)
        self._records = np.concatenate([packed.records for packed in self._packed])
        self._ends = np.cumsum([len(packed.records) for packed in self._packed])
        self._scratch = max(scratch_bytes(level, record) for record in self._records)
        self._weights = max(weight_bytes(level, record) for record in self._records)
        self._program = compile_program(level)
        self._pool = ThreadPoolExecutor(max((threads - 1) * streams, 1), "ssd34-native")
        self._free: queue.LifoQueue[_Memory | None] = queue.LifoQueue()
        for _ in range(streams):
            self._free.put(None)

    @contextmanager
    def run(self, pictures: NDArray[np.uint8]) -> Iterator[Mapping[str, NDArray[np.uint8]]]:
        """Compute the exits for the entry, (N, H, W, C) uint8.

        They are (N, H, W, C), C filled up to a multiple of 32, and hold until the context ends.
        """
        pictures = np.ascontiguousarray(pictures)
        expected = self._sizes[self._entry]
        if pictures.shape[1:] != expected or pictures.dtype != np.uint8:
            raise ModelError(f"expected {expected} of uint8, got {pictures.shape[1:]}")
        memory = self._free.get()
        try:
            memory = memory or _Memory(self)
            if len(pictures) == 1:
                self._run_one(memory, pictures[0])
                yield {name: memory.view(name)[None] for name in self._exits}
            else:
                found: dict[str, list[NDArray[np.uint8]]] = {name: [] for name in self._exits}
                for picture in pictures:
                    self._run_one(memory, picture)
                    for name, views in found.items():
                        views.append(memory.view(name).copy())
                yield {
                    name: np.stack(views) if views else np.empty((0, *self._sizes[name]), np.uint8)
                    for name, views in found.items()
                }
        finally:
            self._free.put(memory)

    def _run_one(self, memory: _Memory, picture: NDArray[np.uint8]) -> None:
        memory.read_from(picture)
        memory.counters[:] = 0
        shared = memory.records.ctypes.data, len(memory.records), memory.counters.ctypes.data
        calls = [
            self._pool.submit(self._program.run, *shared, scratch.ctypes.data)
            for scratch in memory.scratch[1:]
        ]
        self._program.run(*shared, memory.scratch[0].ctypes.data)
        for call in calls:
            if not call.cancel():  # else it came too late to help
                call.result()


class _Memory:
    """What one run writes to."""

    def __init__(self, network: NativeNetwork) -> None:
        self._network = network
        self._room = empty(network._bytes)
        self.records = network._records.copy()
        self.counters = empty(COUNTERS * len(self.records))
        self.scratch = [empty(network._scratch) for _ in range(network._threads)]
        self._readers: list[tuple[int, str]] = []
        self._weights = empty(network._weights)
        self.records["spread"] = self._weights.ctypes.data
        for number, names in zip(network._ends - 1, network._names, strict=True):
            for field, name in names.items():
                if name == network._entry:
                    self._readers.append((number, field))
                else:
                    self.records[field][number] = self.view(name).ctypes.data

    def view(self, name: str) -> NDArray[np.uint8]:
        """A value's picture."""
        start, shape = self._network._places[name], self._network._sizes[name]
        return self._room[start : start + int(np.prod(shape))].reshape(shape)

    def read_from(self, picture: NDArray[np.uint8]) -> None:
        """Where the entry lies this time."""
        for number, field in self._readers:
            self.records[field][number] = picture.ctypes.data


def _places(
    steps: Sequence[Mapping[str, str]], sizes: Sizes, exits: Sequence[str]
) -> tuple[dict[str, int], int]:
    """Where each value's picture begins, and how many bytes all take: the room of values that
    nobody reads any more is given to later ones."""
    last = {name: number for number, names in enumerate(steps) for name in names.values()}
    last |= {name: len(steps) for name in exits}
    places: dict[str, int] = {}
    alive: list[tuple[int, int, int]] = []  # begin, end, last reader
    whole = 0
    for number, names in enumerate(steps):
        target = names["target"]
        alive = sorted(room for room in alive if room[2] >= number)
        size, start = rounded_up(int(np.prod(sizes[target])), ALIGN), 0
        for begin, end, _ in alive:
            if begin - start >= size:
                break
            start = max(start, end)
        places[target] = start
        alive.append((start, start + size, last[target]))
        whole = max(whole, start + size)
    return places, whole
