"""ImageNet weights that a trunk can start from: names, sizes, checksums, where they are."""

from __future__ import annotations

from ssd34.zoo.catalogue import PublishedFile

_TORCHVISION = "https://download.pytorch.org/models/"


def _trunk(name: str, size: int, sha256: str) -> PublishedFile:
    return PublishedFile(f"{name}.pth", size, sha256, (f"{_TORCHVISION}{name}.pth",))


IMAGENET_TRUNKS = {
    "resnet34-b627a593": _trunk(
        "resnet34-b627a593",
        87319819,
        "b627a593bcbe140c234610266fe4f8ae95ea42fc881d091c9b6052e6b1d0590f",
    ),
    "resnet18-f37072fd": _trunk(
        "resnet18-f37072fd",
        46830571,
        "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec",
    ),
}
"""torchvision's files by the name that the user says, which begins with the trunk's. The benchmark
started from ``resnet34-333f7ec4``, the same weights in torch's first format, which is not read any
more (source: pytorch/vision, issue 2068 and pull request 3620)."""


def trunk_name(trunk: str) -> str:
    """The name of the ImageNet weights for a trunk, such as ``"resnet34"``."""
    [name] = (name for name in IMAGENET_TRUNKS if name.split("-")[0] == trunk)
    return name
