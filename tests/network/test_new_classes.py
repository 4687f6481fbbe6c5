import dataclasses

import numpy as np
import pytest
import torch

from ssd34.core.labels import LabelSet
from ssd34.errors import CheckpointError
from ssd34.files.checkpoint import Checkpoint
from ssd34.network.ssd import SSD, load_weights
from ssd34.network.start import with_classes
from tests.conftest import TINY_LABELS


def outputs(checkpoint: Checkpoint):
    network = SSD(checkpoint.spec)
    load_weights(network, checkpoint.weights, source="test")
    with torch.no_grad():
        return network.eval()(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)))


def test_shared_classes_keep_their_logits_and_new_ones_start_as_the_mean(tiny_checkpoint):
    names = ("Cross", "star", "square")
    changed, kept = with_classes(tiny_checkpoint, LabelSet.from_names(names))
    assert kept == ("Cross", "square")
    assert changed.spec.num_classes == 3
    (loc, conf), (new_loc, new_conf) = outputs(tiny_checkpoint), outputs(changed)
    assert torch.equal(loc, new_loc)
    background, square, disc, cross = conf[0]
    mean = (square + disc + cross) / 3
    for row, expected in enumerate((background, cross, mean, square)):
        torch.testing.assert_close(new_conf[0, row], expected, atol=1e-4, rtol=1e-4)


def test_more_and_fewer_classes(tiny_checkpoint):
    one, kept = with_classes(tiny_checkpoint, LabelSet.from_names(["disc"]))
    assert kept == ("disc",)
    torch.testing.assert_close(outputs(one)[1], outputs(tiny_checkpoint)[1][:, [0, 2]])
    many, _ = with_classes(tiny_checkpoint, LabelSet.from_names("abcdefg"))
    assert outputs(many)[1].shape[1] == 8


def test_names_that_differ_only_in_case_are_told_apart(tiny_checkpoint):
    both = dataclasses.replace(tiny_checkpoint, labels=LabelSet.from_names(("disc", "x", "Disc")))
    changed, _ = with_classes(both, LabelSet.from_names(("Disc", "disc")))
    torch.testing.assert_close(outputs(changed)[1], outputs(tiny_checkpoint)[1][:, [0, 3, 1]])


def test_weights_that_do_not_fit_the_class_list(tiny_checkpoint):
    wrong = dataclasses.replace(tiny_checkpoint, labels=LabelSet.from_names("ab"))
    weights = {k: a[:-1] if k == "heads.conf.0.bias" else a for k, a in wrong.weights.items()}
    with pytest.raises(CheckpointError, match=r"has \d+ rows, expected a multiple of 3"):
        with_classes(dataclasses.replace(wrong, weights=weights), TINY_LABELS)
    same, _ = with_classes(tiny_checkpoint, TINY_LABELS)
    assert all(np.array_equal(a, same.weights[k]) for k, a in tiny_checkpoint.weights.items())
