"""Pictures of rare classes are drawn more often."""

import numpy as np
import pytest

from ssd34.datasets.open import open_dataset
from ssd34.train.examples.example import make_training_sets, weigh_pictures
from tests.conftest import TINY_LABELS
from tests.support.training import loader_of


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
