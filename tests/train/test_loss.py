import numpy as np
import pytest
import torch

from ssd34.core.default_boxes import default_boxes_cxcywh, encode
from ssd34.core.spec import named_spec
from ssd34.train.examples.matcher import match
from ssd34.train.loss import compute_loss
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
    loss = compute_loss(
        drawn.loss_loc,
        drawn.loss_conf,
        offsets=torch.from_numpy(np.stack([encode(m.boxes_cxcywh, defaults) for m in matches])),
        labels=torch.from_numpy(np.stack([m.labels for m in matches])),
    )
    assert loss.total.item() == pytest.approx(FIGURES["ssd300"]["loss"], rel=1e-6)
    assert loss.total.item() == pytest.approx(loss.box.item() + loss.classification.item())


def naive_loss(loc, conf, offsets, labels, weights=None):
    """One picture, in float64, one default box at a time."""
    loc, conf, offsets = (np.asarray(a, np.float64) for a in (loc, conf, offsets))
    weights = np.ones(len(labels)) if weights is None else weights
    logs = conf - np.log(np.exp(conf).sum(axis=0))
    box = classification = 0.0
    negatives, positives = [], 0
    for anchor, label in enumerate(labels):
        if label > 0:
            positives += 1
            classification -= weights[anchor] * logs[label, anchor]
            for coordinate in range(4):
                distance = abs(loc[coordinate, anchor] - offsets[anchor, coordinate])
                near = 0.5 * distance**2 if distance < 1 else distance - 0.5
                box += weights[anchor] * near
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


def loss_of(loc, conf, offsets, labels, **given):
    given = {name: torch.from_numpy(array) for name, array in given.items()}
    both = {"offsets": torch.from_numpy(offsets), "labels": torch.from_numpy(labels)}
    conf = conf if isinstance(conf, torch.Tensor) else torch.from_numpy(conf)
    return compute_loss(torch.from_numpy(loc), conf, **both, **given)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_against_one_default_box_at_a_time(seed, weighted):
    batch = random_batch(seed)
    weights = np.random.default_rng(seed).random(batch[3].shape).astype(np.float32)
    given = {"weights": weights} if weighted else {}
    pictures = zip(*batch, *given.values(), strict=True)
    expected = np.mean([naive_loss(*picture) for picture in pictures])
    assert loss_of(*batch, **given).total.item() == pytest.approx(expected, rel=1e-5)


def test_unlabelled_classes_are_left_out_of_the_softmax():
    loc, conf, offsets, labels = random_batch(1)
    labels[labels > 2] = 0
    labelled = np.tile([True, True, True, False, False], (3, 1))
    logits = torch.from_numpy(conf).requires_grad_()
    loss = loss_of(loc, logits, offsets, labels, labelled=labelled)
    pictures = zip(loc, conf[:, :3], offsets, labels, strict=True)
    expected = np.mean([naive_loss(*picture) for picture in pictures])
    assert loss.total.item() == pytest.approx(expected, rel=1e-5)
    loss.total.backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert not logits.grad[:, 3:].any()
    assert logits.grad[:, :3].any()
