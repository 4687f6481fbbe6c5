from __future__ import annotations

import dataclasses

import pytest

from ssd34.core.labels import COCO_LABELS, LabelSet
from ssd34.datasets.open import open_dataset, rename_classes, use_coco_names
from ssd34.datasets.voc import NAMES
from ssd34.errors import OptionError


def test_classes_of_the_same_name_become_one(shapes):
    before = open_dataset(shapes)
    after = rename_classes(before, {"square": "round", "disc": "round"})
    assert after.labels == LabelSet(("round", "cross"), (3, 11))
    table = {1: 1, 2: 1, 3: 2}
    for a, b in zip(before.samples, after.samples, strict=True):
        assert [table[int(label)] for label in a.labels] == b.labels.tolist()


def test_an_unknown_class_is_named(shapes):
    with pytest.raises(OptionError, match=r"disk.*disc"):
        rename_classes(open_dataset(shapes), {"disk": "circle"})


def test_names_of_voc_as_coco_has_them(shapes):
    before = dataclasses.replace(open_dataset(shapes), labels=LabelSet.from_names(NAMES))
    labels = use_coco_names(before).labels
    assert len(labels) == 20
    for name, category in zip(labels.names, labels.category_ids, strict=True):
        assert COCO_LABELS.category_id(COCO_LABELS.label(name)) == category
    assert use_coco_names(open_dataset(shapes)).labels.names == ("square", "disc", "cross")
