"""A published file onto this machine, with a bar."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssd34.cli.console import download_bar

if TYPE_CHECKING:
    from pathlib import Path

    from ssd34.zoo.catalogue import PublishedFile


def fetch(file: PublishedFile, target: Path) -> None:
    """Have it at `target`, checked by its SHA-256; an interrupted fetch goes on where it stopped.

    Raises:
        DownloadError: nobody has it; the message says where to put it by hand.
        OSError: the folder cannot be written.
    """
    from ssd34.zoo.download import download

    with download_bar() as bar:
        task = bar.add_task(file.name, total=file.size)
        download(
            file.urls, target, size=file.size, sha256=file.sha256,
            progress=lambda have: bar.update(task, completed=have),
        )  # fmt: skip
