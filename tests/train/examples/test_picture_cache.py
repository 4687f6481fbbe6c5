import os
import pickle
import signal
import sys

import numpy as np
import pytest
from PIL import Image

from ssd34.datasets.open import open_dataset
from ssd34.errors import OptionError
from ssd34.machine import measure_free_memory
from ssd34.train.distributed import Ranks
from ssd34.train.examples.augment import Augmentation
from ssd34.train.examples.cache import PictureCache, start_workers_server
from ssd34.train.examples.example import make_training_sets
from ssd34.train.examples.loader import limit_cache
from tests.conftest import TINY_LABELS
from tests.support.training import loader_of


def noise(number, size=(7, 5)):
    generator = np.random.default_rng(number)
    return Image.fromarray(generator.integers(0, 256, (*size[::-1], 3)).astype(np.uint8))


class Decoder:
    """Gives pictures and counts how often."""

    def __init__(self):
        self.calls = 0

    def __call__(self, number, **given):
        def decode():
            self.calls += 1
            return noise(number, **given)

        return decode


def dying() -> Image.Image:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def same(ours, theirs):
    return ours.mode == theirs.mode and np.array_equal(np.asarray(ours), np.asarray(theirs))


def test_each_picture_is_decoded_once_per_size():
    cache, decoder = PictureCache(3, 10_000), Decoder()
    for _ in range(3):
        for number in range(3):
            assert same(cache.read(number, 1, decoder(number)), noise(number))
            half = cache.read(number, 2, decoder(10 + number, size=(4, 3)))
            assert same(half, noise(10 + number, size=(4, 3)))
    assert decoder.calls == 6
    assert cache.used == 3 * (7 * 5 * 3 + 4 * 3 * 3)


def test_what_does_not_fit_is_decoded_again_and_never_kept():
    cache, decoder = PictureCache(3, 2 * 7 * 5 * 3 + 50), Decoder()
    for _ in range(2):
        for number in range(3):
            assert same(cache.read(number, 1, decoder(number)), noise(number))
    assert decoder.calls == 4
    assert cache.used == 2 * 7 * 5 * 3
    # A smaller picture still finds room.
    cache.read(2, 8, decoder(5, size=(4, 4)))
    assert cache.used == 2 * 7 * 5 * 3 + 48


def test_nothing_is_kept_without_room_or_in_a_pickled_cache():
    for cache in (PictureCache(3, 0), pickle.loads(pickle.dumps(PictureCache(3, 1000)))):
        decoder = Decoder()
        for _ in range(2):
            assert same(cache.read(1, 1, decoder(1)), noise(1))
        assert decoder.calls == 2 and cache.used == cache.limit == 0


def test_a_picture_that_cannot_be_read_is_tried_again():
    cache = PictureCache(1, 1000)

    def broken():
        raise ValueError("broken")

    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            cache.read(0, 1, broken)
    assert same(cache.read(0, 1, Decoder()(0)), noise(0))


def fill(cache, numbers, killed):
    for number in numbers:
        cache.read(int(number), 1, Decoder()(int(number)))
    if killed:
        cache.read(39, 1, dying)


@pytest.mark.skipif(sys.platform != "linux", reason="worker processes share memory on Linux alone")
def test_processes_share_what_one_of_them_has_decoded():
    """One that is killed leaves nothing half written behind for the others."""
    context = start_workers_server()
    cache = PictureCache(40, 100_000)
    orders = [np.random.default_rng(seed).permutation(39) for seed in range(4)]
    processes = [
        context.Process(target=fill, args=(cache, order, number == 0))
        for number, order in enumerate(orders)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [-signal.SIGKILL, 0, 0, 0]
    decoder = Decoder()
    assert all(same(cache.read(n, 1, decoder(n)), noise(n)) for n in range(40))
    assert decoder.calls == 1
    assert cache.used == 40 * 7 * 5 * 3


def die_with_the_lock(cache):
    with cache._locked():
        dying()


@pytest.mark.skipif(sys.platform != "linux", reason="worker processes share memory on Linux alone")
def test_a_process_killed_with_the_lock_in_its_hands_holds_up_nobody():
    cache = PictureCache(3, 1000)
    process = start_workers_server().Process(target=die_with_the_lock, args=(cache,))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert same(cache.read(1, 1, Decoder()(1)), noise(1))


def test_more_than_the_system_gives():
    with pytest.raises(OptionError, match="a cache_mb that fits the memory"):
        PictureCache(1, 1 << 60)


@pytest.mark.usefixtures("two_processors")
def test_batches_are_the_same_with_and_without_cache_and_worker_processes(shapes):
    def made(workers, cache_mb):
        loader = loader_of(
            shapes, augmentation=Augmentation(expand=0.3), workers=workers, cache_mb=cache_mb,
            size_now=lambda step: 64 if step % 2 else 32,
        )  # fmt: skip
        batches = loader.batches(0)
        return [next(batches) for _ in range(12)], loader.examples.cache

    expected, empty = made(0, 0)
    assert empty.used == 0
    for workers, cache_mb in ((0, None), (2, 0), (2, None)):
        found, cache = made(workers, cache_mb)
        assert (cache.used > 0) == (cache_mb is None)
        for ours, theirs in zip(found, expected, strict=True):
            for one, other in zip(ours[:4], theirs[:4], strict=True):
                assert one.equal(other), (workers, cache_mb)


def test_how_much_is_kept(shapes):
    sources = make_training_sets([(open_dataset(shapes), 2.0)], TINY_LABELS)
    pixels = sum(s.width * s.height for s in sources[0].dataset.samples)
    assert limit_cache(sources, None) == 3 * pixels * 4 // 3
    assert limit_cache(sources, 1000) == 3 * pixels * 4 // 3
    assert limit_cache(sources, 0) == 0
    many = make_training_sets([(open_dataset(shapes), 1.0)] * 40, TINY_LABELS)
    assert limit_cache(many, 1) == 1 << 20
    assert limit_cache(many, 1, here=4) == 1 << 18
    assert Ranks().here == 1


MEMINFO = "MemTotal:  24000000 kB\nMemFree:  1000 kB\nMemAvailable:  2000000 kB\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 2_000_000 * 1024),
        ({"memory.max": "max", "memory.current": "5"}, 2_000_000 * 1024),
        ({"memory.max": "1000000", "memory.current": "400000"}, 600_000),
        ({"memory.max": "1000", "memory.current": "4000"}, 0),
        # Files that were read and may be forgotten.
        (
            {
                "memory.max": "10000", "memory.current": "9000",
                "memory.stat": "anon 2000\nfile 7000\ninactive_file 6000\nactive_file 1000",
            },
            7000,
        ),
        (
            {
                "memory/memory.limit_in_bytes": "5000", "memory/memory.usage_in_bytes": "4000",
                "memory/memory.stat": "inactive_file 1\ntotal_inactive_file 3000",
            },
            4000,
        ),
        ({"memory/memory.limit_in_bytes": "5000", "memory/memory.usage_in_bytes": "1000"}, 4000),
        (
            {
                "memory.max": "9000", "memory.current": "2000",
                "a.service/memory.max": "5000", "a.service/memory.current": "2000",
            },
            3000,
        ),
        (
            {
                "memory/memory.limit_in_bytes": str(2**63 - 4096),
                "memory/memory.usage_in_bytes": "1000",
            },
            2_000_000 * 1024,
        ),
    ],
)  # fmt: skip
def test_free_memory_is_that_of_the_container(tmp_path, files, expected):
    proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text("0::/a.service\n")
    (proc / "meminfo").write_text(MEMINFO)
    for name, text in files.items():
        (cgroup / name).parent.mkdir(parents=True, exist_ok=True)
        (cgroup / name).write_text(f"{text}\n")
    assert measure_free_memory(proc, cgroup) == expected


def test_free_memory_where_the_system_does_not_say(tmp_path):
    assert 0 < measure_free_memory(tmp_path, tmp_path) < 1 << 50
