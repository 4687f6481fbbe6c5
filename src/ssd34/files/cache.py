"""This user's folder for what can be fetched or made again, and what lies there."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ssd34.errors import OptionError, require


def cache_folder(
    environment: Mapping[str, str] = os.environ, *, platform: str = sys.platform
) -> Path:
    """This user's folder for files that can be fetched again; it need not exist.

    ``SSD34_HOME``, else ``XDG_CACHE_HOME/ssd34``, else ``~/.cache/ssd34``; on Windows
    ``LOCALAPPDATA\\ssd34`` stands for the last two. OptionError where the user has no home folder.
    """
    try:
        if own := environment.get("SSD34_HOME"):
            return Path(own).expanduser().absolute()
        base = Path(
            environment.get("LOCALAPPDATA" if platform == "win32" else "XDG_CACHE_HOME", "")
        )
        # The XDG specification: relative paths are to be ignored.
        return (base if base.is_absolute() else Path.home() / ".cache") / "ssd34"
    except RuntimeError as error:
        raise OptionError(
            f"no folder for models ({error}); set SSD34_HOME to a folder of yours"
        ) from None


def load_matplotlib(*, extra: str, why: str) -> None:
    """Import matplotlib, which keeps its list of fonts in our folder then, or where that cannot be
    written, in one that lives as long as the process. Where the caller has imported it before or
    set ``MPLCONFIGDIR``, that holds.

    Raises:
        MissingExtraError: it is not installed; `extra` and `why` are those of `require`.
        OptionError: no folder can be written.
    """
    try:
        if "matplotlib" not in sys.modules and not os.environ.get("MPLCONFIGDIR"):
            os.environ["MPLCONFIGDIR"] = str(_matplotlib_folder())
        require("matplotlib", extra=extra, why=why)
    except OSError as error:
        raise OptionError(
            f"{why} needs a folder that can be written, for matplotlib's list of fonts ({error}); "
            "set SSD34_HOME or TMPDIR to one"
        ) from None


@contextmanager
def drawing(*, extra: str, why: str) -> Iterator[None]:
    """Where matplotlib draws, with `load_matplotlib`: names are text, dollar signs among it too,
    and scripts that the font lacks become boxes without a warning."""
    load_matplotlib(extra=extra, why=why)
    from matplotlib import rc_context

    with rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def _matplotlib_folder() -> Path:
    try:
        folder = cache_folder() / "matplotlib"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except (OSError, OptionError):
        pass
    folder = Path(tempfile.mkdtemp(prefix="ssd34-matplotlib-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@dataclass(frozen=True)
class PublishedFile:
    """One file for download: its name, bytes, SHA-256 in hexadecimal, and mirrors, best first."""

    name: str
    size: int
    sha256: str
    urls: tuple[str, ...]
