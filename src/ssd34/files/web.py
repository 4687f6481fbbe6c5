"""What web servers answer: published files, received in pieces, resumed, and checked before they
count; small things read into memory."""

from __future__ import annotations

import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from ssd34.errors import DownloadError
from ssd34.files.atomic import compute_sha256, naming
from ssd34.files.cache import PublishedFile
from ssd34.files.lock import file_locked
from ssd34.version import __version__

TIMEOUT, PAUSE = 30.0, 1.0
"""Seconds without a byte, and before a server that broke off is asked again."""
LONGEST = 300.0
"""Seconds that what is read into memory may take in all: a server may send a byte now and then."""
_LONGEST_ANSWER = 200
_BLOCK = 1 << 16
_HEAD = 512
"""Bytes by which a pointer or a web page is known."""
_LFS_POINTER = b"version https://git-lfs.github.com/spec/v1"
_WEB = ("http", "https")


class Refused(Exception):  # noqa: N818 - not an error of ours: an answer, told to the user later
    """This mirror does not have the file; the message completes "HOST: ..."."""


class BrokenOff(Exception):  # noqa: N818
    """The connection ended early; the partial download is kept."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects from the web to the web; the base class would follow others, too."""

    def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        target = urljoin(req.full_url, headers.get("Location", ""))
        if urlsplit(target).scheme not in _WEB:
            fp.close()
            raise Refused(f"redirects to {target}; only http and https are fetched")
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def read_url(
    url: str, *, limit: int, timeout: float = TIMEOUT, longest: float = LONGEST,
    attempts: int = 3, pause: float = PAUSE,
) -> bytes:  # fmt: skip
    """What lies at an address of http or https, without user name and password, of at most `limit`
    bytes; it is whole. DownloadError, one line with what the server answered, where it cannot be
    had: within `timeout` seconds without a byte and `longest` in all, in so many attempts."""
    ends = time.monotonic() + longest
    try:
        for attempt in range(1, attempts + 1):
            try:
                return _read_whole(_sendable(url), limit=limit, timeout=timeout, ends=ends)
            except BrokenOff as error:
                if attempt == attempts:
                    raise Refused(f"{error} (attempt {attempt})") from None
                time.sleep(pause)
    except Refused as answer:
        raise DownloadError(f"{_shown(url)}: {in_one_line(str(answer))}") from None
    raise AssertionError("at least one attempt")


def read_content_type(url: str, *, timeout: float) -> str:
    """What a server says that lies at an address, such as ``image/jpeg``; DownloadError where it
    cannot be had. What lies there is asked for only where the server knows no HEAD: a stream may
    have one listener."""
    for method in ("HEAD", "GET"):
        try:
            with _answer(
                _sendable(url), offset=0, size=0, timeout=timeout, method=method
            ) as response:
                return response.headers.get_content_type()
        except (Refused, BrokenOff) as answer:
            reason = in_one_line(str(answer))
    raise DownloadError(f"{_shown(url)}: {reason}")


def _read_whole(url: str, *, limit: int, timeout: float, ends: float) -> bytes:
    with _answer(url, offset=0, size=limit, timeout=timeout) as response:
        announced = response.length
        if announced is not None and announced > limit:
            raise Refused(f"announces {announced} bytes, more than {limit}")
        blocks, have = [], 0
        size = limit + 1 if announced is None else announced
        for block in _blocks(response, offset=0, size=size, timeout=timeout):
            blocks.append(block)
            have += len(block)
            if have > limit:
                raise Refused(f"sends more than {limit} bytes")
            if time.monotonic() > ends:
                raise Refused(f"takes too long: {have} bytes came in the time it may take")
    if announced is not None and have < announced:
        raise BrokenOff(f"broke off after {have} of {announced} bytes")
    content = b"".join(blocks)
    _check_head(content[:_HEAD])
    return content


def _sendable(url: str) -> str:
    """The address as a request has it, with what people write escaped; Refused where it has no
    host, or a user name, which would be kept with the results."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise Refused(f"is no address ({error})") from None
    if parts.scheme not in _WEB or not parts.hostname:
        raise Refused("is no address of http or https with a host")
    if "@" in parts.netloc:
        raise Refused("expected an address without user name and password; download it first")
    # A command's words that are no UTF-8 are sent as the bytes that they are.
    return quote(url, safe="%:/?#[]@!$&'()*+,;=~", errors="surrogateescape")


def _shown(url: str) -> str:
    """The address without user name and password, on one line."""
    before, separator, after = url.partition("://")
    host, slash, rest = after.partition("/")
    return in_one_line(f"{before}{separator}{host.rpartition('@')[2]}{slash}{rest}")


def _receive(
    url: str, part: Path, *, size: int, timeout: float, progress: Callable[[int], None]
) -> None:
    """Bring `part` to `size` bytes of `url`, no more, and call `progress` with the bytes that are
    there. Where the server does not send what is missing but everything, `part` starts over.

    Raises:
        Refused: the server answers with anything else than this file.
        BrokenOff: it stopped before the end, or sent nothing for `timeout` seconds.
        OSError: `part` cannot be written.
    """
    if urlsplit(url).scheme not in _WEB:
        raise Refused("only http and https are fetched")
    offset = length_of(part)
    with _answer(url, offset=offset, size=size, timeout=timeout) as response:
        if response.status != http.client.PARTIAL_CONTENT:
            offset = 0
        announced = response.length
        blocks = _blocks(response, offset=offset, size=size, timeout=timeout)
        head = b""
        if offset == 0:
            while len(head) < _HEAD and (block := next(blocks, b"")):
                head += block
            _check_head(head)
            if announced not in (None, size):
                raise Refused(f"announces {announced} bytes instead of {size}")
        have = offset + len(head)
        progress(have)
        with naming(part, needs=size), part.open("ab" if offset else "wb") as file:
            file.write(head)
            for block in blocks:
                file.write(block)
                have += len(block)
                progress(have)
            file.flush()
            os.fsync(file.fileno())
    if have < size:
        raise BrokenOff(f"broke off after {have} of {size} bytes")


def _answer(
    url: str, *, offset: int, size: int, timeout: float, method: str = "GET"
) -> http.client.HTTPResponse:
    """The answer to a request for the bytes from `offset` on: 206 with these or 200 with all."""
    headers = {"User-Agent": f"ssd34/{__version__}", "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    try:
        # The scheme was checked, here and where it redirects.
        request = urllib.request.Request(url, headers=headers, method=method)  # noqa: S310
        opener = urllib.request.build_opener(_Redirects)
        response: http.client.HTTPResponse = opener.open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if offset and error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            # The file there is shorter than ours: ask for all of it to see what it is.
            return _answer(url, offset=0, size=size, timeout=timeout)
        raise Refused(f"answers {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise Refused(f"no answer within {timeout:g} s") from None
        raise Refused(f"cannot be reached ({error.reason})") from None
    except TimeoutError:
        raise Refused(f"no answer within {timeout:g} s") from None
    except ConnectionError:
        raise BrokenOff("broke off before it answered") from None
    except (http.client.HTTPException, OSError, ValueError) as error:
        raise Refused(f"answers nonsense ({type(error).__name__}: {error})") from None
    if response.status == http.client.OK:
        return response
    if response.status == http.client.PARTIAL_CONTENT and offset:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers["Content-Range"] or "")
        if found and int(found[1]) == offset and found[2] in ("*", str(size)):
            return response
        response.close()
        return _answer(url, offset=0, size=size, timeout=timeout)
    response.close()
    raise Refused(f"answers {response.status} {response.reason}")


def _blocks(
    response: http.client.HTTPResponse, *, offset: int, size: int, timeout: float
) -> Iterator[bytes]:
    """The body as it comes, up to `size` counted from `offset`."""
    while offset < size:
        try:
            block = response.read1(min(_BLOCK, size - offset))
        except TimeoutError:
            raise BrokenOff(
                f"sent nothing for {timeout:g} s after {offset} of {size} bytes"
            ) from None
        except (OSError, http.client.HTTPException, ValueError):
            raise BrokenOff(f"broke off after {offset} of {size} bytes") from None
        if not block:
            return
        offset += len(block)
        yield block


def _check_head(head: bytes) -> None:
    if head.startswith(_LFS_POINTER):
        raise Refused("sends a Git LFS pointer instead of the file")
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        raise Refused("sends a web page instead of the file")


def in_one_line(text: str) -> str:
    """Printable and short: parts of it were chosen by a server."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(printable.split())[:_LONGEST_ANSWER]


def length_of(path: Path) -> int:
    """Bytes of a file; 0 where there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def download(
    file: PublishedFile,
    target: Path,
    *,
    progress: Callable[[int], None] = lambda _have: None,
    timeout: float = TIMEOUT,
    attempts: int = 5,
    pause: float = PAUSE,
) -> None:
    """Download a file to `target`, whole and checked; nothing is fetched if it is there already.

    A partial download stays in ``target.part``, and the next mirror or the next call resumes it. Of
    two processes that want the same file one waits for the other. `progress` is called with the
    bytes that are there. A mirror counts as gone after `timeout` seconds without a byte; one that
    breaks off is asked again after a pause of so many seconds, `attempts` times in all.

    Raises:
        DownloadError: no mirror had it; the message says what each answered and where to put the
            file by hand.
        OSError: the folder cannot be written.
    """
    if _is_whole(target, file):
        return
    there = ""
    if os.path.isfile(target):
        there = f"the file there has SHA-256 {compute_sha256(target)}, expected {file.sha256}; "
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    answers = []
    with file_locked(target, waiting=lambda _who: progress(length_of(part))):
        if _is_whole(target, file):
            return
        for url in file.urls:
            fetch = partial(_receive, url, part, size=file.size, timeout=timeout, progress=progress)
            try:
                _complete(part, file, fetch, attempts=attempts, pause=pause)
            except Refused as answer:
                answers.append(f"{urlsplit(url).netloc or url}: {in_one_line(str(answer))}")
            else:
                part.replace(target)
                return
    raise DownloadError(
        f"{there}{target.name} could not be fetched: {'; '.join(answers)}; to do it by hand put it "
        f"at {target} ({file.size} bytes, SHA-256 {file.sha256})"
    )


def _complete(
    part: Path, file: PublishedFile, fetch: Callable[[], None], *, attempts: int, pause: float
) -> None:
    """Bring `part` to the whole, right file by one mirror; Refused where that has another file, or
    broke off too often."""
    inherited = length_of(part) > 0
    broken_off = 0
    while True:
        if length_of(part) >= file.size:
            if _is_whole(part, file):
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


def _is_whole(path: Path, file: PublishedFile) -> bool:
    if not os.path.isfile(path) or path.stat().st_size != file.size:
        return False
    return compute_sha256(path) == file.sha256
