import dataclasses
import re

import numpy as np
import pytest

from ssd34.core.spec import SPECS
from ssd34.datasets.open import open_dataset
from ssd34.network.start import Start
from ssd34.train.examples.training_set import training_sets
from ssd34.train.settings.options import TrainOptions
from ssd34.workflows.train_warnings import warnings_of
from ssd34.zoo.catalogue import IMAGENET_BACKBONES
from tests.conftest import TINY_LABELS, tiny_spec

TRAINED = Start("backbone", backbone={})


@pytest.fixture(scope="module")
def sources(shapes):
    """12 pictures."""
    return training_sets([(open_dataset(shapes), 1.0)], TINY_LABELS)


@pytest.mark.parametrize(
    ("length", "warmup", "expected"),
    [
        (
            {"epochs": 2},
            100,
            "100 steps of warm-up in a run of 6 steps: .* or --set warmup_steps=1$",
        ),
        (
            {"epochs": 20},
            31,
            "31 steps of warm-up in a run of 60 steps: .* or --set warmup_steps=6$",
        ),
        ({"epochs": 20}, 30, None),
        ({"epochs": 1}, 1, None),
        ({"epochs": None, "minutes": 1.0}, 100, None),
    ],
)
def test_a_warm_up_of_most_of_the_run(sources, length, warmup, expected):
    options = TrainOptions(**length, batch_size=4, warmup_steps=warmup)
    found = list(warnings_of(options, sources, start=TRAINED, spec=tiny_spec()))
    if expected is None:
        assert found == []
    else:
        [text] = found
        assert re.search(expected, text)


def test_a_start_from_random_weights(sources):
    options = TrainOptions(batch_size=4, warmup_steps=0)
    for spec in SPECS.values():
        [text] = warnings_of(options, sources, start=Start(), spec=spec)
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
    sources = training_sets([(some, 1.0), (dataset, 1.0)], TINY_LABELS)
    options = TrainOptions(epochs=20, batch_size=4, warmup_steps=0)
    [text] = warnings_of(options, sources, start=TRAINED, spec=tiny_spec())
    assert text.startswith(f"{dataset.name}: 2 of 12 pictures have no box")
