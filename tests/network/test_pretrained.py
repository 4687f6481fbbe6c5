import pickle
import tarfile

import numpy as np
import torch
from full_size_chain import drawn_benchmark_weights
from safetensors.numpy import save_file
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ssd34.core.spec import named_spec
from ssd34.errors import CheckpointError
from ssd34.network.pretrained import (
    convert_benchmark_weights,
    read_backbone,
    read_torch_file,
    start_backbone,
)
from ssd34.network.ssd import SSD, load_weights
from tests.support.refusals import refused

R18, R34 = named_spec("ssd300-resnet18"), named_spec("ssd300-resnet34")


def imagenet_weights(spec):
    """A drawn state dict in torchvision's naming, with layer4 and the classifier."""
    torch.manual_seed(0)
    backbone = SSD(spec).backbone
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 1.5)
    state = dict(backbone.state_dict())
    return {**state, "layer4.0.conv1.weight": torch.zeros(1), "fc.weight": torch.zeros(1)}


def test_benchmark_checkpoints_in_each_container(tmp_path):
    state = drawn_benchmark_weights(R34)
    for saved in (
        state,
        {"model": state, "epoch": torch.tensor(3)},
        {f"module.{key}": value for key, value in state.items()},
    ):
        torch.save(saved, tmp_path / "ssd.pth")
        read = read_torch_file(tmp_path / "ssd.pth")
        assert read.keys() == state.keys()
    spec, weights = convert_benchmark_weights(read, source="ssd.pth")
    assert spec == named_spec("ssd1200-resnet34")
    load_weights(SSD(spec), weights, source="ssd.pth")
    # Names are right if the outputs are: see test_ssd.py.
    assert len(state) == len(SSD(R34).state_dict())


def test_torchs_first_format_is_refused_with_what_to_take(tmp_path):
    """A tar archive of these members is how torch tells it."""
    path = tmp_path / "resnet34-333f7ec4.pth"
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            archive.addfile(tarfile.TarInfo(name))
    with refused(CheckpointError, path, "resnet34-b627a593"):
        read_torch_file(path)


def test_class_count_and_backbone_come_from_the_file():
    spec = R18.replace(num_classes=20)
    found, _ = convert_benchmark_weights(drawn_benchmark_weights(spec), source="x")
    assert (found.name, found.num_classes) == ("ssd1200-resnet18", 20)
    found, _ = convert_benchmark_weights(
        drawn_benchmark_weights(spec), source="x", spec=named_spec("ssd300-resnet18")
    )
    assert found == named_spec("ssd300-resnet18").replace(num_classes=20)


class Payload:
    """What a hostile pickle would run."""

    def __reduce__(self):
        return print, ("the payload ran",)


def test_a_pickle_with_code_is_refused_and_never_runs(tmp_path, capsys):
    for name, write in (("raw.pth", pickle.dump), ("torch.pth", torch.save)):
        with (tmp_path / name).open("wb") as file:
            write({"model": Payload()}, file)
        with refused(CheckpointError, name):
            read_torch_file(tmp_path / name)
    assert "payload" not in capsys.readouterr().out


def test_broken_and_other_torch_files(tmp_path):
    """A pickle that is cut or changed may raise anything."""
    broken = (b"\xff\xd8\xff", b"", b"hello there", b"\x80\x02.", b"\x80\x02)R.")
    names = [f"{number}.pth" for number in range(len(broken))]
    for name, content in zip(names, broken, strict=True):
        (tmp_path / name).write_bytes(content)
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"epoch": 3}, tmp_path / "numbers.pth")
    for name in (*names, "missing.pth", "list.pth", "numbers.pth"):
        with refused(CheckpointError, name):
            read_torch_file(tmp_path / name)
    torch.save({"backbone.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with refused(CheckpointError, "'backbone.weight'"):
        convert_benchmark_weights(read_torch_file(tmp_path / "other.pth"), source="other.pth")


def test_torchvision_backbone_is_copied_exactly(tmp_path):
    """Also from parameters, which old state dicts hold."""
    state = imagenet_weights(R34)
    parameters = {k: nn.Parameter(v) if v.is_floating_point() else v for k, v in state.items()}
    torch.save(parameters, tmp_path / "resnet34.pth")
    network = SSD(R34)
    start_backbone(network, read_backbone(tmp_path / "resnet34.pth"), source="resnet34.pth")
    for key, value in network.backbone.state_dict().items():
        torch.testing.assert_close(value, state[key], rtol=0, atol=0)


def test_folded_backbone_gives_the_same_features(tmp_path):
    state = imagenet_weights(R18)
    plain = SSD(R18).eval()
    torch.save(state, tmp_path / "resnet18.pth")
    start_backbone(plain, read_backbone(tmp_path / "resnet18.pth"), source="plain")
    arrays: dict[str, np.ndarray] = {}
    for name, module in plain.backbone.named_modules():
        if isinstance(module, nn.Conv2d):
            norm_name = name[:-1] + "1" if "downsample" in name else name.replace("conv", "bn")
            norm = plain.backbone.get_submodule(norm_name)
            assert isinstance(norm, nn.BatchNorm2d)
            fused = fuse_conv_bn_eval(module, norm)
            arrays |= {f"{name}.{key}": value.numpy() for key, value in fused.state_dict().items()}
    save_file(arrays, tmp_path / "folded.safetensors")
    folded = SSD(R18).eval()
    start_backbone(folded, read_backbone(tmp_path / "folded.safetensors"), source="folded")
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = plain.backbone(x)
        torch.testing.assert_close(
            folded.backbone(x), expected, atol=1e-4 * expected.abs().max().item(), rtol=1e-4
        )


def test_resnet34_started_from_resnet18_is_the_same_function():
    shallow, deep = SSD(R18).eval(), SSD(R34).eval()
    backbone = {k: v.numpy() for k, v in imagenet_weights(R18).items() if "num_batches" not in k}
    backbone = {k: v for k, v in backbone.items() if not k.startswith(("layer4", "fc"))}
    start_backbone(shallow, backbone, source="x")
    start_backbone(deep, backbone, source="x")
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(deep.backbone(x), shallow.backbone(x))


def test_backbones_that_do_not_fit(tmp_path):
    torch.save(imagenet_weights(R34), tmp_path / "resnet34.pth")
    with refused(CheckpointError, "resnet34.pth", "resnet18"):
        start_backbone(SSD(R18), read_backbone(tmp_path / "resnet34.pth"), source="resnet34.pth")
    whole = read_backbone(tmp_path / "resnet34.pth")
    name = "layer1.0.conv1.weight"
    for wrong in (
        {**whole, name: whole[name][:8]}, {k: a for k, a in whole.items() if k != name}
    ):  # fmt: skip
        with refused(CheckpointError, "resnet34.pth", name):
            start_backbone(SSD(R34), wrong, source="resnet34.pth")
    save_file({"a": np.zeros(1, np.float32)}, tmp_path / "other.safetensors")
    with refused(CheckpointError, "other.safetensors"):
        read_backbone(tmp_path / "other.safetensors")
