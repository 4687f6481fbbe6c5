"""What a run may start from."""

import numpy as np
import torch

from ssd34.core.spec import named_spec
from ssd34.deploy.graph.builder import save_model
from ssd34.deploy.graph.export import ExportOptions, onnx_model
from ssd34.network.ssd import SSD
from ssd34.train.settings.recipe import read_recipe, settle_recipe
from ssd34.workflows.training.new_run import choose_spec, find_start
from tests.conftest import TINY_LABELS, tiny_spec


def test_endings_count_in_either_case(tiny_checkpoint, tmp_path):
    save_model(onnx_model(tiny_checkpoint, ExportOptions()), tmp_path / "TINY.ONNX")
    tiny_checkpoint.save(tmp_path / "TINY.SAFETENSORS")
    for name in ("TINY.ONNX", "TINY.SAFETENSORS"):
        assert find_start(str(tmp_path / name)).kind == "detector"


def test_a_detectors_backbone_alone(tiny_file, tiny_checkpoint):
    start = find_start(f"{tiny_file}@backbone")
    assert (start.kind, start.folded) == ("backbone", ())
    torch.manual_seed(0)
    network = SSD(tiny_spec())
    new = {name: array.clone() for name, array in network.state_dict().items()}
    assert start.put_into(network, TINY_LABELS) == "backbone from tiny.safetensors"
    for name, array in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        expected = (
            tiny_checkpoint.weights[name] if name.startswith("backbone.") else new[name].numpy()
        )
        np.testing.assert_array_equal(array.numpy(), expected, err_msg=name)


def test_a_backbone_alone_brings_the_detectors_network(tiny_file):
    plan = settle_recipe(read_recipe("small-data"), {}, start="backbone", bf16=False)
    spec, _ = choose_spec(plan, find_start(f"{tiny_file}@backbone"), TINY_LABELS)
    assert spec == tiny_spec().replace(head_norm=True)
    default, _ = choose_spec(plan, find_start("default@backbone"), TINY_LABELS)
    assert default.at_size(300).backbone == named_spec("ssd300-resnet34").backbone


def test_what_was_folded():
    assert find_start("default@backbone").folded == ("backbone_statistics",)
    assert find_start("default").folded == ("backbone_statistics", "head_statistics")
