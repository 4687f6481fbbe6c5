"""Every error that ssd34 raises on purpose. Messages are one line: what was expected, what came,
what to do."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


class Ssd34Error(Exception):
    """Root of the tree: catch this to catch everything that ssd34 raises on purpose."""


class ImageError(Ssd34Error):
    """A picture cannot be read, or is larger than the limit."""


class VideoError(Ssd34Error):
    """A film, a stream or a camera cannot be read."""


class DatasetError(Ssd34Error):
    """Annotations are missing, malformed or empty."""


class ModelError(Ssd34Error):
    """An ONNX file is missing or is not a detector that we can run."""


class DownloadError(Ssd34Error):
    """No mirror has a published file, or only a wrong one."""


class CheckpointError(Ssd34Error):
    """A weights file is missing, malformed or of another network."""


class OptionError(Ssd34Error):
    """An argument is outside what is allowed."""


class TrainingError(Ssd34Error):
    """Training cannot continue."""


class DivergenceError(TrainingError):
    """The loss or its gradient is not finite, or the loss explodes."""


class MissingExtraError(Ssd34Error):
    """An optional dependency is not installed, or is broken."""


def require(module: str, *, extra: str, why: str) -> ModuleType:
    """Import an optional dependency, which an extra of this package installs; `why` it is needed is
    the subject of the message.

    Raises:
        MissingExtraError: it is not installed, or cannot be imported here; the message says how to
            install it.
    """
    package = module.split(".")[0]
    try:
        return import_module(module)
    except Exception as error:  # a broken installation fails with anything
        state = f"cannot be imported ({type(error).__name__}: {' '.join(str(error).split())[:300]})"
        if isinstance(error, ModuleNotFoundError) and (error.name or package) in (package, module):
            state = "is not installed"
        raise MissingExtraError(
            f"{why} needs the package {package!r}, which {state}; "
            f"install it with: pip install 'ssd34[{extra}]'"
        ) from error
