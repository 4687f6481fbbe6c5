import json

import pytest

from ssd34.core.labels import COCO_LABELS, LabelSet
from ssd34.errors import OptionError
from tests.support.refusals import refused

# Ids that COCO's 80 object classes leave out of 1..90.
MISSING_IDS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}


def test_coco_has_eighty_classes_and_ten_gaps():
    assert len(COCO_LABELS) == len(COCO_LABELS.names) == 80
    assert set(range(1, 91)) - set(COCO_LABELS.category_ids) == MISSING_IDS
    assert list(COCO_LABELS.category_ids) == sorted(COCO_LABELS.category_ids)
    assert max(COCO_LABELS.category_ids) == 90


@pytest.mark.parametrize(
    ("name", "label", "category"),
    [("person", 1, 1), ("bicycle", 2, 2), ("fire hydrant", 11, 11), ("stop sign", 12, 13),
     ("cat", 16, 17), ("dog", 17, 18), ("backpack", 25, 27), ("handbag", 27, 31),
     ("wine glass", 41, 46), ("dining table", 61, 67), ("toilet", 62, 70), ("tv", 63, 72),
     ("book", 74, 84), ("hair drier", 79, 89), ("toothbrush", 80, 90)],
)  # fmt: skip
def test_coco_numbers_against_the_published_list(name, label, category):
    assert COCO_LABELS.label(name) == label
    assert COCO_LABELS.name(label) == name
    assert COCO_LABELS.category_id(label) == category
    assert COCO_LABELS.label_of_category()[category] == label


@pytest.mark.parametrize("label", [0, -1, 81])
def test_labels_outside_are_refused(label):
    for look_up in (COCO_LABELS.name, COCO_LABELS.category_id):
        with pytest.raises(OptionError, match=rf"1\.\.80.*{label}"):
            look_up(label)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("persn", "person"), ("toothbrus", "toothbrush"), ("Person", "person"),
     ("zzzzzz", "person, bicycle")],
)  # fmt: skip
def test_unknown_name_hints_at_close_ones_or_lists_some(typed, meant):
    with refused(OptionError, repr(typed), meant):
        COCO_LABELS.label(typed)


@pytest.mark.parametrize(
    ("names", "ids", "fact"),
    [((), (), "one"), (("a", "b", "a"), (1, 2, 3), "'a'"), (("a", "b", "c"), (1, 5, 5), "5"),
     (("a", "b"), (1,), "1 ids for 2"), (("a",), (1, 2), "2 ids for 1")],
)  # fmt: skip
def test_impossible_sets_are_refused(names, ids, fact):
    with pytest.raises(OptionError, match=fact):
        LabelSet(names, ids)


def test_dict_round_trip_through_json():
    for labels in (COCO_LABELS, LabelSet(("a, b", "é"), (7, 3))):
        assert LabelSet.from_dict(json.loads(json.dumps(labels.to_dict()))) == labels


def test_names_alone_count_from_one_and_a_preview_is_a_line_that_says_how_many_more():
    labels = LabelSet.from_names(name for name in "abcd")
    assert labels.names == tuple("abcd") and labels.category_ids == (1, 2, 3, 4)
    assert labels.preview(2) == "a, b and 2 more"
    assert labels.preview(4) == labels.preview() == "a, b, c, d"
    labels = LabelSet.from_names(["cat\nand dog", "x" * 5000, "cup"])
    assert labels.preview(2) == f"cat and dog, {'x' * 60} and 1 more"
