"""Weights from elsewhere: the benchmark's checkpoints, ImageNet backbones, ONNX files.

Files in torch's own format are pickles. They are read with ``weights_only=True``, which refuses
everything but tensors.

Where batch norm was folded into the convolutions, each normalisation is given back as one that only
adds the folded bias: weight 1, mean 0, variance 1 - epsilon. The function is the same; the
statistics are lost, and such norms have to stay frozen in training."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssd34.core.contract import CONFIDENCE_BIASES, ScoreCalibration
from ssd34.core.labels import LabelSet
from ssd34.core.spec import NORM_EPSILON, SPECS, ModelSpec
from ssd34.errors import CheckpointError
from ssd34.files.checkpoint import Arrays, Checkpoint, is_named_checkpoint, read_arrays
from ssd34.network.ssd import SSD


def unfold_checkpoint(
    spec: ModelSpec,
    labels: LabelSet,
    convs: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]],
    scores: ScoreCalibration | None = None,
) -> Checkpoint:
    """The checkpoint of a network whose normalisations were folded, from weight and bias of each
    layer; the calibration that the biases hold, if any, is taken out and kept beside them."""
    weights: Arrays = {}
    for name, (weight, bias) in convs.items():
        conv, norm = _parameters(name, spec)
        weights[f"{conv}.weight"] = weight
        if norm is None:
            weights[f"{conv}.bias"] = bias
        else:
            weights |= make_unfolded_norm(norm, bias)
    if scores is not None:
        for name in weights:
            if re.fullmatch(CONFIDENCE_BIASES, name):
                weights[name] = scores.unfold(weights[name], channels=spec.num_channels)
    return Checkpoint(spec=spec, labels=labels, weights=weights, score_calibration=scores)


def _parameters(name: str, spec: ModelSpec) -> tuple[str, str | None]:
    """A graph node's convolution and normalisation among the network's parameters."""
    if name.endswith(".downsample"):
        return f"{name}.0", f"{name}.1"
    if name.startswith("backbone."):
        return name, name.replace("conv", "bn")
    if name.startswith("extras.") and spec.head_norm:
        return name, name.replace("conv", "norm")
    return name, None


def make_unfolded_norm(name: str, bias: NDArray[np.float32]) -> Arrays:
    """A normalisation that only adds a bias (C,)."""
    return {
        f"{name}.weight": np.ones_like(bias),
        f"{name}.bias": bias,
        f"{name}.running_mean": np.zeros_like(bias),
        f"{name}.running_var": np.ones_like(bias) - np.float32(NORM_EPSILON),
    }


def has_unfolded_norm(weights: Arrays, prefix: str) -> bool:
    """Whether a normalisation below a name is one of `make_unfolded_norm`'s."""
    variance = 1 - np.float32(NORM_EPSILON)
    return any(
        bool((array == variance).all())
        for name, array in weights.items()
        if name.startswith(prefix) and name.endswith(".running_var")
    )


_BENCHMARK_BACKBONE = {
    "layer1.0": "conv1",
    "layer1.1": "bn1",
    "layer1.4": "layer1",
    "layer1.5": "layer2",
    "layer2.0": "layer3",
}
"""Backbone modules in benchmark checkpoints (below ``model.``) and in torchvision."""


def read_torch_file(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict saved by torch, plain or under the key ``model``; CheckpointError
    where it is missing, broken, or holds more than tensors."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint file; check the path")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # remarks on foreign pickles
            values = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path}: refused: the file holds more than plain tensors, or is no torch file; "
            "re-save only the state dict where it came from"
        ) from None
    except Exception as error:  # torch raises anything over a broken file
        if "legacy .tar" in str(error):
            raise CheckpointError(
                f"{path}: refused: in torch's first format (before version 0.1.10), which cannot "
                "be read without running what is in it; torchvision's ImageNet weights come in a "
                "newer format, too: resnet34-b627a593 and resnet18-f37072fd"
            ) from None
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        reason = reason.partition("  (Could")[0]  # torch asks for better words
        raise CheckpointError(
            f"{path}: not a readable torch file ({reason}); expected a state dict that torch.save "
            "wrote; if it was cut off, fetch it again"
        ) from None
    if isinstance(values, dict) and isinstance(values.get("model"), dict):
        values = values["model"]
    if not isinstance(values, dict) or not values:
        raise CheckpointError(f"{path}: expected a state dict, got {type(values).__name__}")
    tensors = {str(k).removeprefix("module."): v for k, v in values.items()}
    if not all(isinstance(value, Tensor) for value in tensors.values()):
        raise CheckpointError(f"{path}: expected a state dict of tensors only")
    return {key: tensor.detach() for key, tensor in tensors.items()}  # some are parameters


def convert_benchmark_weights(
    state: Mapping[str, Tensor], *, source: str, spec: ModelSpec | None = None
) -> tuple[ModelSpec, Arrays]:
    """The weights of a training or inference benchmark checkpoint under our names; CheckpointError,
    which names the source, where it is none of this family.

    Both published networks have the same weights' shapes, so a file tells the backbone and the
    number of classes, but not which it is: without a spec ssd1200, the one with published files.
    """
    weights: Arrays = {}
    for key, tensor in state.items():
        if key.endswith("num_batches_tracked"):
            continue
        name = _our_name(key)
        if name is None:
            raise CheckpointError(
                f"{source}: not a benchmark SSD checkpoint: unexpected key {key!r} "
                "(expected model.layer1..., additional_blocks..., loc..., conf...)"
            )
        weights[name] = tensor.float().numpy().copy()
    if spec is None:
        deep = "backbone.layer1.2.conv1.weight" in weights
        spec = SPECS["ssd1200-resnet34" if deep else "ssd1200-resnet18"]
    head = weights.get("heads.conf.0.bias")
    if head is not None and len(head) % spec.boxes_per_cell[0] == 0:
        spec = spec.replace(num_classes=len(head) // spec.boxes_per_cell[0] - 1)
    return spec, weights


def _our_name(key: str) -> str | None:
    for theirs, ours in _BENCHMARK_BACKBONE.items():
        if key.startswith(f"model.{theirs}."):
            return f"backbone.{ours}." + key.removeprefix(f"model.{theirs}.")
    if found := re.fullmatch(r"additional_blocks\.(\d)\.([02])\.(weight|bias)", key):
        return f"extras.{found[1]}.conv{1 + int(found[2]) // 2}.{found[3]}"
    if re.fullmatch(r"(loc|conf)\.\d\.(weight|bias)", key):
        return f"heads.{key}"
    return None


def read_backbone(path: Path) -> Arrays:
    """An ImageNet backbone, without ``layer4`` and ``fc``, by torchvision's names, in float32: from
    torchvision's ``.pth`` or safetensors of its naming. Batch norm may be folded into the
    convolutions. CheckpointError where it is missing, broken, or no ResNet."""
    if is_named_checkpoint(path):
        arrays = {k: a.astype(np.float32) for k, a in read_arrays(path)[1].items()}
    else:
        arrays = {k: t.float().numpy().copy() for k, t in read_torch_file(path).items()}
    backbone = {
        key: array
        for key, array in arrays.items()
        if re.match(r"(conv1|bn1|layer[123])\.", key) and not key.endswith("num_batches_tracked")
    }
    if "conv1.weight" not in backbone or "layer3.0.conv1.weight" not in backbone:
        found = ", ".join(list(arrays)[:3])
        raise CheckpointError(f"{path}: not a ResNet in torchvision's naming, it holds {found} ...")
    return _unfolded(backbone) if "conv1.bias" in backbone else backbone


def _unfolded(backbone: Arrays) -> Arrays:
    """Give each folded convolution a normalisation that only adds the folded bias."""
    plain: Arrays = {}
    for key, array in backbone.items():
        if key.endswith(".weight"):
            plain[key] = array
            continue
        norm = key.removesuffix(".bias")
        norm = norm.removesuffix("0") + "1" if "downsample" in norm else norm.replace("conv", "bn")
        plain |= make_unfolded_norm(norm, array)
    return plain


@torch.no_grad()
def start_backbone(network: SSD, backbone: Arrays, *, source: str) -> None:
    """Start a network's backbone from the weights of `read_backbone`, in place; CheckpointError,
    which names the source, where they belong to another backbone.

    A ResNet-34 starts from a ResNet-18 by copying the blocks that both have; the last normalisation
    of each further block starts at zero, so that the block starts as identity.
    """
    own = {k: v for k, v in network.backbone.state_dict().items() if "num_batches" not in k}
    unused = sorted(set(backbone) - set(own))
    if unused:
        raise CheckpointError(
            f"{source}: holds a deeper backbone than {network.spec.backbone} (it has {unused[0]})"
        )
    for key, target in own.items():
        if key in backbone:
            if target.shape != torch.Size(backbone[key].shape):
                raise CheckpointError(
                    f"{source}: {key} is {backbone[key].shape}, a {network.spec.backbone} backbone "
                    f"needs {tuple(target.shape)}"
                )
            target.copy_(torch.from_numpy(backbone[key]))
        elif not re.match(r"layer[123]\.([2-9]|\d\d)\.", key):
            raise CheckpointError(f"{source}: lacks {key} of a {network.spec.backbone} backbone")
        elif key.endswith(("bn2.weight", "bn2.bias")):
            target.zero_()
