"""What a run may start from."""

import dataclasses

import numpy as np
import pytest
import torch

from ssd34.core.labels import LabelSet
from ssd34.core.spec import named_spec
from ssd34.deploy.graph.builder import save_model
from ssd34.deploy.graph.export import ExportOptions, make_onnx_model
from ssd34.errors import CheckpointError
from ssd34.network.ssd import SSD
from ssd34.network.start import Start, change_classes
from ssd34.train.recipe import read_recipe, settle_recipe
from ssd34.workflows.training.runs import choose_spec, find_start
from tests.conftest import TINY_LABELS, tiny_spec
from tests.support.plain_runs import assert_all_close, torch_outputs
from tests.support.refusals import refused


def test_endings_count_in_either_case(tiny_checkpoint, tmp_path):
    save_model(make_onnx_model(tiny_checkpoint, ExportOptions()), tmp_path / "TINY.ONNX")
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
    nothing_else = Start(backbone={})
    assert nothing_else.backbone_alone is nothing_else


IMAGES = np.random.default_rng(1).normal(size=(1, 3, 64, 64)).astype(np.float32)


def test_shared_classes_keep_their_logits_and_new_ones_start_as_the_mean(tiny_checkpoint):
    names = ("Cross", "star", "square")
    changed, kept = change_classes(tiny_checkpoint, LabelSet.from_names(names))
    assert kept == ("Cross", "square")
    assert changed.spec.num_classes == 3
    loc, conf = torch_outputs(tiny_checkpoint, IMAGES)
    background, square, disc, cross = conf[0]
    expected = np.stack([background, cross, (square + disc + cross) / 3, square])
    assert_all_close(torch_outputs(changed, IMAGES), (loc, expected[None]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("old", "new", "kept", "rows"),
    [(("square", "disc", "cross"), ["disc"], ("disc",), [0, 2]),
     (("disc", "x", "Disc"), ["Disc", "disc"], ("Disc", "disc"), [0, 3, 1])],
)  # fmt: skip
def test_names_in_both_cases_are_told_apart(tiny_checkpoint, old, new, kept, rows):
    before = dataclasses.replace(tiny_checkpoint, labels=LabelSet.from_names(old))
    changed, found = change_classes(before, LabelSet.from_names(new))
    assert found == kept
    expected = torch_outputs(tiny_checkpoint, IMAGES)[1][:, rows]
    np.testing.assert_allclose(torch_outputs(changed, IMAGES)[1], expected, atol=1e-5, rtol=1e-5)


def test_weights_that_do_not_fit_the_class_list(tiny_checkpoint):
    wrong = dataclasses.replace(tiny_checkpoint, labels=LabelSet.from_names("ab"))
    with refused(CheckpointError, "heads.conf.0.weight", "16 rows", "of 3"):
        change_classes(wrong, TINY_LABELS)
    many, _ = change_classes(tiny_checkpoint, LabelSet.from_names("abcdefg"))
    assert torch_outputs(many, IMAGES)[1].shape[1] == 8
    same, _ = change_classes(tiny_checkpoint, TINY_LABELS)
    assert all(np.array_equal(a, same.weights[k]) for k, a in tiny_checkpoint.weights.items())
