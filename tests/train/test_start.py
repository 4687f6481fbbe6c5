"""What new heads believe before the first step, and what else a run may start from."""

import dataclasses

import numpy as np
import pytest
import torch

from ssd34.cli.train_resume import options_to_go_on
from ssd34.cli.train_setup import network_spec, start_from
from ssd34.core.spec import named_spec
from ssd34.deploy.export import ExportOptions, onnx_model
from ssd34.deploy.graph import save_model
from ssd34.errors import OptionError
from ssd34.network.ssd import SSD
from ssd34.train.options import TrainOptions
from ssd34.train.recipe import read_recipe, resolved
from ssd34.train.run import run_to_go_on
from ssd34.train.start import Start
from tests.conftest import TINY_LABELS, tiny_spec


def background(network):
    """Each level's probability of background (boxes at a cell,) where features are zero."""
    return [
        conv.bias.view(network.spec.num_channels, -1).softmax(dim=0)[0]
        for conv in network.heads.conf
    ]


@pytest.mark.parametrize("kind", ["random", "detector"])
def test_new_heads_expect_few_objects_under_focal_loss(kind, tiny_checkpoint):
    start = Start("start", detector=tiny_checkpoint if kind == "detector" else None)
    torch.manual_seed(0)
    network, plain = SSD(tiny_spec()), SSD(tiny_spec())
    for level in (*network.heads.conf, *plain.heads.conf):
        torch.nn.init.zeros_(level.bias)
    start.put_into(plain, TINY_LABELS)
    start.put_into(network, TINY_LABELS, class_loss="focal")
    for focal, usual in zip(background(network), background(plain), strict=True):
        if kind == "random":
            torch.testing.assert_close(focal, torch.full_like(focal, 0.99))
            torch.testing.assert_close(usual, torch.full_like(usual, 1 / 4))
        else:
            torch.testing.assert_close(focal, usual)


@pytest.fixture
def checkpoint(tiny_checkpoint, tmp_path):
    path = tmp_path / "tiny.safetensors"
    tiny_checkpoint.save(path)
    return path


def test_endings_count_in_either_case(checkpoint, tiny_checkpoint, tmp_path):
    save_model(onnx_model(tiny_checkpoint, ExportOptions()), tmp_path / "TINY.ONNX")
    checkpoint.rename(tmp_path / "TINY.SAFETENSORS")
    for name in ("TINY.ONNX", "TINY.SAFETENSORS"):
        assert start_from(str(tmp_path / name)).kind == "detector"


def test_a_detectors_trunk_alone(checkpoint, tiny_checkpoint):
    start = start_from(f"{checkpoint}@trunk")
    assert (start.kind, start.folded) == ("trunk", ())
    torch.manual_seed(0)
    network = SSD(tiny_spec())
    new = {name: array.clone() for name, array in network.state_dict().items()}
    assert start.put_into(network, TINY_LABELS) == "trunk from tiny.safetensors"
    for name, array in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        expected = tiny_checkpoint.weights[name] if name.startswith("trunk.") else new[name].numpy()
        np.testing.assert_array_equal(array.numpy(), expected, err_msg=name)


def test_a_trunk_alone_brings_the_detectors_network(checkpoint):
    plan = resolved(read_recipe("small-data"), {}, start="trunk", bf16=False)
    spec, _ = network_spec(plan, start_from(f"{checkpoint}@trunk"), TINY_LABELS)
    assert spec == tiny_spec().replace(head_norm=True)
    default, _ = network_spec(plan, start_from("default@trunk"), TINY_LABELS)
    assert default.at_size(300).trunk == named_spec("ssd300-resnet34").trunk


def test_what_was_folded():
    assert start_from("default@trunk").folded == ("trunk_statistics",)
    assert start_from("default").folded == ("trunk_statistics", "head_statistics")


def test_folded_batch_norm_stays_frozen_in_a_run_that_goes_on(tiny_checkpoint, tmp_path):
    """Its stand-in has no statistics: with those of a batch the network would be another one."""
    save_model(onnx_model(tiny_checkpoint, ExportOptions()), tmp_path / "tiny.onnx")
    start = start_from(str(tmp_path / "tiny.onnx"))
    assert start.detector is not None
    options = TrainOptions(trunk_statistics="frozen", head_statistics="frozen")
    state = {"options": options.to_dict(), "notes": {}} | dict.fromkeys(
        ("step", "evaluated", "elapsed", "best_ap", "batches_per_epoch"), 1
    )
    dataclasses.replace(start.detector, state=state).save(tmp_path / "last.safetensors")
    begun = run_to_go_on(tmp_path / "last.safetensors")
    assert options_to_go_on(begun, {}, None) == options
    for key in ("trunk_statistics", "head_statistics"):
        with pytest.raises(OptionError, match=f"expected {key} to stay frozen, got 'batch'"):
            options_to_go_on(begun, {key: "batch"}, None)
    plain = dataclasses.replace(tiny_checkpoint, state=state)
    assert options_to_go_on(plain, {"trunk_statistics": "batch"}, None).trunk_statistics == "batch"
