"""Four processes fill one cache, one of them is killed: run as a program of its own.

Processes are copies of the one that made the cache, and a program that has run other libraries'
threads, as a test run has, is not safe to copy.
"""

import multiprocessing
import signal

import numpy as np

from ssd34.train.picture_cache import PictureCache
from tests.train.test_picture_cache import Decoder, dying, noise, same


def main():
    context = multiprocessing.get_context("fork")
    cache = PictureCache(40, 100_000)

    def fill(numbers, killed):
        for number in numbers:
            cache.read(number, 1, Decoder()(number))
        if killed:
            cache.read(39, 1, dying)

    orders = [np.random.default_rng(seed).permutation(39) for seed in range(4)]
    processes = [
        context.Process(target=fill, args=(order, number == 0))
        for number, order in enumerate(orders)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [-signal.SIGKILL, 0, 0, 0]
    decoder = Decoder()
    assert all(same(cache.read(n, 1, decoder(n)), noise(n)) for n in range(40))
    assert decoder.calls == 1
    assert cache.used == 40 * 7 * 5 * 3


if __name__ == "__main__":
    main()
