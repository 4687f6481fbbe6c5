import dataclasses
import json
import shutil

import numpy as np
import pytest

from ssd34.datasets.open import open_dataset
from ssd34.errors import TrainingError
from ssd34.train.examples.augment import Augmentation
from ssd34.train.examples.example import make_training_sets
from ssd34.train.examples.preview import preview
from tests.conftest import TINY_LABELS
from tests.support.cli import invoke
from tests.support.training import loader_of

STILL = Augmentation(crop=False, expand=0, flip=0, brightness=0, contrast=0, saturation=0, hue=0)


def look(dataset, *, shown, sizes=(64,), matcher="iou"):
    sources = make_training_sets([(dataset, 1.0)], TINY_LABELS)
    loader = loader_of(
        None, sources=sources, augmentation=STILL, seed=0, matcher=matcher,
        size_now=lambda step: sizes[step % len(sizes)],
    )  # fmt: skip
    return preview(loader, TINY_LABELS, shown=shown)


def with_boxes(dataset, boxes):
    """The first picture's annotations replaced; boxes in fractions of the picture."""
    first = dataset.samples[0]
    size = np.array([first.width, first.height] * 2)
    pixels = (np.array(boxes) * size).astype(np.float32)
    count = len(boxes)
    sample = dataclasses.replace(
        first,
        boxes=pixels,
        labels=np.ones(count, np.int64),
        areas=np.ones(count),
        crowd=np.zeros(count, bool),
        difficult=np.zeros(count, bool),
    )
    return dataclasses.replace(dataset, samples=(sample,) * 4)


def test_objects_are_counted_by_size_and_forced_ones_found(shapes):
    """At 64 pixels: a square of 40 pixels lies on a default box; a bar of 60 x 2 pixels and a dot
    of 2 pixels overlap none by half."""
    large = (0.1875, 0.1875, 0.8125, 0.8125)
    bar = (0.02, 0.5, 0.96, 0.53)
    dot = (0.1, 0.1, 0.13, 0.13)
    dataset = with_boxes(open_dataset(shapes), [large, bar, dot])
    seen = look(dataset, shown=3)
    assert seen.pictures == 4
    rows = {row.side_from: row for row in seen.rows}
    assert (rows[32].objects, rows[32].forced) == (4, 0)
    assert rows[32].default_boxes > 1
    assert (rows[8].objects, rows[8].forced) == (4, 4)
    assert (rows[0].objects, rows[0].forced) == (4, 4)
    assert rows[8].default_boxes == 1
    values = json.loads(json.dumps(seen.to_dict()))
    assert sum(row["objects"] for row in values["sizes"]) == 12
    assert values["sizes"][-1]["side_to"] is None
    assert seen.sheet.width > 2 * 300


def test_under_atss_objects_count_that_at_most_one_default_box_learns(shapes):
    """The bar overlaps none by half, but several fit it."""
    dataset = with_boxes(open_dataset(shapes), [(0.05, 0.4, 0.55, 0.45)])
    seen = look(dataset, matcher="atss", shown=1)
    published = look(dataset, shown=1)
    [ours] = [row for row in seen.rows if row.side_from == 8]
    [theirs] = [row for row in published.rows if row.side_from == 8]
    assert (theirs.objects, theirs.forced, theirs.default_boxes) == (4, 4, 1)
    assert (ours.objects, ours.forced) == (4, 0)
    assert ours.default_boxes > 1


def test_pictures_of_several_sizes_share_a_sheet(shapes):
    seen = look(open_dataset(shapes), sizes=(64, 96, 48), shown=12)
    assert seen.sides == (48, 96)
    assert seen.to_dict()["input_sizes"] == [48, 96]
    assert seen.sheet.size == (4 * 308 + 8, 3 * 308 + 8 + 17)


def test_boxes_are_drawn_where_the_objects_are(shapes):
    dataset = with_boxes(open_dataset(shapes), [(0.25, 0.25, 0.75, 0.75)])
    seen = look(dataset, shown=1)
    pixels = np.asarray(seen.sheet)[25:325, 8:308]
    green = (pixels == (48, 209, 88)).all(axis=2)
    # The middle of the right and lower sides; the label covers a part of the others.
    assert green[150:220, 224:226].all()
    assert green[224:226, 100:200].all()
    assert not green[150, 100:200].any()


def test_the_command_writes_no_run(shapes, tmp_path):
    output = tmp_path / "look"
    arguments = ("train", "--data", shapes, "--val", shapes, "--output", output,
                 "--spec", "ssd300-resnet18", "--batch", "4")  # fmt: skip
    printed = invoke(*arguments, "--preview", "4", "--json").stdout
    assert sorted(p.name for p in output.iterdir()) == ["preview.json", "preview.png"]
    counted = json.loads((output / "preview.json").read_text())
    assert counted == json.loads(printed)
    assert (counted["pictures"], counted["input_sizes"]) == (12, [300, 300])
    # Three steps an epoch; a third of the first epoch is left at full size.
    result = invoke(*arguments, "--preview", "4", "--epochs", "2", "--set", "small_size=160",
                    "--set", "small_share=0.3", "--set", "matcher=atss")  # fmt: skip
    assert "objects in 12 varied pictures of 160 to 300 pixels" in result.output
    assert "one or none" in result.output


def test_unreadable_pictures_are_named(shapes, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(shapes, broken)
    (broken / "images" / "0001.png").write_text("no picture")
    seen = look(open_dataset(broken), shown=2)
    assert [problem.where for problem in seen.problems] == ["0001.png"]
    for path in (broken / "images").iterdir():
        path.write_text("no picture")
    with pytest.raises(TrainingError, match="no picture could be read; the first: 0"):
        look(open_dataset(broken), shown=2)
