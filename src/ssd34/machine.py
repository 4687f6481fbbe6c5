"""The machine as far as this process may use it: processors, memory, threads that work ahead."""

from __future__ import annotations

import ctypes
import math
import os
import platform
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

FEATURES = {
    "avx2": {"avx2"},
    "avx512": {"avx512f"},
    "vnni": {"avx512_vnni", "avx_vnni"},
    "bf16": {"avx512_bf16"},
    "amx": {"amx_tile"},
}
"""Instruction sets that change the speed, and any of the kernel's flags that stands for each.
VNNI multiplies bytes, BF16 half-width floats; AMX has tiles of both."""

_CGROUP = Path("/sys/fs/cgroup")
_PROC = Path("/proc")
_CPUINFO = _PROC / "cpuinfo"
_STATUS = _PROC / "self" / "status"


MAX_THREADS = 1024
"""The most that may be asked for: engines try to start any number, whatever the machine has."""


def thread_budget(cgroup: Path = _CGROUP, proc: Path = _PROC) -> int:
    """Processors that this process may use, at least 1: the smaller of the CPU affinity and the
    CPU quota of its container or service (cgroup v2 or v1), rounded up."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        allowed = os.cpu_count() or 1
    return max(1, min([allowed, *map(math.ceil, _quotas(cgroup, proc))]))


def _find_groups(cgroup: Path, proc: Path, controller: str) -> tuple[Path, ...]:
    """The folders of the control groups that this process is in, the innermost first: those of
    version 1 where `controller` is given. A limit of each holds."""
    root = cgroup / controller
    try:
        lines = (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return (root,)
    fields = (line.split(":", 2) for line in lines if line.count(":") >= 2)
    own = next((path for _, names, path in fields if controller in names.split(",")), "/")
    # In a container the path may be that of the machine, or lead out of what is mounted.
    innermost = root / own.strip("/") if ".." not in own else root
    return innermost, *(above for above in innermost.parents if above.is_relative_to(root))


def _quotas(cgroup: Path, proc: Path) -> Iterator[float]:
    """Processors that each control group leaves to this process, where it has a limit."""
    for controller, names in (
        ("", ("cpu.max",)),
        ("cpu", ("cpu.cfs_quota_us", "cpu.cfs_period_us")),
    ):
        for folder in _find_groups(cgroup, proc, controller):
            with suppress(OSError, ValueError, ZeroDivisionError):
                text = " ".join((folder / name).read_text(encoding="utf-8") for name in names)
                limit, period = map(int, text.split()[:2])
                if limit > 0:
                    yield limit / period


@dataclass(frozen=True)
class Cpu:
    """A processor.

    Attributes:
        model: its name.
        system: operating system and instruction set.
        processors: logical ones of the machine.
        thread_budget: how many of them this process may use.
        features: which of `FEATURES` it has; None: the system does not say.
    """

    model: str
    system: str
    processors: int
    thread_budget: int
    features: dict[str, bool] | None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return asdict(self)


def describe_cpu(cpuinfo: Path = _CPUINFO) -> Cpu:
    """The processor that this process runs on."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    entries: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        entries.setdefault(name.strip(), value.strip())
    flags = set(entries.get("flags", "").split())
    return Cpu(
        model=entries.get("model name") or platform.processor() or "unknown",
        system=f"{platform.system()} {platform.machine()}",
        processors=os.cpu_count() or 1,
        thread_budget=thread_budget(),
        features={name: bool(flags & any_of) for name, any_of in FEATURES.items()}
        if flags
        else None,
    )


def measure_peak_memory(status: Path = _STATUS) -> int | None:
    """The most bytes that this process has had in RAM; None where the system does not say. Linux is
    asked for the high-water mark of this program: the usual counter (``ru_maxrss``) starts at what
    the parent had when it started this process."""
    try:
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    except (OSError, ValueError, IndexError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if platform.system() == "Darwin" else 1024 * most


def measure_free_memory(proc: Path = _PROC, cgroup: Path = _CGROUP) -> int:
    """Bytes that can be taken without swapping; half of the machine's where it does not say; 0
    where nothing is known."""
    return max(0, min([_of_machine(proc), *_of_groups(cgroup, proc)]))


def _of_machine(proc: Path) -> int:
    try:
        for line in (proc / "meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, ValueError, OSError):
        return 0


def _of_groups(cgroup: Path, proc: Path) -> Iterator[int]:
    """What is left of the limit of each control group, of version 2 or 1. Files that were read and
    may be forgotten, ``inactive_file``, do not count as used."""
    for controller, limit, used, kept in (
        ("", "memory.max", "memory.current", "inactive_file"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        for folder in _find_groups(cgroup, proc, controller):
            with suppress(OSError, ValueError):
                most, taken = (
                    int((folder / name).read_text(encoding="utf-8")) for name in (limit, used)
                )
                with suppress(OSError, ValueError, KeyError):
                    text = (folder / "memory.stat").read_text(encoding="utf-8")
                    taken -= int(dict(line.split() for line in text.splitlines())[kept])
                yield most - taken


def trim_heap() -> None:
    """Give freed memory back, where the C library is glibc. That keeps freed tensors for the next
    ones, but aligned ones do not fit into the gaps that the last left, so the heap grows by every
    tensor of a large network."""
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


@contextmanager
def signal_restored(number: int, during: Any = None) -> Iterator[None]:
    """Handle a signal in the block as `during` says, if at all, and afterwards as before; only the
    main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(number)
    if during is not None:
        signal.signal(number, during)
    try:
        yield
    finally:
        signal.signal(number, before or signal.SIG_DFL)


_LOOKS = 0.1
"""Seconds between two looks at whether to go on waiting."""

Item = TypeVar("Item")
Made = TypeVar("Made")


def overlapped(
    function: Callable[[Item], Made],
    items: Iterable[Item],
    *,
    ahead: int,
    threads: int,
    stopped: threading.Event | None = None,
) -> Generator[Made, None, None]:
    """`map` whose calls run in threads while the caller works, results in order.

    Memory holds at most `ahead` results that the caller has not taken yet. `items` is run through
    in the caller's own thread. When the caller stops early, calls not yet begun are dropped and
    those that have are waited for; `stopped` is set, by which they may know. An error is raised at
    its turn and ends the loop; where it should not, let `function` return it. Close it, as with
    ``contextlib.closing``: left to the garbage collector, it may wait for ever for its own threads.
    """
    waiting: deque[Future[Made]] = deque()
    source, failure = iter(items), None
    with ThreadPoolExecutor(threads) as pool:
        try:
            while True:
                while failure is None and len(waiting) <= ahead:
                    try:
                        item = next(source)
                    except StopIteration:
                        break
                    except Exception as error:
                        failure = error
                        break
                    waiting.append(pool.submit(function, item))
                if not waiting:
                    break
                yield waiting.popleft().result()
            if failure is not None:
                raise failure
        finally:
            if stopped is not None:
                stopped.set()
            for call in waiting:
                call.cancel()


def wait_unless(stopped: threading.Event, function: Callable[[], Made]) -> Made | None:
    """What a function gives that waits for others, such as a server; None once `stopped` is set:
    its thread is left to itself then, and does not keep the process from ending."""
    future: Future[Made] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    while not stopped.is_set():
        if wait([future], timeout=_LOOKS).done:
            return future.result()
    return None
