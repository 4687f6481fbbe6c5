import dataclasses
import re

import numpy as np
import pytest

from ssd34.core.spec import SPECS, named_spec
from ssd34.datasets.open import open_dataset
from ssd34.network.start import Start
from ssd34.train.examples.example import make_training_sets
from ssd34.train.options import TrainOptions
from ssd34.workflows.training.runs import find_untrained_levels, list_warnings
from ssd34.zoo.names import IMAGENET_BACKBONES
from tests.conftest import TINY_LABELS, tiny_spec

TRAINED = Start("backbone", backbone={})


@pytest.fixture(scope="module")
def sources(shapes):
    """12 pictures."""
    return make_training_sets([(open_dataset(shapes), 1.0)], TINY_LABELS)


@pytest.mark.parametrize(
    ("length", "warmup", "better"),
    [({"epochs": 2}, 100, 1), ({"epochs": 20}, 31, 6), ({"epochs": 20}, 30, None),
     ({"epochs": 1}, 1, None), ({"epochs": None, "minutes": 1.0}, 100, None)],
)  # fmt: skip
def test_a_warm_up_of_most_of_the_run(sources, length, warmup, better):
    options = TrainOptions(**length, batch_size=4, warmup_steps=warmup)
    found = list(list_warnings(options, sources, start=TRAINED, spec=tiny_spec()))
    assert len(found) == (better is not None)
    for text in found:
        assert text.startswith(f"{warmup} steps") and text.endswith(f"warmup_steps={better}")


def test_a_start_from_random_weights(sources):
    options = TrainOptions(batch_size=4, warmup_steps=0)
    for spec in SPECS.values():
        [text] = list_warnings(options, sources, start=Start(), spec=spec)
        found = re.search(r"start: random weights; .* --init (\S+), an ImageNet backbone", text)
        assert found
        assert found[1] in IMAGENET_BACKBONES
        assert found[1].startswith(spec.backbone)


def test_pictures_without_a_box_are_counted(shapes):
    dataset = open_dataset(shapes)
    first, second, *rest = dataset.samples
    none = first.of(np.zeros(len(first.boxes), bool))
    crowd = dataclasses.replace(second, crowd=np.ones_like(second.crowd))
    some = dataclasses.replace(dataset, samples=(none, crowd, *rest))
    sources = make_training_sets([(some, 1.0), (dataset, 1.0)], TINY_LABELS)
    options = TrainOptions(epochs=20, batch_size=4, warmup_steps=0)
    [text] = list_warnings(options, sources, start=TRAINED, spec=tiny_spec())
    assert text.startswith(f"{dataset.name}: 2 of 12 pictures have no box")


@pytest.mark.parametrize(
    ("spec", "changes", "facts"),
    [
        ("ssd300-resnet34", {}, ("5 of its 6", "small_size=257")),
        ("ssd300-resnet34", {"small_share": 0.6}, ("5 of its 6", "60%")),
        ("ssd1200-resnet34", {"small_size": 384}, ("5 of its 6", "small_size=385")),
        ("ssd300-resnet34", {"small_size": None}, None),
        ("ssd300-resnet34", {"small_share": 0.0}, None),
        ("ssd300-resnet34", {"small_size": 257}, None),
    ],
)
def test_levels_that_vanish_at_the_small_size_are_told_of(spec, changes, facts):
    small = TrainOptions(small_size=200, small_share=1.0)
    told = find_untrained_levels(named_spec(spec), dataclasses.replace(small, **changes))
    assert (told is None) == (facts is None)
    assert all(fact in (told or "") for fact in facts or ())
