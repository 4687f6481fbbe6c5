"""What the loader draws, and what it makes of it."""

import dataclasses
import itertools
import json
import shutil

import numpy as np
import pytest
import torch

from ssd34.core.default_boxes import decode, default_boxes_cxcywh
from ssd34.core.labels import LabelSet
from ssd34.datasets.open import open_dataset, select_classes
from ssd34.errors import DatasetError
from ssd34.train.examples.augment import Augmentation
from ssd34.train.examples.example import Draw, Examples, Made, make_training_sets, weigh_pictures
from ssd34.train.examples.matcher import list_levels, match
from tests.conftest import TINY_LABELS, shapes_dataset, tiny_spec
from tests.support.training import fast, loader_of


def test_classes_that_no_set_labels_are_taught_as_background(shapes):
    wider = LabelSet.from_names([*TINY_LABELS.names, "never labelled"])
    dataset = open_dataset(shapes)
    [alone] = make_training_sets([(dataset, 1.0)], wider)
    assert alone.labelled.tolist() == [True] * 5
    only_discs = select_classes(dataset, ["disc"])
    first, second = make_training_sets([(dataset, 1.0), (only_discs, 1.0)], wider)
    assert first.labelled.tolist() == [True] * 5
    assert second.labelled.tolist() == [True, False, True, False, True]


def test_the_loader_matches_as_it_is_told(shapes):
    spec = tiny_spec()
    sources = make_training_sets([(open_dataset(shapes), 1.0)], TINY_LABELS)
    for matcher, levels in (("iou", None), ("atss", list_levels(spec))):
        examples = Examples(sources, spec, fast(matcher=matcher))
        made = examples.make(Draw(0, 0, (1, 2, 3), 64))
        assert isinstance(made, Made)
        expected = match(
            made.boxes, made.labels, default_boxes_cxcywh=default_boxes_cxcywh(spec), levels=levels
        )
        assert np.array_equal(made.matches.labels, expected.labels)


def test_the_loader_tells_crowds_from_difficult_objects(shapes):
    """A box over the whole picture: inside a crowd nothing is background."""
    dataset = open_dataset(shapes)
    sample = dataset.samples[0]
    whole = np.array([[0, 0, sample.width, sample.height]], np.float32)
    found = []
    for crowd in (True, False):
        marked = dataclasses.replace(
            sample, boxes=np.concatenate([sample.boxes, whole]),
            labels=np.append(sample.labels, 1), areas=np.append(sample.areas, 1.0),
            crowd=np.append(sample.crowd, crowd), difficult=np.append(sample.difficult, not crowd),
        )  # fmt: skip
        sources = make_training_sets([(dataclasses.replace(dataset, samples=(marked,)), 1.0)],
                                TINY_LABELS)  # fmt: skip
        options = fast(augmentation=Augmentation(crop=False))
        made = Examples(sources, tiny_spec(), options).make(Draw(0, 0, (1, 2, 3), 64))
        assert isinstance(made, Made)
        found.append((made.matches.labels == 0).mean())
    assert found[0] < 0.2
    assert found[1] > 0.5


def test_the_score_of_a_box_is_the_weight_of_what_learns_it(shapes, tmp_path):
    """As a file has it; a box without one counts whole, and a text is told of."""
    values = json.loads((shapes / "instances.json").read_text())
    scores = {box["id"]: 0.1 + 0.02 * box["id"] for box in values["annotations"][1:]}
    scores[2] = "sure"
    for box in values["annotations"][1:]:
        box["score"] = scores[box["id"]]
    shutil.copytree(shapes / "images", tmp_path / "images")
    (tmp_path / "instances.json").write_text(json.dumps(values))
    dataset = open_dataset(tmp_path)
    assert ["'sure'" in remark.reason for remark in dataset.remarks] == [True]
    assert dataset.samples[0].scores is None
    last = dataset.samples[-1]
    chosen = last.of(np.arange(len(last.boxes)) == 0)
    assert last.scores is not None and chosen.scores == last.scores[:1]
    sources = make_training_sets([(dataset, 1.0)], TINY_LABELS)
    batch = next(loader_of(shapes, sources=sources, batch_size=12, score_weight=True).batches(0))
    possible = [1.0, *(score for score in scores.values() if score != "sure")]
    learned = batch.labels > 0
    assert (batch.weights[~learned] == 1).all()
    found = np.unique(batch.weights[learned].numpy())
    assert len(found) > 6 and np.isclose(found[:, None], possible, atol=1e-6).any(axis=1).all()
    for weights, offsets, labels in zip(batch.weights, batch.offsets, batch.labels, strict=True):
        boxes = decode(offsets.numpy().T, default_boxes_cxcywh(tiny_spec()))[labels > 0].round(3)
        assert len(np.unique(boxes, axis=0)) == len(np.unique(weights[labels > 0]))
    assert next(loader_of(shapes, sources=sources).batches(0)).weights.shape == (4, 0)


def test_loader_order_weights_and_targets(shapes):
    loader = loader_of(shapes, weight=2.5)
    order = loader.order(0)
    counts = np.bincount([picture for _, picture in order], minlength=12)
    assert len(order) == 30
    assert set(counts) == {2, 3}
    assert loader.order(0) == order != loader.order(1)
    # Seven whole batches an epoch; the two draws that are left over begin the next one.
    assert loader.batches_per_epoch == 7
    draws = loader.draws(0)
    drawn = [(draw.source, draw.picture) for _ in range(15) for draw in next(draws)]
    assert drawn == [*order, *loader.order(1)]
    assert next(loader.draws(7)) == next(itertools.islice(loader.draws(0), 7, None))
    batches = loader.batches(0)
    first, second = next(batches), next(batches)
    again = next(loader.batches(1))
    assert torch.equal(second.images, again.images)
    assert torch.equal(second.labels, again.labels)
    assert first.images.shape == (4, 64, 64, 3)
    assert first.offsets.shape == (4, tiny_spec().num_default_boxes, 4)
    assert (first.labels > 0).any(dim=1).all()


def test_no_more_workers_than_processors(shapes, monkeypatch):
    """DataLoader would warn, and the workers would wait for each other."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0})
    loader = loader_of(shapes, workers=16)
    assert loader.workers == 1
    assert next(loader.batches(0)).images.shape == (4, 64, 64, 3)


def test_a_set_without_usable_boxes_is_refused(tmp_path):
    shapes = shapes_dataset(tmp_path / "set", pictures=2)
    values = json.loads((shapes / "instances.json").read_text())
    for annotation in values["annotations"]:
        annotation["iscrowd"] = 1
    (shapes / "instances.json").write_text(json.dumps(values))
    with pytest.raises(DatasetError, match="no picture has a box to learn from"):
        make_training_sets([(open_dataset(shapes), 1.0)], TINY_LABELS)


def test_frequency_is_that_of_the_rarest_class():
    """Class 1 is on all of 8 pictures, class 2 on two of them, class 3 on one."""
    shown = [{1}, {1}, {1}, {1}, {1}, {1, 2}, {1, 2}, {1, 3}]
    assert weigh_pictures(shown, 0.5) == pytest.approx([1] * 5 + [2**0.5, 2**0.5, 2])
    assert weigh_pictures(shown, 0.25) == pytest.approx([1] * 7 + [2**0.5])
    assert weigh_pictures(shown, 0).tolist() == [1] * 8


@pytest.mark.parametrize("weight", [1.0, 2.5, 0.5])
def test_draws_follow_the_frequency(shapes, weight):
    [source] = make_training_sets([(open_dataset(shapes), weight)], TINY_LABELS)
    source.frequency[:2] = 4.0
    loader = loader_of(shapes, sources=[source], batch_size=2)
    epochs = 300
    drawn = [[picture for _, picture in loader.order(epoch)] for epoch in range(epochs)]
    assert {len(order) for order in drawn} == {round(len(source.usable) * weight)}
    counts = np.bincount(np.concatenate(drawn), minlength=len(source.usable))[source.usable]
    expected = source.frequency / source.frequency.sum() * len(drawn[0]) * epochs
    assert counts == pytest.approx(expected, rel=0.2)
    assert drawn[0] != drawn[1]
