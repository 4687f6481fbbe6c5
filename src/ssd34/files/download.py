"""A published file: mirrors in turn, resumed, and checked before it counts."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from ssd34.errors import DownloadError
from ssd34.files.atomic import compute_sha256
from ssd34.files.lock import file_locked
from ssd34.files.web import PAUSE, TIMEOUT, BrokenOff, Refused, in_one_line, length_of, receive


def download(
    urls: Sequence[str],
    target: Path,
    *,
    size: int,
    sha256: str,
    progress: Callable[[int], None] = lambda _have: None,
    timeout: float = TIMEOUT,
    attempts: int = 5,
    pause: float = PAUSE,
) -> None:
    """Download the file to `target`, whole and checked; nothing is fetched if it is there already.

    A partial download stays in ``target.part``, and the next mirror or the next call resumes it. Of
    two processes that want the same file one waits for the other.

    Args:
        urls: mirrors, tried in this order; http or https.
        target: where the file shall lie; its folder is made.
        size: bytes.
        sha256: 64 hexadecimal digits.
        progress: called with the bytes that are there.
        timeout: seconds without a byte after which a mirror counts as gone.
        attempts: how often one mirror may break off before the next is tried.
        pause: seconds before a mirror that broke off is asked again.

    Raises:
        DownloadError: no mirror had it; the message says what each answered and where to put the
            file by hand.
        OSError: the folder cannot be written.
    """
    if is_file(target, size=size, sha256=sha256):
        return
    there = ""
    if os.path.isfile(target):
        there = f"the file there has SHA-256 {compute_sha256(target)}, expected {sha256}; "
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    answers = []
    with file_locked(target, waiting=lambda _who: progress(length_of(part))):
        if is_file(target, size=size, sha256=sha256):
            return
        for url in urls:
            fetch = partial(receive, url, part, size=size, timeout=timeout, progress=progress)
            try:
                _complete(part, fetch, size=size, sha256=sha256, attempts=attempts, pause=pause)
            except Refused as answer:
                answers.append(f"{urlsplit(url).netloc or url}: {in_one_line(str(answer))}")
            else:
                part.replace(target)
                return
    raise DownloadError(
        f"{there}{target.name} could not be fetched: {'; '.join(answers)}; to do it by hand put it "
        f"at {target} ({size} bytes, SHA-256 {sha256})"
    )


def _complete(
    part: Path, fetch: Callable[[], None], *, size: int, sha256: str, attempts: int, pause: float
) -> None:
    """Bring `part` to the whole, right file by one mirror; Refused where that has another file, or
    broke off too often."""
    inherited = length_of(part) > 0
    broken_off = 0
    while True:
        if length_of(part) >= size:
            if is_file(part, size=size, sha256=sha256):
                return
            wrong = compute_sha256(part)
            part.unlink()
            # A beginning by an older call or another mirror may be what is wrong.
            if not inherited:
                raise Refused(f"sends a wrong file (its SHA-256 is {wrong})")
            inherited = False
        try:
            fetch()
        except BrokenOff as error:
            broken_off += 1
            if broken_off >= attempts:
                raise Refused(f"{error} (attempt {broken_off})") from None
            time.sleep(pause)


def is_file(path: Path, *, size: int, sha256: str) -> bool:
    """Whether a file with that size in bytes and SHA-256 is there."""
    return os.path.isfile(path) and path.stat().st_size == size and compute_sha256(path) == sha256
