import numpy as np
import pytest
import torch

from ssd34.core.default_boxes import default_boxes_cxcywh, encode
from ssd34.core.spec import named_spec
from ssd34.train.examples.matcher import match
from ssd34.train.loss import detection_loss
from tests.support.golden import FIGURES, drawn_inputs


def test_equal_to_the_independent_implementation():
    spec = named_spec("ssd300-resnet34")
    defaults = default_boxes_cxcywh(spec)
    drawn = drawn_inputs(spec)
    matches = [
        match(boxes, labels, default_boxes_cxcywh=defaults)
        for boxes, labels in zip(drawn.boxes, drawn.labels, strict=True)
    ]
    assert drawn.loss_loc is not None
    assert drawn.loss_conf is not None
    loss = detection_loss(
        drawn.loss_loc,
        drawn.loss_conf,
        offsets=torch.from_numpy(np.stack([encode(m.boxes_cxcywh, defaults) for m in matches])),
        labels=torch.from_numpy(np.stack([m.labels for m in matches])),
    )
    assert loss.total.item() == pytest.approx(FIGURES["ssd300"]["loss"], rel=1e-6)
    assert loss.total.item() == pytest.approx(loss.box.item() + loss.classification.item())


def naive_loss(loc, conf, offsets, labels):
    """One picture, in float64, one default box at a time."""
    loc, conf, offsets = (np.asarray(a, np.float64) for a in (loc, conf, offsets))
    logs = conf - np.log(np.exp(conf).sum(axis=0))
    box = classification = 0.0
    negatives, positives = [], 0
    for anchor, label in enumerate(labels):
        if label > 0:
            positives += 1
            classification -= logs[label, anchor]
            for coordinate in range(4):
                distance = abs(loc[coordinate, anchor] - offsets[anchor, coordinate])
                box += 0.5 * distance**2 if distance < 1 else distance - 0.5
        elif label == 0:
            negatives.append(-logs[0, anchor])
    classification += sum(sorted(negatives, reverse=True)[: 3 * positives])
    return (box + classification) / positives if positives else 0.0


def random_batch(seed, pictures=3, anchors=40, channels=5):
    generator = np.random.default_rng(seed)
    labels = generator.choice([-1, 0, 1, 2, 3, 4], (pictures, anchors), p=[0.2, 0.6] + [0.05] * 4)
    labels[0] = np.where(labels[0] > 0, 0, labels[0])  # a picture without objects
    draw = generator.normal
    return (
        draw(0, 2, (pictures, 4, anchors)).astype(np.float32),
        draw(0, 2, (pictures, channels, anchors)).astype(np.float32),
        draw(0, 2, (pictures, anchors, 4)).astype(np.float32),
        labels,
    )


@pytest.mark.parametrize("seed", range(5))
def test_against_one_default_box_at_a_time(seed):
    loc, conf, offsets, labels = random_batch(seed)
    loss = detection_loss(
        torch.from_numpy(loc),
        torch.from_numpy(conf),
        offsets=torch.from_numpy(offsets),
        labels=torch.from_numpy(labels),
    )
    expected = np.mean([naive_loss(*one) for one in zip(loc, conf, offsets, labels, strict=True)])
    assert loss.total.item() == pytest.approx(expected, rel=1e-5)


def test_unlabelled_classes_are_left_out_of_the_softmax():
    loc, conf, offsets, labels = random_batch(1)
    labels[labels > 2] = 0
    labelled = torch.tensor([True, True, True, False, False]).repeat(3, 1)
    logits = torch.from_numpy(conf).requires_grad_()
    loss = detection_loss(
        torch.from_numpy(loc),
        logits,
        offsets=torch.from_numpy(offsets),
        labels=torch.from_numpy(labels),
        labelled=labelled,
    )
    expected = np.mean(
        [naive_loss(*one) for one in zip(loc, conf[:, :3], offsets, labels, strict=True)]
    )
    assert loss.total.item() == pytest.approx(expected, rel=1e-5)
    loss.total.backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert not logits.grad[:, 3:].any()
    assert logits.grad[:, :3].any()


def test_ignored_default_boxes_get_no_gradient():
    loc, conf, offsets, labels = random_batch(2)
    logits = torch.from_numpy(conf).requires_grad_()
    detection_loss(
        torch.from_numpy(loc),
        logits,
        offsets=torch.from_numpy(offsets),
        labels=torch.from_numpy(labels),
    ).total.backward()
    assert logits.grad is not None
    ignored = torch.from_numpy(labels == -1)
    assert ignored.any()
    assert not logits.grad.permute(0, 2, 1)[ignored].any()
