from __future__ import annotations

import hashlib

import torch

from ssd34.core.spec import BACKBONE_BLOCKS, named_spec
from ssd34.errors import DownloadError
from ssd34.files.cache import PublishedFile
from ssd34.network.ssd import SSD
from ssd34.workflows.training.new_run import find_start
from ssd34.zoo.catalogue import IMAGENET_BACKBONES, backbone_name
from tests.conftest import TINY_LABELS
from tests.support.mirror import status, whole
from tests.support.refusals import refused

# Literals on purpose: bytes and SHA-256 as published.
FILES = {
    "resnet34-b627a593.pth": (
        87319819,
        "b627a593bcbe140c234610266fe4f8ae95ea42fc881d091c9b6052e6b1d0590f",
    ),
    "resnet18-f37072fd.pth": (
        46830571,
        "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec",
    ),
}


def test_files():
    assert {f.name: (f.size, f.sha256) for f in IMAGENET_BACKBONES.values()} == FILES
    for name, file in IMAGENET_BACKBONES.items():
        assert file.name == f"{name}.pth"
        assert file.sha256.startswith(name.split("-")[1])
        [url] = file.urls
        assert url.startswith("https://") and url.endswith(f"/{file.name}")


def test_every_backbone_has_one():
    assert {backbone_name(backbone) for backbone in BACKBONE_BLOCKS} == set(IMAGENET_BACKBONES)


def test_a_backbone_is_fetched_once_and_checked(mirror, tmp_path, monkeypatch):
    name = "resnet18-f37072fd"
    monkeypatch.setenv("SSD34_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(1)
    spec = named_spec("ssd300-resnet18")
    state = {**SSD(spec).backbone.state_dict(), "fc.weight": torch.zeros(1)}
    torch.save(state, tmp_path / "served.pth")
    content = (tmp_path / "served.pth").read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    url = mirror.serve(whole(content), name=f"{name}.pth")
    monkeypatch.setitem(
        IMAGENET_BACKBONES, name, PublishedFile(f"{name}.pth", len(content), digest, (url,))
    )
    for _ in range(2):
        start = find_start(name)
        network = SSD(spec)
        assert start.put_into(network, TINY_LABELS) == f"backbone from {name}.pth"
        assert torch.equal(network.backbone.conv1.weight, state["conv1.weight"])
    assert len(mirror.requests) == 1

    fetched = tmp_path / "home" / "trunks" / f"{name}.pth"
    fetched.write_bytes(b"something else")
    mirror.serve(status(404), name=f"{name}.pth")
    with refused(DownloadError, digest):
        find_start(name)
    assert fetched.read_bytes() == b"something else"
    mirror.serve(whole(content), name=f"{name}.pth")
    assert find_start(name).kind == "backbone"
