import hashlib

import pytest
import torch

from ssd34.core.spec import BACKBONE_BLOCKS, named_spec
from ssd34.errors import DownloadError, ModelError, OptionError
from ssd34.files.cache import PublishedFile
from ssd34.network.ssd import SSD
from ssd34.workflows.training.runs import find_start
from ssd34.zoo.names import (
    IMAGENET_BACKBONES,
    PUBLISHED,
    find_float_file,
    find_published,
    name_backbone,
)
from tests.conftest import TINY_LABELS
from tests.support.mirror import status, whole
from tests.support.refusals import refused

# Literals on purpose: name, bytes and SHA-256 as published.
FILES = {
    "ssd-10.onnx": (80363696, "80013dd940efc1462c616143b461ef35885bcc1706e0670b66623293b4b52c59"),
    "ssd-10.tar.gz": (78515627, "5ff54f161d58e02bfc751d3264d58d484485785e71827cf2dd14620bf354c2d0"),
    "ssd-12.onnx": (80366315, "5ec1e058e666ef980a6213ac40088877865aafb2b6676b9af204b3828e4bb9d5"),
    "ssd-12.tar.gz": (90592544, "43e57501da34abe0c01ea30902303bdb14f590f59c18fbb15ea3473810b0e86b"),
    "ssd-12-int8.onnx":
        (20485276, "56d2c03a8c74c03f704509ccfcd91763991c6e1b92f63da730fb2b3d07565453"),
    "ssd-12-int8.tar.gz":
        (31816976, "723c25c6040e1d5f7fd7ce736e236b09d6881f6f2cc6e7a79a999f3e69f86571"),
    "ssd-12-qdq.onnx":
        (20479614, "fba599b77e556525844e4e1022a9f60969b0e9130baa03640539cb0b58f474a2"),
    "ssd-12-qdq.tar.gz":
        (26976158, "2cd791e3ee5f472a208d292ef766f6b4f04c71463dcf290f9393dcce8b81d6d6"),
    "resnet34-ssd1200.onnx":
        (80363696, "b417a8186967f1e78670b0075aa72a10e5c7d1a6d5c08af9d13dc97f3d29ef0d"),
    "resnet34-b627a593.pth":
        (87319819, "b627a593bcbe140c234610266fe4f8ae95ea42fc881d091c9b6052e6b1d0590f"),
    "resnet18-f37072fd.pth":
        (46830571, "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec"),
}  # fmt: skip


def test_files():
    files = [f for m in PUBLISHED.values() for f in (m.model, m.test_data) if f]
    files += IMAGENET_BACKBONES.values()
    assert {f.name: (f.size, f.sha256) for f in files} == FILES
    for file in files:
        assert all(u.startswith("https://") and u.endswith(f"/{file.name}") for u in file.urls)
        assert len(file.urls) == (1 if file.name.endswith(".pth") else 2)


def test_names():
    for name, model in PUBLISHED.items():
        assert model.name == name and model.model.name == f"{name}.onnx"
        assert model.test_data is None or model.test_data.name == f"{name}.tar.gz"
    for name, file in IMAGENET_BACKBONES.items():
        assert file.name == f"{name}.pth" and file.sha256.startswith(name.split("-")[1])
    assert {name_backbone(backbone) for backbone in BACKBONE_BLOCKS} == set(IMAGENET_BACKBONES)


def test_mirrors():
    folder = "validated/vision/object_detection_segmentation/ssd/model"
    assert find_published("ssd-12").model.urls == (
        f"https://huggingface.co/onnxmodelzoo/legacy_models/resolve/main/{folder}/ssd-12.onnx",
        f"https://media.githubusercontent.com/media/onnx/models/main/{folder}/ssd-12.onnx",
    )
    sibling = "https://zenodo.org/record/3228411/files/resnet34-ssd1200.onnx"
    assert find_published("resnet34-ssd1200").model.urls[0] == sibling


@pytest.mark.parametrize(
    ("name", "close"), [("ssd12", "ssd-12"), ("ssd-12.onnx", "ssd-12"), ("yolo", "ssd-10")]
)
def test_unknown_name(name, close):
    with refused(ModelError, name, close):
        find_published(name)


def test_torchs_own_files_have_to_be_converted(tmp_path):
    (tmp_path / "a.PTH").write_bytes(b"")
    with refused(OptionError, "a.PTH", "ssd34 convert"):
        find_float_file(str(tmp_path / "a.PTH"))


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
