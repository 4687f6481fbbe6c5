"""Training batches. Every draw has its own seed: order and variation depend on nothing but the
run's seed and the position in it, and a resumed run sees the same batches."""

from __future__ import annotations

import errno
import itertools
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from ssd34.core.spec import ModelSpec
from ssd34.datasets.dataset import Kind, Problem
from ssd34.errors import TrainingError
from ssd34.machine import measure_free_memory, thread_budget
from ssd34.text import counted
from ssd34.train.distributed import ALONE, Ranks
from ssd34.train.examples.cache import start_workers_server
from ssd34.train.examples.example import Draw, Examples, TrainingSet, Unreadable, count_draws
from ssd34.train.options import TrainOptions

AHEAD = 3
"""Batches that each worker process prepares ahead, where the shared memory holds them."""
SHARED_MEMORY = "/dev/shm"  # noqa: S108
_MORE = (
    "give the container more (docker run --shm-size=1g), or add --workers 0, or a smaller --batch"
)
_FULL = (
    f"{SHARED_MEMORY}, through which processes hand over pictures, is full; {_MORE}; --resume "
    "continues"
)
_KILLED = (
    "a process that prepares pictures was killed, probably because the memory is full; --resume "
    "with fewer --workers or --set cache_mb=0"
)
PATIENCE = 600
"""Seconds without a batch from living worker processes, after which they are given up."""
FAREWELL = 10
"""Seconds that a process of several still waits for a batch once it is asked to stop."""
CACHE_SHARE = 0.25
"""Of the free memory: what the cache takes at most unless it is told how much."""


def limit_cache(sources: Sequence[TrainingSet], cache_mb: int | None, *, here: int = 1) -> int:
    """Bytes of decoded pictures that each of `here` processes on this machine keeps, of `cache_mb`
    MiB in all; None: what all pictures take, at most `CACHE_SHARE`."""
    allowed = int(measure_free_memory() * CACHE_SHARE) if cache_mb is None else cache_mb << 20
    samples = (source.dataset.samples[i] for source in sources for i in source.usable)
    # Pictures may also be kept at half their size and less: at most a third more.
    whole = 3 * sum(int(sample.width) * int(sample.height) for sample in samples)
    return min(allowed // here, whole * 4 // 3)


class Batch(NamedTuple):
    """What the network trains on.

    Attributes:
        images: (N, S, S, 3) uint8 RGB.
        offsets: (N, A, 4) float32.
        labels: (N, A) int64.
        weights: (N, A) float32, of what the default boxes learn; (N, 0): all count alike.
        labelled: (N, classes + 1) bool.
        problems: pictures that could not be read and were left out.
    """

    images: Tensor
    offsets: Tensor
    labels: Tensor
    weights: Tensor
    labelled: Tensor
    problems: tuple[Problem, ...]

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        *tensors, problems = self
        moved = (tensor.to(device, non_blocking=True) for tensor in tensors)
        return Batch._make((*moved, problems))

    def parts(self, count: int) -> list[Batch]:
        """The batch in so many parts of about the same size, the first with its problems."""
        *tensors, problems = self
        split = zip(*(tensor.tensor_split(count) for tensor in tensors), strict=True)
        return [Batch._make((*part, problems if n == 0 else ())) for n, part in enumerate(split)]


class _Parcel:
    """A batch on its way to the main process, packed in the worker's own thread, where a lack of
    shared memory or of file descriptors is an error that the main process hears of. In the thread
    that sends, it would be printed, and the batch waited for without end."""

    def __init__(self, examples: list[tuple[NDArray[Any], ...] | Unreadable]) -> None:
        self.packed = bytes(ForkingPickler.dumps(_collate(examples)))

    def __reduce__(self) -> tuple[Callable[[bytes], Batch], tuple[bytes]]:
        return ForkingPickler.loads, (self.packed,)


def _collate(examples: list[tuple[NDArray[Any], ...] | Unreadable]) -> Batch:
    unreadable = [e for e in examples if isinstance(e, Unreadable)]
    problems = tuple(e.problem for e in unreadable)
    made = [e for e in examples if not isinstance(e, Unreadable)]
    if not made:
        none, side = torch.zeros(0), unreadable[0].size
        images = torch.zeros(0, side, side, 3, dtype=torch.uint8)
        return Batch(images, none, none, none, none, problems)
    tensors = (torch.from_numpy(np.stack(part)) for part in zip(*made, strict=True))
    return Batch._make((*tensors, problems))


class Loader:
    """Endless batches from a position on."""

    def __init__(
        self,
        sources: Sequence[TrainingSet],
        *,
        spec: ModelSpec,
        options: TrainOptions,
        size_now: Callable[[int], int],
        pinned: bool = False,
        ranks: Ranks = ALONE,
    ) -> None:
        """`size_now`: the input size of a global step; `pinned`: copy batches to memory that a GPU
        can read directly; each of the processes gets its share of every batch."""
        self.sources = tuple(sources)
        self.ranks = ranks
        cached = limit_cache(sources, options.cache_mb, here=ranks.here)
        self.examples = Examples(sources, spec, options, cached=cached)
        self.batch_size = options.batch_size
        self.seed = options.seed
        self.workers = min(options.workers, thread_budget())  # more would wait for each other
        self.size_now = size_now
        self.pinned = pinned
        self.batches_per_epoch = count_batches(self.sources, options.batch_size)

    def order(self, number: int) -> list[tuple[int, int]]:
        """(source, picture) of one round of all draws, shuffled."""
        rng = np.random.default_rng((self.seed, number))
        order: list[tuple[int, int]] = []
        for position, source in enumerate(self.sources):
            wanted = count_draws(source)
            drawn = rng.permutation(len(source.usable))
            # A comb with one tooth a draw: each picture's share of the line catches its draws.
            line = source.frequency[drawn].cumsum()
            teeth = (np.arange(wanted) + 0.5) * (line[-1] / wanted)
            caught = drawn[np.minimum(line.searchsorted(teeth, "right"), len(drawn) - 1)]
            order += [(position, int(index)) for index in source.usable[caught]]
        return [order[i] for i in rng.permutation(len(order))]

    def draws(self, step: int) -> Iterator[list[Draw]]:
        """What this process draws for each batch from a global step on, without end: what an epoch
        of whole batches leaves over, the next one begins with."""
        number, first = divmod(step * self.batch_size, sum(map(count_draws, self.sources)))
        stream = itertools.islice(self._rounds(number), first, None)
        for now in itertools.count(step):
            size = self.size_now(now)
            whole = [
                Draw(source, picture, (self.seed, number, position), size)
                for number, position, source, picture in itertools.islice(stream, self.batch_size)
            ]
            yield whole[self.ranks.rank :: self.ranks.count]

    def _rounds(self, number: int) -> Iterator[tuple[int, int, int, int]]:
        """Round, position in it, source and picture of every draw from a round on."""
        while True:
            for position, (source, picture) in enumerate(self.order(number)):
                yield number, position, source, picture
            number += 1

    def batches(
        self, step: int, stop: Callable[[], bool] = lambda: False
    ) -> Generator[Batch, None, None]:
        """The batches from a global step on; to be closed, which ends the workers.

        Without end, unless `stop` says so while a batch is waited for: then the batches end. One
        process of several cannot end alone: it waits `FAREWELL` seconds more.

        Raises:
            TrainingError: a worker was killed, does not answer, or cannot hand over what it made;
                the memory or the shared memory is too small.
            KeyboardInterrupt: one of several processes waited in vain after `stop`.
        """
        workers, ahead = self._within_shared_memory()
        others = multiprocessing.active_children()
        with _report_failures(self.batch_size):
            try:
                loader = DataLoader(
                    self.examples,
                    batch_sampler=self.draws(step),
                    num_workers=workers,
                    collate_fn=_Parcel if workers else _collate,
                    worker_init_fn=_start_worker,
                    prefetch_factor=ahead if workers else None,
                    pin_memory=self.pinned,
                    timeout=1 if workers else 0,
                    multiprocessing_context=start_workers_server() if workers else None,
                )
                batches = iter(loader)
                while (batch := self._waited_for(batches, stop)) is not None:
                    yield batch
            finally:
                _end([p for p in multiprocessing.active_children() if p not in others])

    def _waited_for(self, batches: Iterator[Batch], stop: Callable[[], bool]) -> Batch | None:
        """The next batch; None where it is asked to stop before that one is there."""
        asked = 0
        # Counted, not read off a clock, which goes on while the whole group is suspended.
        for _ in range(PATIENCE):
            try:
                return next(batches)
            except RuntimeError as error:
                if "DataLoader timed out" not in str(error):
                    raise
            asked += stop()
            if asked and self.ranks.count == 1:
                return None
            if asked > FAREWELL:
                raise KeyboardInterrupt
        raise TrainingError(
            f"no batch in {PATIENCE} s from the processes that prepare pictures, though they live; "
            "is the disk with the pictures there? --resume, or --resume --workers 0"
        )

    def _within_shared_memory(self) -> tuple[int, int]:
        """How many workers there are, and how many batches each prepares ahead, so that what waits
        and the batch in use fit the shared memory; an error where not even one worker's do."""
        free = _free_shared_memory()
        if not self.workers or free is None:
            return self.workers, AHEAD
        each = self._batch_bytes() * self.ranks.here
        fit = free // each - 1
        if fit < 1:
            raise TrainingError(
                f"{SHARED_MEMORY}: expected {2 * each / 1e6:.1f} MB or more for the batches that "
                f"other processes prepare, got {free / 1e6:.1f} MB free; {_MORE}"
            )
        workers = min(self.workers, fit)
        return workers, min(AHEAD, fit // workers)

    def _batch_bytes(self) -> int:
        """Bytes of the largest batch of this process in shared memory."""
        spec = self.examples.spec
        size = max(spec.image_size, self.size_now(0))
        boxes = len(self.examples.default_boxes(size))
        each = 4 * 4 + 8 + 4 * self.examples.options.score_weight
        picture = 3 * size**2 + boxes * each + len(self.sources[0].labelled)
        return -(-self.batch_size // self.ranks.count) * picture


def _free_shared_memory() -> int | None:
    """Bytes; None where worker processes share memory in another way."""
    try:
        return shutil.disk_usage(SHARED_MEMORY).free
    except OSError:
        return None


@contextmanager
def report_deaths() -> Iterator[None]:
    """Within it the death of a worker process is a TrainingError. torch tells of it wherever the
    main process is, also between two batches."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if "Bus error" in text:
            raise TrainingError(_FULL) from None
        if "exited unexpectedly" not in text and "killed by signal" not in text:
            raise
        raise TrainingError(_KILLED) from None


@contextmanager
def _report_failures(batch_size: int) -> Iterator[None]:
    """Within it whatever keeps worker processes from handing over a batch is a TrainingError: they
    cannot be started, were killed, or lack memory or descriptors."""
    try:
        with report_deaths():
            yield
    except (RuntimeError, MemoryError, OSError, EOFError) as error:
        text = str(error)
        number = error.errno if isinstance(error, OSError) else None
        if "Too many open files" in text:
            reason = (
                "too many open files for the processes that prepare pictures; raise the limit "
                "(ulimit -n), or add --workers 0; --resume continues"
            )
        elif "shared memory" in text or number == errno.ENOSPC:
            reason = _FULL
        elif lacks_memory(error):
            reason = (
                f"out of memory while a batch of {counted(batch_size, 'picture')} was put "
                f"together; --batch {max(1, batch_size // 2)}, fewer --workers or --set "
                "cache_mb=0 take less"
            )
        elif isinstance(error, ConnectionError | EOFError):  # it died while it handed over
            reason = _KILLED
        elif number in (errno.EAGAIN, errno.ENOMEM):
            reason = (
                f"processes that prepare pictures cannot be started ({os.strerror(number)}); add "
                "fewer --workers, or --workers 0"
            )
        else:
            raise
        raise TrainingError(reason) from None


def _end(processes: Sequence[BaseProcess]) -> None:
    """End worker processes at once: they ignore what asks them, and may wait for a dead one."""
    # torch takes a worker that ends so for one that failed, of which this signal tells it.
    told = getattr(signal, "SIGCHLD", None)
    before = None
    with suppress(ValueError):  # not the main thread, which alone is told
        before = signal.signal(told, signal.SIG_DFL) if told else None
    for process in processes:
        process.kill()
    for process in processes:
        process.join()
    if told and before is not None:
        signal.signal(told, before)


def count_batches(sources: Sequence[TrainingSet], batch_size: int) -> int:
    """Whole batches that an epoch of some data sets has; at least one."""
    return max(1, sum(map(count_draws, sources)) // batch_size)


def gather_problems(problems: Sequence[Problem], ranks: Ranks) -> list[Problem]:
    """The pictures that any of the processes could not read; each gives its own."""
    if not ranks.any(len(problems) > 0):
        return []
    met = (one for each in ranks.gather(problems) for one in each)
    return [Problem(problem.where, problem.reason, Kind.UNREADABLE) for problem in met]


def _start_worker(_: int) -> None:
    """Signals to the whole group are the main process's to handle; it ends the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)


def lacks_memory(error: BaseException) -> bool:
    """Whether an error of Python, NumPy or torch, on the CPU or a GPU, is a lack of memory."""
    text = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        "defaultcpuallocator" in text or "out of memory" in text or "bad_alloc" in text
    )
